//! Models that say something of their own, and servers that tell it as vLLM does: from the start, or from a beginning
//! that they are given.
//!
//! Each name of a model has one text in a call, whoever is asked for it. So it is known what a client may read,
//! however often its stream breaks: the beginning of one of these, and nothing else. Only a server that has `second`
//! thoughts says another text; then what it was asked and what it said decide.

use super::{
    answers::{Asked, Part, Piece},
    choices::Dice,
};
use crate::{
    engine::Break,
    script::*,
    wanted::{HUSH, Wanted},
};
use fairlead_core::message::Request;
use serde_json::{Value, json};
use std::fmt;

/// What the models of a call say, and what its client wants of it.
#[derive(Clone)]
pub struct Speech {
    tokens: Vec<&'static str>,
    thoughts: Vec<&'static str>,
    /// Behind so many tokens `served`, `other` and second thoughts go on differently, if they do.
    departs: [Option<usize>; 3],
    limit: Option<usize>,
    stop: Option<String>,
    usage: bool,
    continuous: bool,
}

/// Tokens; those of a line often follow each other.
const PHRASES: &[&[&str]] = &[
    &["A", " fairlead", " guides"],
    &[".", "\n\n"],
    &[" a", " \"line\""],
    &[" ", " ", "\t"],
    &[" 🦀", "é", "e\u{301}"],
    &["\n", "data: [DONE]", "\n\n"],
    &["\\", "\u{1d}", "\u{a0}"],
    &["{\"error\":{}}", "..."],
];

/// One way to tell an answer.
#[derive(Clone)]
pub struct Telling {
    /// It tells another text than everybody else does.
    second: bool,
    pieces: Pieces,
    /// It breaks behind so many events, perhaps in the middle of the next.
    breaks: Option<(usize, Break, bool)>,
    before_ms: u64,
    every_ms: u64,
    /// All comes as one chunk.
    at_once: bool,
    /// The last token says that it is the last.
    ends_with_token: bool,
    /// Its role comes with the first token.
    begins_with_token: bool,
    /// It shows what may be the beginning of a stop string.
    hasty: bool,
    /// It goes on from no beginning, and says so with this status.
    refuses: Option<u16>,
    /// Its template keeps white space at the end of a beginning.
    keeps_white_space: bool,
    counts: Counts,
}

/// What an event holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    Tokens(usize),
    Letters(usize),
}

/// What comes of the question how many tokens a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counts {
    Right,
    After(u64),
    Refused,
    Broken,
    Never,
    Nonsense,
}

impl Speech {
    pub fn draw(dice: &mut Dice) -> Self {
        let phrases = dice.some(6, |dice| dice.pick(PHRASES));
        let tokens = [&["Well", ","][..]].into_iter().chain(phrases).flatten().copied().collect::<Vec<_>>();
        // Behind that nothing is continued.
        let tokens = if dice.one_in(12) { [&tokens[..], &["</think>", "Yes"]].concat() } else { tokens };
        let thoughts = if dice.one_in(10) { vec!["Hm", ". ", "So"] } else { Vec::new() };
        let departs = |dice: &mut Dice| if dice.one_in(2) { Some(dice.index(tokens.len() + 1)) } else { None };
        let departs = [departs(dice), departs(dice), Some(dice.index(tokens.len() + 1))];
        let limit = if dice.one_in(4) { Some(1 + dice.index(12)) } else { None };
        // Some tokens of the text itself, or nothing that comes.
        let stop = match dice.up_to(6) {
            6 => {
                let start = 1 + dice.index(tokens.len() - 1);
                let end = tokens.len().min(start + 1 + dice.index(4));
                Some(tokens[start..end].concat())
            }
            5 => Some("never".to_owned()),
            _ => None,
        };
        Self { tokens, thoughts, departs, limit, stop, usage: dice.one_in(2), continuous: dice.one_in(4) }
    }

    /// The request for it.
    pub fn wanted(&self, asked: Asked) -> Wanted {
        let mut wanted = asked.wanted();
        if asked.streams() && self.usage {
            let options = json!({ "include_usage": true, "continuous_usage_stats": self.continuous });
            wanted = wanted.with("stream_options", options);
        }
        if let Some(limit) = self.limit {
            wanted = wanted.with("max_tokens", limit);
        }
        if let Some(stop) = &self.stop {
            wanted = wanted.with("stop", json!([stop]));
        }
        wanted
    }

    /// The tokens of what a model says.
    fn tokens(&self, model: &str, second: bool) -> Vec<&'static str> {
        let departs = |place: usize, word| self.departs[place].map(|behind| (behind, word));
        let departure = match model {
            _ if second => departs(2, " again"),
            "served" => departs(0, " sideways"),
            "other" => departs(1, " elsewhere"),
            _ => None,
        };
        let Some((behind, word)) = departure else { return self.tokens.clone() };
        let (same, rest) = self.tokens.split_at(behind);
        [same, &[word], rest].concat()
    }

    /// All that a model says, with whatever the client wants it to stop before.
    pub fn text(&self, model: &str) -> String {
        self.tokens(model, false).concat()
    }

    /// What a client does not want to read.
    pub fn stop(&self) -> Option<&str> {
        self.stop.as_deref()
    }

    pub fn until_stop<'a>(&self, text: &'a str) -> &'a str {
        let end = self.stop.as_ref().and_then(|stop| text.find(stop));
        &text[..end.unwrap_or(text.len())]
    }

    /// How many tokens the beginning of what some model says is.
    pub fn count(&self, text: &str) -> usize {
        let texts = ["m", "served", "other"].map(|model| self.tokens(model, false));
        texts.iter().find(|tokens| tokens.concat().starts_with(text)).map_or(0, |tokens| count(tokens, text))
    }

    /// How many tokens the client wants at the most.
    pub const fn limit(&self) -> Option<usize> {
        self.limit
    }

    /// Whether the client wants to know how many tokens there were.
    pub const fn tells_usage(&self) -> bool {
        self.usage
    }

    /// The same as a job's worker tells it, event by event.
    pub fn parts(&self, asked: Asked, model: &str) -> Vec<Part> {
        let body: Value = serde_json::from_slice(&self.wanted(asked).bytes()).expect("JSON");
        let answer = Answer::of(self, &Telling::plain(), model, &body);
        let mut parts: Vec<Part> = Vec::new();
        for (place, event) in answer.events("d-1").into_iter().enumerate() {
            let piece = if place == 0 { Piece::Other } else { Piece::Content };
            parts.push(Part::new(piece, event.into_bytes()));
        }
        parts
    }
}

/// How many tokens the beginning of a text is, a token that is not whole being one.
fn count(tokens: &[&str], beginning: &str) -> usize {
    let starts = tokens.iter().scan(0, |length, token| Some(std::mem::replace(length, *length + token.len())));
    starts.take_while(|start| *start < beginning.len()).count()
}

impl Telling {
    const fn plain() -> Self {
        Self {
            second: false,
            pieces: Pieces::Tokens(1),
            breaks: None,
            before_ms: 0,
            every_ms: 0,
            at_once: false,
            ends_with_token: false,
            begins_with_token: false,
            hasty: false,
            refuses: None,
            keeps_white_space: false,
            counts: Counts::Right,
        }
    }

    pub fn draw(dice: &mut Dice) -> Self {
        let breaks =
            if dice.up_to(3) == 0 { None } else { Some((dice.index(9), dice.pick(&Break::ALL), dice.one_in(3))) };
        let pieces = match dice.up_to(3) {
            0 | 1 => Pieces::Tokens(1 + dice.index(3)),
            2 => Pieces::Letters(1 + dice.index(6)),
            _ => Pieces::Tokens(100),
        };
        let rights = [Counts::Right; 5];
        let others = [
            Counts::After(1500),
            Counts::After(2500),
            Counts::Refused,
            Counts::Broken,
            Counts::Never,
            Counts::Nonsense,
        ];
        Self {
            second: dice.one_in(8),
            pieces,
            breaks,
            before_ms: if dice.one_in(3) { dice.ms() } else { 0 },
            every_ms: if dice.one_in(3) { dice.ms().min(3000) } else { 0 },
            at_once: dice.one_in(6),
            ends_with_token: dice.one_in(4),
            begins_with_token: dice.one_in(4),
            hasty: dice.one_in(3),
            refuses: if dice.one_in(8) { Some(dice.pick(&[400, 422, 404])) } else { None },
            keeps_white_space: dice.one_in(3),
            counts: dice.pick(&[&rights[..], &others].concat()),
        }
    }

    /// Whether it says what everybody says.
    pub const fn is_faithful(&self) -> bool {
        !self.second
    }

    /// What comes of a request. `name` is the answer's own.
    pub fn answer(&self, speech: &Speech, name: &str, request: &Request) -> Script {
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        let model = body["model"].as_str().expect("a model").to_owned();
        if request.url.ends_with("/tokenize") {
            assert_eq!(body["add_special_tokens"], false);
            return self.count(&speech.tokens(&model, self.second), body["prompt"].as_str().expect("a text"));
        }
        let continues = body["continue_final_message"] == true;
        if continues {
            assert_eq!(body["add_generation_prompt"], false, "vLLM refuses both");
        }
        if let Some(status) = self.refuses.filter(|_| continues) {
            return answers(status, NONE, r#"{"error":{"message":"no","type":"BadRequestError","param":null}}"#);
        }
        let answer = Answer::of(speech, self, &model, &body);
        let begins = if self.before_ms > 0 { wait(self.before_ms) } else { Script::new() };
        if body["stream"] != true {
            let mut whole = answers(200, NONE, answer.whole(name));
            if let Some((_, how, _)) = self.breaks.filter(|(behind, ..)| *behind < 6) {
                whole.truncate(1);
                whole.extend(if how == Break::Stall { Script::new() } else { reset() });
            }
            return [begins, whole].concat();
        }
        let mut events = answer.events(name);
        let mut last = end();
        if let Some((behind, how, inside)) = self.breaks.filter(|(behind, ..)| *behind < events.len()) {
            let half = events[behind].len() / 2;
            let half = (0..=half).rev().find(|place| events[behind].is_char_boundary(*place)).unwrap_or_default();
            events[behind].truncate(if inside && !matches!(how, Break::Error | Break::Abort) { half } else { 0 });
            events.truncate(behind + 1);
            last = how.script();
        }
        let chunks: Script = if self.at_once {
            raw(events.concat())
        } else {
            let pause = || if self.every_ms > 0 { wait(self.every_ms) } else { Script::new() };
            let events = events.iter().filter(|event| !event.is_empty());
            events.flat_map(|event| [pause(), raw(event)].concat()).collect()
        };
        [begins, opened(), chunks, last].concat()
    }

    fn count(&self, tokens: &[&str], beginning: &str) -> Script {
        let count = count(tokens, beginning);
        let told = json!({ "count": count, "max_model_len": 1024, "tokens": [], "token_strs": null }).to_string();
        match self.counts {
            Counts::Right => answers(200, NONE, told),
            Counts::After(ms) => [wait(ms), answers(200, NONE, told)].concat(),
            Counts::Refused => answers(404, NONE, r#"{"detail":"Not Found"}"#),
            Counts::Broken => reset(),
            Counts::Never => Script::new(),
            Counts::Nonsense => answers(200, NONE, "[]"),
        }
    }
}

/// What is told once.
struct Answer {
    chat: bool,
    thoughts: Vec<&'static str>,
    /// What each event says, and how many tokens have come with it.
    pieces: Vec<(String, usize)>,
    finish: &'static str,
    ends_with_token: bool,
    begins_with_token: bool,
    prompt: usize,
    completion: usize,
    usage: bool,
    continuous: bool,
}

impl Answer {
    fn of(speech: &Speech, telling: &Telling, model: &str, body: &Value) -> Self {
        let (chat, begun) = match (asked_beginning(body), body["messages"].is_array()) {
            (Some(begun), true) if !telling.keeps_white_space => (true, begun.trim_end().to_owned()),
            (begun, chat) => (chat, begun.unwrap_or_default()),
        };
        let tokens = speech.tokens(model, telling.second);
        let text = tokens.concat();
        let rest = match text.strip_prefix(&*begun) {
            Some(rest) => rest.to_owned(),
            None => format!(" (not behind these {} bytes)", begun.len()),
        };
        let wanted = speech.until_stop(&rest);
        let thoughts = if begun.is_empty() && chat { speech.thoughts.clone() } else { Vec::new() };
        // Token by token, of which the first may be the rest of one; what is not its own text is one.
        let (from, mut to) = (begun.len(), begun.len() + wanted.len());
        if let Some(stop) = speech.stop.as_ref().filter(|_| telling.hasty && wanted.len() < rest.len()) {
            // Up to the token that makes it one.
            let ends = tokens.iter().scan(0, |end, token| {
                *end += token.len();
                Some(*end)
            });
            to = ends.filter(|end| *end < to + stop.len()).max().unwrap_or(to).max(to);
        }
        let spans = tokens.iter().scan(0, |end, token| {
            let start = std::mem::replace(end, *end + token.len());
            Some(start.max(from)..(*end).min(to))
        });
        let mut own: Vec<&str> = match text.starts_with(&*begun) {
            true => spans.filter(|span| !span.is_empty()).map(|span| &text[span]).collect(),
            false => vec![wanted],
        };
        let limit = [&body["max_completion_tokens"], &body["max_tokens"]].into_iter().find_map(Value::as_u64);
        assert_ne!(limit, Some(0), "vLLM refuses that");
        let limit = limit.map(|limit| (limit as usize).saturating_sub(thoughts.len()));
        let limit = limit.filter(|limit| *limit <= own.len());
        own.truncate(limit.unwrap_or(usize::MAX));
        let finish = if limit.is_some() { "length" } else { "stop" };
        let options = &body["stream_options"];
        Self {
            chat,
            pieces: pieces(&own, telling.pieces),
            finish,
            ends_with_token: telling.ends_with_token,
            begins_with_token: telling.begins_with_token,
            prompt: 7 + count(&tokens, &begun),
            completion: thoughts.len() + own.len() + usize::from(limit.is_none()),
            thoughts,
            usage: options["include_usage"] == true,
            continuous: options["continuous_usage_stats"] == true,
        }
    }

    /// Its events, to `[DONE]`.
    fn events(&self, name: &str) -> Vec<String> {
        let object = if self.chat { "chat.completion.chunk" } else { "text_completion" };
        let usage = |completion: usize| {
            let total = self.prompt + completion;
            json!({ "prompt_tokens": self.prompt, "total_tokens": total, "completion_tokens": completion })
        };
        let event = |choices: Value, usage: Option<Value>| {
            let mut event = json!({
                "id": format!("id-{name}"), "object": object, "created": 1_000_000 + name.len(),
                "model": format!("model-{name}"), "choices": choices,
            });
            if let Some(usage) = usage {
                event["usage"] = usage;
            }
            format!("data: {event}\n\n")
        };
        let choice = |delta: Value, text: &str, finish: Option<&str>, tokens: usize| {
            let choice = match self.chat {
                true => {
                    json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish, "token_ids": null })
                }
                false => {
                    json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": finish, "token_ids": null })
                }
            };
            event(json!([choice]), (self.usage && self.continuous).then(|| usage(tokens)))
        };
        let mut events = Vec::new();
        let role_first = !self.begins_with_token || self.pieces.is_empty() || !self.thoughts.is_empty();
        if self.chat {
            if role_first {
                events.push(choice(json!({ "role": "assistant", "content": "" }), "", None, 0));
            }
            for (place, thought) in self.thoughts.iter().enumerate() {
                events.push(choice(json!({ "reasoning": thought }), "", None, place + 1));
            }
        }
        let thoughts = self.thoughts.len();
        let mut ended = false;
        for (place, (text, tokens)) in self.pieces.iter().enumerate() {
            ended = self.ends_with_token && place + 1 == self.pieces.len();
            let finish = Some(self.finish).filter(|_| ended);
            let mut delta = json!({ "content": text });
            if !role_first && place == 0 {
                delta["role"] = "assistant".into();
            }
            events.push(choice(delta, text, finish, thoughts + tokens));
        }
        if !ended {
            events.push(choice(json!({}), "", Some(self.finish), self.completion));
        }
        if self.usage {
            events.push(event(json!([]), Some(usage(self.completion))));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }

    /// The same as an answer that does not stream.
    fn whole(&self, name: &str) -> String {
        let text: String = self.pieces.iter().map(|(text, _)| &**text).collect();
        let mut choice = json!({ "index": 0, "finish_reason": self.finish });
        match self.chat {
            true => choice["message"] = json!({ "role": "assistant", "content": text }),
            false => choice["text"] = text.into(),
        }
        json!({ "id": format!("id-{name}"), "object": "whole", "choices": [choice] }).to_string()
    }
}

/// Tokens in other pieces, each with how many of them have come by then.
fn pieces(tokens: &[&str], pieces: Pieces) -> Vec<(String, usize)> {
    let mut told: Vec<(String, usize)> = Vec::new();
    match pieces {
        Pieces::Tokens(most) => {
            for run in tokens.chunks(most) {
                let before = told.last().map_or(0, |(_, count)| *count);
                told.push((run.concat(), before + run.len()));
            }
        }
        Pieces::Letters(most) => {
            let letters: Vec<char> = tokens.concat().chars().collect();
            let mut length = 0;
            for run in letters.chunks(most) {
                let text: String = run.iter().collect();
                length += text.len();
                let so_far = tokens.concat();
                told.push((text, count(tokens, &so_far[..length])));
            }
        }
    }
    told
}

/// The beginning that a request asks to go on from.
pub fn asked_beginning(body: &Value) -> Option<String> {
    match body["messages"].as_array().and_then(|messages| messages.last()) {
        Some(message) if body["continue_final_message"] == true => {
            assert_eq!(message["role"], "assistant");
            Some(message["content"].as_str().expect("a text").to_owned())
        }
        Some(_) => None,
        // The prompt of all tests.
        None => body["prompt"].as_str()?.strip_prefix(HUSH).filter(|begun| !begun.is_empty()).map(str::to_owned),
    }
}

impl fmt::Display for Speech {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, thoughts, departs, limit, stop, usage, continuous } = self;
        write!(f, "speech {tokens:?}, departures {departs:?}")?;
        if !thoughts.is_empty() {
            write!(f, ", thoughts {thoughts:?}")?;
        }
        write!(f, ", limit {limit:?}, stop {stop:?}, usage {usage}, continuous {continuous}")
    }
}

impl fmt::Display for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { second, pieces, breaks, before_ms, every_ms, .. } = self;
        let Self { at_once, ends_with_token, begins_with_token, hasty, refuses, keeps_white_space, counts, .. } = self;
        write!(
            f,
            "tells {pieces:?}, breaks {breaks:?}, {before_ms} ms before it, {every_ms} ms each, counts {counts:?}"
        )?;
        let flags = [
            (*second, "second thoughts"),
            (*at_once, "at once"),
            (*ends_with_token, "ends with its last token"),
            (*begins_with_token, "begins with its first token"),
            (*hasty, "shows begun stop strings"),
            (*keeps_white_space, "keeps white space"),
        ];
        for (_, name) in flags.into_iter().filter(|(holds, _)| *holds) {
            write!(f, ", {name}")?;
        }
        refuses.map_or(Ok(()), |status| write!(f, ", refuses beginnings with {status}"))
    }
}
