//! The answer that a stream amounts to, for a caller who did not ask for a stream.
//!
//! Chat and completions. What comes out is what vLLM 0.32 answers when it is not asked to stream, and holds the same
//! empty fields. Nothing is understood that need not be: texts, lists and numbers are kept as they stand in the
//! events, escapes and digits included, and fields that nobody knows come along. What is no event of such a stream is
//! passed over, because `stream` judges that.

mod kind;
mod object;

use crate::{
    api::Dialect,
    json::members,
    sse::{BlockTooLong, Decoder},
};
use kind::Kind;
use object::{Object, Part, Room};

/// The largest answer that is put together, in bytes. A Worker has 128 MB, and a text that grows is there twice for a
/// moment.
pub const MAX_ANSWER: usize = 64 << 20;

/// The answer outgrew [`MAX_ANSWER`], or an object in it has more members than any answer's.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

impl From<BlockTooLong> for TooLarge {
    fn from(_: BlockTooLong) -> Self {
        Self
    }
}

/// An answer, growing event by event.
#[derive(Debug)]
pub struct Assembly {
    decoder: Decoder,
    answer: Object,
    room: Room,
}

impl Assembly {
    /// Of a stream of chat or of completions.
    pub fn new(dialect: Dialect) -> Self {
        let kind = if matches!(dialect, Dialect::Chat) { Kind::Chat } else { Kind::Completion };
        Self { decoder: Decoder::default(), answer: Object::new(kind), room: Room(MAX_ANSWER) }
    }

    /// Takes in the next bytes of the stream, wherever they are cut.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        let mut at = 0;
        while let Some(block) = self.decoder.next(bytes, &mut at)? {
            let Some(event) = block.fields() else { continue };
            // `[DONE]` is no object, and so it is passed over like a broken event.
            let Some(members) = std::str::from_utf8(&event.data).ok().and_then(members) else { continue };
            self.answer.merge(&members, &mut self.room)?;
            // A sum that is not known is an answer, too, and a running count from before it would be a wrong one.
            let has = |key, text| members.iter().any(|(name, value)| name == key && value.get() == text);
            if has("choices", "[]") && has("usage", "null") {
                *self.answer.part("usage", &mut self.room)? = Part::nothing();
            }
        }
        Ok(())
    }

    /// The answer as JSON: of all that has come, whole or not.
    pub fn finish(mut self) -> Vec<u8> {
        complete(&mut self.answer);
        let mut json = Vec::new();
        self.answer.write(&mut json);
        json
    }
}

/// Gives the messages of a chat what no event tells.
fn complete(answer: &mut Object) {
    for (key, part) in &mut answer.members {
        match part {
            Part::List(choices) if key == "choices" => choices.iter_mut().for_each(|(_, choice)| complete(choice)),
            Part::Object(message) if key == "message" => complete_message(message),
            _ => {}
        }
    }
}

fn complete_message(message: &mut Object) {
    // Older versions of vLLM call it `reasoning_content`.
    for (key, value) in [("role", "\"assistant\""), ("reasoning", "")] {
        if !message.members.iter().any(|(name, _)| name.starts_with(key)) {
            message.members.push((key.to_owned(), Part::Value(value.to_owned())));
        }
    }
    // The first event brings an empty text in any case. Of a message that has something else to say it is none.
    let says_else = message.members.iter().any(|(key, part)| match part {
        Part::Joined { list: false, inside } => key != "content" && !inside.is_empty(),
        Part::List(calls) => !calls.is_empty(),
        Part::Object(_) => true,
        _ => false,
    });
    for (key, part) in &mut message.members {
        if matches!(part, Part::Joined { list: false, inside } if inside.is_empty()) && (says_else || key != "content")
        {
            *part = Part::nothing();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(dialect: Dialect, events: &[&str]) -> String {
        let mut assembly = Assembly::new(dialect);
        for event in events {
            assembly.push(format!("data: {event}\n\n").as_bytes()).unwrap();
        }
        String::from_utf8(assembly.finish()).unwrap()
    }

    fn member(json: &str, key: &str) -> String {
        let members = members(json).unwrap();
        members.iter().find(|(name, _)| name == key).unwrap().1.get().to_owned()
    }

    /// The message of a chat whose events bring these deltas.
    fn message(deltas: &[&str]) -> String {
        let events: Vec<String> =
            deltas.iter().map(|delta| format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#)).collect();
        let json = assemble(Dialect::Chat, &events.iter().map(String::as_str).collect::<Vec<_>>());
        let choices = member(&json, "choices");
        member(choices.trim_start_matches('[').trim_end_matches(']'), "message")
    }

    #[test]
    fn nothing_at_all_has_the_form_of_an_answer() {
        assert_eq!(
            assemble(Dialect::Chat, &["[DONE]", "{", "[]", "\"x\"", "{\"choices\":[null,7]}"]),
            concat!(
                r#"{"choices":[],"service_tier":null,"system_fingerprint":null,"usage":null,"prompt_logprobs":null,"#,
                r#""prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"#,
                r#""metrics":null}"#
            )
        );
        assert_eq!(
            assemble(Dialect::Completions, &[r#"{"choices":[{}]}"#]),
            concat!(
                r#"{"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":null,"stop_reason":null,"#,
                r#""token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null}],"service_tier":null,"#,
                r#""system_fingerprint":null,"usage":null,"kv_transfer_params":null,"ec_transfer_params":null,"#,
                r#""metrics":null}"#
            )
        );
        assert_eq!(
            message(&["5"]),
            r#"{"role":"assistant","reasoning":null,"content":null,"refusal":null,"annotations":null,"audio":null,"function_call":null}"#
        );
    }

    #[test]
    fn texts_go_on_as_they_stand() {
        let said = message(&[
            r#"{"role":"assistant","content":""}"#,
            r#"{"content":"a\"\u00e9"}"#,
            r#"{"content":null}"#,
            r#"{"content":"\\\ud83e"}"#,
            r#"{"content":"\udd80\n"}"#,
        ]);
        assert_eq!(
            said,
            concat!(
                r#"{"role":"assistant","content":"a\"\u00e9\\\ud83e\udd80\n","reasoning":null,"refusal":null,"#,
                r#""annotations":null,"audio":null,"function_call":null}"#
            )
        );
        assert!(serde_json::from_str::<serde_json::Value>(&said).unwrap()["content"].as_str().unwrap().contains('🦀'));
    }

    #[test]
    fn an_empty_text_beside_something_else_is_none() {
        for (delta, content) in [
            ("{}", "\"\""),
            (r#"{"reasoning":""}"#, "\"\""),
            (r#"{"refusal":""}"#, "\"\""),
            (r#"{"tool_calls":[]}"#, "\"\""),
            (r#"{"reasoning":"r"}"#, "null"),
            (r#"{"reasoning_content":"r"}"#, "null"),
            (r#"{"refusal":"no"}"#, "null"),
            (r#"{"tool_calls":[{"index":0,"id":"a"}]}"#, "null"),
            (r#"{"function_call":{"name":"f"}}"#, "null"),
            (r#"{"content":"x","reasoning":"r"}"#, "\"x\""),
        ] {
            let said = message(&[r#"{"content":""}"#, delta]);
            assert_eq!(member(&said, "content"), content, "{delta}: {said}");
        }
    }

    #[test]
    fn reasoning_keeps_its_name() {
        for (delta, name, text) in [
            (r#"{"reasoning":"r"}"#, "reasoning", "\"r\""),
            (r#"{"reasoning_content":"r"}"#, "reasoning_content", "\"r\""),
            (r#"{"reasoning_content":null}"#, "reasoning_content", "null"),
            (r#"{"reasoning_content":""}"#, "reasoning_content", "null"),
            ("{}", "reasoning", "null"),
        ] {
            let said = message(&[delta]);
            assert_eq!((member(&said, name), said.matches("reasoning").count()), (text.to_owned(), 1), "{delta}");
        }
    }

    #[test]
    fn calls_of_tools_are_told_apart_by_their_index() {
        let said = message(&[
            r#"{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{"}},{"index":0,"id":"a","function":{"name":"f"}}]}"#,
            r#"{"tool_calls":[{"index":0,"id":"","type":"function","function":{"name":"","arguments":"[1"}}]}"#,
            r#"{"tool_calls":[{"index":1,"id":null,"function":{"arguments":"}"}},{"index":0,"function":{"arguments":"]"},"x":1}]}"#,
            r#"{"tool_calls":null}"#,
        ]);
        assert_eq!(
            member(&said, "tool_calls"),
            concat!(
                r#"[{"id":"a","function":{"name":"f","arguments":"[1]"},"type":"function","x":1},"#,
                r#"{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]"#
            )
        );
    }

    #[test]
    fn what_is_not_known_is_kept() {
        let json = assemble(
            Dialect::Chat,
            &[
                r#"{"id":"a","x":1.50,"z":{"q":1},"fairlead":{"truncated":"deadline"},"choices":[{"index":0,"y":"1","delta":{"t":"1","l":[1],"n":12345678901234567890123,"o":{"a":1}}}]}"#,
                r#"{"id":"a","x":2E+9,"z":null,"é\"":[],"choices":[{"index":0,"y":"2","delta":{"t":"2","l":[ ],"n":0.10,"o":{"b":[2]}}}]}"#,
                r#"{"id":"a","choices":[{"index":0,"delta":{"l":[ 2 , "3"]}}]}"#,
            ],
        );
        for kept in [
            r#""x":2E+9,"#,
            r#""z":{"q":1},"#,
            r#""fairlead":{"truncated":"deadline"}"#,
            r#""é\"":[]"#,
            r#""y":"2""#,
            r#""t":"12""#,
            r#""l":[1,2 , "3"]"#,
            r#""n":0.10,"#,
            r#""o":{"b":[2]},"#,
        ] {
            assert!(json.contains(kept), "{kept}: {json}");
        }
    }

    #[test]
    fn the_last_of_two_counts() {
        let said = message(&[r#"{"content":"a","content":"b"}"#, r#"{"content":"c","content":null}"#]);
        assert!(said.contains(r#""content":"b""#), "{said}");
        let json = assemble(Dialect::Chat, &[r#"{"id":"a","id":"b","choices":[],"choices":[{"index":5,"index":3}]}"#]);
        assert!(json.starts_with(r#"{"id":"b","#) && json.contains(r#""choices":[{"index":3,"#), "{json}");
    }

    #[test]
    fn counts_that_are_not_known_at_the_end_are_not_known() {
        let usage = |events: &[&str]| member(&assemble(Dialect::Chat, events), "usage");
        let running = r#"{"choices":[{}],"usage":{"prompt_tokens":1}}"#;
        let details = r#""prompt_tokens_details":null,"completion_tokens_details":null"#;
        assert_eq!(usage(&[running]), format!(r#"{{"prompt_tokens":1,{details}}}"#));
        assert_eq!(usage(&[running, r#"{"choices":[{}],"usage":null}"#]), usage(&[running]));
        assert_eq!(usage(&[running, r#"{"choices":[],"usage":null}"#]), "null");
        let told = r#"{"completion_tokens_details":{"reasoning_tokens":2},"prompt_tokens_details":null}"#;
        assert_eq!(usage(&[&format!(r#"{{"choices":[],"usage":{told}}}"#)]), told);
        for odd in ["\"?\"", "5", "[1]"] {
            assert_eq!(usage(&[&format!(r#"{{"usage":{odd}}}"#)]), odd);
        }
    }

    #[test]
    fn any_index_is_a_choice_and_takes_the_room_of_one() {
        let json = assemble(
            Dialect::Completions,
            &[
                r#"{"choices":[{"index":4294967295,"text":"a"},{"index":18446744073709551615,"text":"c"}]}"#,
                r#"{"choices":[{"index":2,"text":"b"},{"index":4294967295,"text":"a"}]}"#,
            ],
        );
        let found: Vec<&str> = json.split(r#"{"index":"#).skip(1).collect();
        let starts = [r#"2,"text":"b""#, r#"4294967295,"text":"aa""#, r#"18446744073709551615,"text":"c""#];
        assert_eq!(found.len(), 3);
        assert!(found.iter().zip(starts).all(|(found, start)| found.starts_with(start)), "{json}");
    }

    #[test]
    fn members_that_change_their_kind_do_no_harm() {
        let said = message(&[
            r#"{"content":"a","tool_calls":"x","audio":5,"function_call":[1]}"#,
            r#"{"content":[{"type":"text"}],"tool_calls":[{"function":7}],"audio":{"id":"a","data":"x"},"function_call":{"arguments":"y"}}"#,
            r#"{"content":"","tool_calls":[{"function":{"name":"f"}}],"audio":{"id":"a","data":"z","expires_at":1}}"#,
        ]);
        assert_eq!(
            said,
            concat!(
                r#"{"content":[{"type":"text"}],"tool_calls":[{"function":{"name":"f","arguments":""}}],"#,
                r#""audio":{"id":"a","data":"xz","expires_at":1},"function_call":{"arguments":"y"},"role":"assistant","#,
                r#""reasoning":null,"refusal":null,"annotations":null}"#
            )
        );
    }

    #[test]
    fn an_answer_is_bounded_however_it_grows() {
        let grows = |event: &dyn Fn(usize) -> String| {
            let mut assembly = Assembly::new(Dialect::Chat);
            let mut bytes = 0;
            (0..).find_map(|count| {
                let event = format!("data: {}\n\n", event(count));
                bytes += event.len();
                assert!(bytes < 2 * MAX_ANSWER);
                assembly.push(event.as_bytes()).err().map(|_| bytes)
            })
        };
        let text = "x".repeat(1 << 20);
        let all = grows(&|_| format!(r#"{{"choices":[{{"delta":{{"content":"{text}"}}}}]}}"#));
        assert!(all.is_some_and(|all| all > MAX_ANSWER), "{all:?}");
        let many: String = (1..1000).map(|at| format!(r#"{{"index":{at}0000}},"#)).collect();
        let choices =
            grows(&|count| format!(r#"{{"choices":[{}{{}}]}}"#, many.replace("0000}", &format!("{count:04}}}"))));
        assert!(choices.is_some_and(|bytes| bytes < MAX_ANSWER / 16), "{choices:?}");
        let names = grows(&|count| format!(r#"{{"x{count}":0}}"#));
        assert!(names.is_some_and(|bytes| bytes < 10_000), "{names:?}");
        assert_eq!(Assembly::new(Dialect::Chat).push(&vec![b'x'; MAX_ANSWER]), Err(TooLarge));
    }

    #[test]
    fn a_value_that_comes_with_every_event_is_kept_once() {
        let mut assembly = Assembly::new(Dialect::Chat);
        let event = format!("data: {{\"x\":\"{}\",\"choices\":[]}}\n\n", "x".repeat(1 << 20));
        for _ in 0..100 {
            assert_eq!(assembly.push(event.as_bytes()), Ok(()));
        }
    }
}
