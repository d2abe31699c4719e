//! Addresses in a request that would make its endpoint fetch them, from inside its own network.
//!
//! vLLM fetches what stands in `image_url`, `audio_url` and `video_url` (a string, or an object with a `url`; with or
//! without a `type` beside it), in `input_image` and `file_url` of the Responses API and in `source` of the Messages
//! API, on every route that takes messages: also to count tokens, to embed and to rank. So this goes by the names of
//! members wherever they stand, not by the shape of a request, which changes with each version: what is called `…url`
//! must be a `data:` URL, and what may be called otherwise must not look like an address.
//!
//! One pass over text that is known to be JSON, without recursion and without looking back: whoever nests a million
//! lists costs what their bytes cost. A member that is there twice is looked at twice.

use crate::{api::Api, json::Text};
use std::borrow::Cow;

/// The first field of a request under which something else than a `data:` URL would be fetched.
pub(crate) fn address(api: Api, json: &str) -> Option<String> {
    let mut walk = Walk { api, rest: json, stack: Vec::new(), field: Cow::Borrowed(""), found: None };
    walk.run();
    walk.found
}

/// What a member's name says about its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    /// Nothing.
    Other,
    /// It is an address.
    Address,
    /// It may be one, or the thing itself.
    Media,
    /// It goes to nobody who would fetch it, or as text: what an application has noted, a tool's arguments, notes on
    /// an answer.
    Exempt,
    /// The arguments of a tool, if `tool_use` stands beside it; Python's SDK writes that behind them.
    Input,
    /// The kind of what it stands in.
    Kind,
}

struct Level {
    is_object: bool,
    /// Of the member at hand; a list's items have that of the list.
    name: Name,
    /// It stands in what is exempt.
    exempt: bool,
    /// It stands in an `input` that may be a tool's.
    in_input: bool,
    /// An address stands in it, which that `input` has to answer for.
    has_address: bool,
    /// An address stands in its own `input`.
    doubtful: bool,
    is_tool_use: bool,
}

impl Level {
    /// What opens within the member at hand; within nothing, the request itself.
    fn within(outer: Option<&Self>, is_object: bool) -> Self {
        let is_in = |name| outer.is_some_and(|outer| outer.is_object && outer.name == name);
        Self {
            is_object,
            name: outer.map_or(Name::Other, |outer| outer.name),
            exempt: is_in(Name::Exempt) || outer.is_some_and(|outer| outer.exempt),
            in_input: is_in(Name::Input) || outer.is_some_and(|outer| outer.in_input),
            has_address: false,
            doubtful: false,
            is_tool_use: false,
        }
    }
}

/// Deeper than any server reads: Python's own parser ends at a thousand levels, vLLM's at two hundred.
const MOST_LEVELS: usize = 10_000;

struct Walk<'a> {
    api: Api,
    rest: &'a str,
    stack: Vec<Level>,
    /// The member of the outermost object at hand.
    field: Cow<'a, str>,
    found: Option<String>,
}

impl<'a> Walk<'a> {
    fn run(&mut self) {
        // What stands between is white space, numbers, words, colons and commas.
        while let Some(at) = self.rest.find(['{', '[', '}', ']', '"']).filter(|_| self.found.is_none()) {
            let (_, rest) = self.rest.split_at_checked(at).unwrap_or_default();
            self.rest = rest.get(1..).unwrap_or_default();
            match rest.bytes().next() {
                Some(b'"') => {
                    let text = self.string(rest);
                    let is_name = self.rest.trim_start_matches(BLANK).starts_with(':');
                    if is_name { self.on_name(text) } else { self.on_text(&text) }
                }
                Some(b'{' | b'[') if self.stack.len() >= MOST_LEVELS => self.find(),
                Some(open @ (b'{' | b'[')) => self.stack.push(Level::within(self.stack.last(), open == b'{')),
                _ => {
                    let answers = |level: Level| level.has_address || level.doubtful && !level.is_tool_use;
                    if self.stack.pop().is_some_and(answers) {
                        self.on_address();
                    }
                }
            }
        }
    }

    /// The string at the beginning of `text`; what is behind it is left.
    fn string(&mut self, text: &'a str) -> Cow<'a, str> {
        let mut escaped = false;
        let end = self.rest.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let end = end.unwrap_or(self.rest.len());
        let inside = self.rest.get(..end).unwrap_or_default();
        self.rest = self.rest.get(end.saturating_add(1)..).unwrap_or_default();
        if !inside.contains('\\') {
            return Cow::Borrowed(inside);
        }
        let quoted = text.get(..end.saturating_add(2)).unwrap_or_default();
        // Half a character is no part of a name that counts, nor of a `data:` URL.
        serde_json::from_str::<Text>(quoted).map_or(Cow::Borrowed("\u{fffd}"), |Text(text)| text)
    }

    fn on_name(&mut self, text: Cow<'a, str>) {
        let name = name_of(&text);
        let depth = self.stack.len();
        let Some(level) = self.stack.last_mut() else { return };
        level.name = match name {
            // What a handler makes of its job's input nobody knows; and notes of an application stand at the top.
            Name::Exempt if self.api == Api::Job || &*text == "metadata" && depth > 1 => Name::Other,
            // Only there, and never that of the request itself.
            Name::Input if self.api != Api::Messages || depth == 1 => Name::Other,
            name => name,
        };
        if depth == 1 {
            self.field = text;
        }
    }

    fn on_text(&mut self, text: &str) {
        let Some(level) = self.stack.last_mut() else { return };
        let is_address = match level.name {
            Name::Address => !is_data(text),
            Name::Media => looks_like_address(text),
            Name::Kind => {
                level.is_tool_use = text == "tool_use";
                false
            }
            Name::Other | Name::Exempt | Name::Input => false,
        };
        if is_address && !level.exempt {
            self.on_address();
        }
    }

    /// What stands in the member at hand is an address, unless it turns out to be a tool's.
    fn on_address(&mut self) {
        match self.stack.last_mut() {
            Some(level) if level.is_object && level.name == Name::Input => level.doubtful = true,
            Some(level) if level.in_input => level.has_address = true,
            _ => self.find(),
        }
    }

    fn find(&mut self) {
        self.found = Some(self.field.chars().take(40).filter(|c| !c.is_control()).collect());
    }
}

/// JSON's white space.
const BLANK: [char; 4] = [' ', '\t', '\n', '\r'];

fn name_of(text: &str) -> Name {
    let ends_with = |word: &str| {
        let start = text.len().checked_sub(word.len());
        start.and_then(|start| text.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(word))
    };
    match text {
        _ if ["url", "urls", "uri", "uris"].into_iter().any(ends_with) => Name::Address,
        "metadata" | "arguments" | "annotations" => Name::Exempt,
        "input" => Name::Input,
        "type" => Name::Kind,
        _ if MEDIA.into_iter().any(ends_with) => Name::Media,
        _ => Name::Other,
    }
}

/// Names, or their ends, under which handlers take files.
const MEDIA: [&str; 12] =
    ["audio", "audios", "data", "document", "file", "files", "image", "images", "path", "source", "video", "videos"];

fn is_data(text: &str) -> bool {
    text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

/// Whether somebody might take it for an address: base64 has no colon. Python's clients skip what is blank before one.
fn looks_like_address(text: &str) -> bool {
    let text = text.trim_start_matches(|letter: char| letter.is_whitespace() || letter.is_control());
    !is_data(text) && text.get(..64).unwrap_or(text).contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> Option<String> {
        address(Api::Chat, json)
    }

    fn part(part: &str) -> String {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"Hi"}},{part}]}}]}}"#)
    }

    #[test]
    fn addresses_are_found_in_every_form_that_is_fetched() {
        for bad in [
            r#"{"type":"image_url","image_url":{"url":"https://10.0.0.1/x"}}"#,
            r#"{"type":"image_url","image_url":"https://10.0.0.1/x"}"#,
            r#"{"image_url":"http://x"}"#,
            r#"{"type":"video_url","video_url":{"detail":"a\"b","url":"HTTP://x"}}"#,
            r#"{"type":"audio_url","audio_url":{"url":"file:///etc/passwd"}}"#,
            r#"{"type":"input_image","image_url":"ftp://x"}"#,
            r#"{"type":"input_file","file_url":"https://x"}"#,
            r#"{"type":"image","source":{"type":"url","url":"https://x"}}"#,
            r#"{"type":"image","source":"https://x"}"#,
            r#"{"type":"input_audio","input_audio":{"data":"https://x","format":"wav"}}"#,
            // Escapes, blanks, lists, the case of names and schemes.
            r#"{"image\u005furl":"\u0068ttps://x"}"#,
            r#"{"image_url" : { "url"  :"http://x"}}"#,
            r#"{"IMAGE_URL":["data:,","http://x"]}"#,
            r#"{"image_url":" data:,"}"#,
            r#"{"image_url":"\ud800"}"#,
            r#"{"image_url":"//x"}"#,
            r#"{"image_url":"x"}"#,
            // One behind another of its name, before or behind.
            r#"{"image_url":"data:,","image_url":"http://x"}"#,
            r#"{"image_url":"http://x","image_url":"data:,"}"#,
            r#"{"url":{"url":[{"x":[[{"url":"http://x"}]]}]}}"#,
            r#"{"type":"tool_use","input":{"url":"http://x"}}"#,
        ] {
            assert_eq!(found(&part(bad)).as_deref(), Some("messages"), "{bad}");
        }
        let deep = format!("{{\"input\":{}{{\"url\":\"http://x\"}}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(found(&deep).as_deref(), Some("input"));
        let blank = format!(r#"{{"type":"image","source":"{}https://x"}}"#, " \\n\\u001f".repeat(40));
        assert_eq!(found(&part(&blank)).as_deref(), Some("messages"));
        assert_eq!(found(r#"{"a":"{\"","b":{"file_url":"http://x"}}"#).as_deref(), Some("b"));
        assert_eq!(
            found(r#"{"metadata":{"url":"http://x"},"x":{"metadata":{"url":"http://x"}}}"#).as_deref(),
            Some("x")
        );
    }

    #[test]
    fn data_urls_and_what_nobody_fetches_are_let_through() {
        for good in [
            r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"low"}}"#,
            r#"{"type":"image_url","image_url":{"url":"DATA:image/png;base64,AAAA"}}"#,
            r#"{"type":"image_url","image_url":null}"#,
            r#"{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}}"#,
            r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}"#,
            r#"{"type":"text","text":"Look at https://example.com, \"url\": \"http://x\""}"#,
            r#"{"type":"text","text":"\"image_url\":\"http://x\""}"#,
            r#"{"type":"output_text","text":"x","annotations":[{"type":"url_citation","url":"https://x"}]}"#,
            r#"{"function":{"name":"open","arguments":{"url":"https://x"}}}"#,
            r#"{"text":"half a character \ud83e"}"#,
        ] {
            assert_eq!(found(&part(good)), None, "{good}");
        }
        let tools = r#"{"tools":[{"function":{"parameters":{"properties":{"url":{"type":"string"}}}}}],"metadata":{"page_url":"https://x"}}"#;
        assert_eq!(found(tools), None);
        assert!(address(Api::Job, tools).is_some());
        assert_eq!(found(r#"{"prompt":"https://example.com","input":["https://example.com"]}"#), None);
    }

    #[test]
    fn what_is_nested_costs_what_its_bytes_cost() {
        let nested = |inside: &str| format!("{{\"x\":{}{inside}{}}}", "[".repeat(9_000), "]".repeat(9_000));
        // Looking back at each level for each of these would take billions of steps.
        assert_eq!(address(Api::Messages, &nested(&"\"\",".repeat(500_000))), None);
        let tool = "{\"input\":[{\"url\":\"x\"}],\"type\":\"tool_use\"},".repeat(20_000);
        assert_eq!(address(Api::Messages, &nested(&tool)), None);
        assert_eq!(address(Api::Chat, &nested(&nested("1"))).as_deref(), Some("x"), "nobody would read it");
    }

    #[test]
    fn the_arguments_of_a_tool_are_no_media_wherever_its_type_stands() {
        let message = |block: &str| format!(r#"{{"messages":[{{"role":"assistant","content":[{block}]}}]}}"#);
        let ask = |block: &str| address(Api::Messages, &message(block));
        let image = r#"{"type":"image","source":{"type":"url","url":"https://x"}}"#;
        assert_eq!(ask(r#"{"type":"tool_use","input":{"url":"https://x"}}"#), None);
        assert_eq!(ask(r#"{"id":"1","input":{"a":[{"url":"https://x"}]},"name":"open","type":"tool_use"}"#), None);
        for bad in [
            r#"{"input":{"url":"https://x"}}"#,
            r#"{"input":{"url":"https://x"},"type":"image"}"#,
            r#"{"type":"tool_use","input":{"url":"https://x"},"type":"image"}"#,
            r#"{"type":"tool_use","input":{},"url":"https://x"}"#,
            r#"{"type":"x","input":{"type":"y","input":{"url":"https://x"}}}"#,
            image,
            &format!(r#"{{"type":"tool_result","content":[{image}]}}"#),
        ] {
            assert_eq!(ask(bad).as_deref(), Some("messages"), "{bad}");
        }
        let request = r#"{"type":"tool_use","input":[{"content":[{"image_url":"https://x"}]}]}"#;
        assert_eq!(address(Api::Messages, request).as_deref(), Some("input"));
    }
}
