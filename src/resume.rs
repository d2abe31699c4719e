//! Whether a stream that broke may go on, and what an endpoint is asked for that.
//!
//! vLLM goes on from a given beginning (`continue_final_message`); any server can be asked again, and its answer
//! compared. Continuing is right only where the endpoint makes of the beginning what it would have made of it in the
//! middle of its own answer. Everything else is not tried: see [`Terms::read`].

use crate::{
    api::Api,
    ask::Ask,
    json::{edited, items, member, members, place_of, string, text_of},
    stream::{Transcript, is_content},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, ops::Range};

type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// How a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From what the client has.
    Continue,
    /// Asked for again, compared with what the client has, and shown from there on.
    Verify,
    /// Asked for again, as the client has nothing of it.
    Anew,
}

impl Way {
    /// Its name in events and comments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Verify => "verify",
            Self::Anew => "anew",
        }
    }
}

/// What a request allows. Reasons are words for events.
#[derive(Debug)]
pub struct Terms {
    never: Option<&'static str>,
    no_continue: Option<&'static str>,
    stops: Vec<String>,
    /// The endpoint holds back as much text as a stop string may have begun in, so that its events end inside of tokens.
    holds_back: bool,
    max_tokens: Option<u64>,
    wants_usage: bool,
}

/// The beginning that an endpoint is given to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The text.
    pub text: String,
    /// What stood behind it, is not sent, and is to come again: white space, which chat templates may trim; and what may
    /// not be a whole token.
    pub rest: String,
}

impl Beginning {
    /// How many tokens it has, if the endpoint has told: not where it is less than what was shown.
    pub fn count(&self, shown: &Transcript) -> Option<u64> {
        shown.usage.completion_tokens.filter(|_| self.rest.is_empty())
    }
}

impl Terms {
    /// Reads a request.
    pub fn read(ask: &Ask) -> Self {
        let fields = request(&ask.body).unwrap_or_default();
        let get = |name: &str| member(&fields, name).filter(|value| value.get() != "null");
        let is = |name: &str, json: &str| get(name).is_some_and(|value| value.get() == json);
        let set = |names: &[&str]| names.iter().any(|name| get(name).is_some_and(is_content));
        let chat = ask.api == Api::Chat;
        let never = [
            ("dialect", !chat && ask.api != Api::Completions),
            ("choices", ask.choices != 1),
            // They belong to tokens, and a splice may stand inside of one.
            ("logprobs", set(&["logprobs", "top_logprobs", "prompt_logprobs"]) && !is("logprobs", "false")),
            ("token_ids", is("return_token_ids", "true") || is("return_tokens_as_token_ids", "true")),
            ("multimodal", set(&["audio", "modalities"]) && !is("modalities", r#"["text"]"#)),
        ];
        let format = get("response_format").and_then(|value| members(value.get()));
        let kind = format.as_ref().and_then(|format| member(format, "type"));
        let grammars = ["structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"]
            .map(|name| set(&[name]));
        let limit = get("max_completion_tokens").filter(|_| chat).or_else(|| get("max_tokens"));
        let max_tokens = limit.and_then(|limit| limit.get().parse().ok());
        let no_continue = [
            // A grammar begins again.
            (
                "structured_output",
                kind.is_some_and(|kind| kind.get() != r#""text""#)
                    || grammars.contains(&true)
                    || get("tool_choice").is_some_and(|choice| !matches!(choice.get(), r#""auto""# | r#""none""#)),
            ),
            // The request itself is one that goes on, or puts its prompt together in another way.
            (
                "prompt",
                set(&[
                    "continue_final_message",
                    "add_generation_prompt",
                    "suffix",
                    "prompt_embeds",
                    "truncate_prompt_tokens",
                ]) || is("echo", "true")
                    || place_for_text(ask.api, &fields, &ask.body).is_none(),
            ),
            // What is hidden there cannot be known to have ended.
            ("reasoning", is("include_reasoning", "false")),
            // The default of completions is the server's (16 in vLLM), and would begin anew.
            ("max_tokens", limit.map_or(!chat && member(&fields, "max_tokens").is_none(), |_| max_tokens.is_none())),
            // These count what the answer has so far, and what is given counts for the prompt.
            (
                "sampling",
                ["presence_penalty", "frequency_penalty", "min_tokens"]
                    .into_iter()
                    .any(|name| get(name).is_some_and(|value| !value.get().bytes().all(|byte| b"0.-".contains(&byte))))
                    || set(&["bad_words"]),
            ),
        ];
        let why = |reasons: &[(&'static str, bool)]| reasons.iter().find(|(_, holds)| *holds).map(|(why, _)| *why);
        let stops = get("stop").map(|stop| items(stop).unwrap_or_else(|| vec![stop]));
        let stops: Vec<String> =
            stops.into_iter().flatten().filter_map(|stop| Some(text_of(stop)?.into_owned())).collect();
        let options = get("stream_options").and_then(|value| members(value.get()));
        let include = options.as_ref().and_then(|options| member(options, "include_usage"));
        Self {
            never: why(&never),
            no_continue: why(&no_continue),
            holds_back: stops.iter().any(|stop| stop.chars().nth(1).is_some())
                && !is("include_stop_str_in_output", "true"),
            stops,
            max_tokens,
            wants_usage: include.is_some_and(|include| include.get() == "true"),
        }
    }

    /// Why the stream cannot be asked for again and compared, if it cannot.
    pub fn bars_verifying(&self, shown: &Transcript) -> Option<&'static str> {
        let is_text = || shown.content().zip(shown.reasoning()).is_some();
        self.never.or(shown.gap()).or_else(|| (!is_text()).then_some("characters"))
    }

    /// The beginning to go on from, or why that would not be exact.
    pub fn beginning(&self, shown: &Transcript, api: Api) -> Result<Beginning, &'static str> {
        if let Some(why) = self.bars_verifying(shown).or(self.no_continue) {
            return Err(why);
        }
        // A parser of reasoning would take the rest for more of it (vllm#28089).
        if shown.reasoning().is_none_or(|reasoning| !reasoning.is_empty()) {
            return Err("reasoning");
        }
        let whole = shown.content().unwrap_or_default();
        // A server without such a parser leaves it in the text, and templates take it out of messages.
        if whole.contains("<think>") || whole.contains("</think>") {
            return Err("reasoning");
        }
        let trimmed = |text: &'_ str| text.trim_end_matches(is_white_space).len();
        let mut length = if api == Api::Chat { trimmed(&whole) } else { whole.len() };
        if self.holds_back {
            // A token mostly begins with white space, or behind it.
            let words = whole.get(..length).unwrap_or_default().rsplit_once(is_white_space);
            length = words.map(|(words, _)| trimmed(words)).ok_or("stop")?;
        }
        let (text, rest) = whole.split_at_checked(length).unwrap_or_default();
        if text.is_empty() {
            return Err("white_space");
        }
        if self.stops.iter().any(|stop| may_be_begun(text, stop)) {
            return Err("stop");
        }
        Ok(Beginning { text: text.to_owned(), rest: rest.to_owned() })
    }

    /// Whether it must be known how many tokens there are already.
    pub const fn needs_count(&self) -> bool {
        self.max_tokens.is_some() || self.wants_usage
    }

    /// Whether the client asked for token counts.
    pub const fn wants_usage(&self) -> bool {
        self.wants_usage
    }

    /// How many tokens may still come, when there are so many already.
    pub fn tokens_left(&self, so_far: u64) -> Option<u64> {
        self.max_tokens.map(|limit| limit.saturating_sub(so_far))
    }

    /// The request for the rest of an answer of which there are this text and so many tokens.
    pub fn continued(&self, ask: &Ask, text: &str, so_far: u64) -> Option<Ask> {
        let body = &*ask.body;
        let fields = request(body)?;
        let (place, is_first) = place_for_text(ask.api, &fields, body)?;
        let text = string(text);
        let mut edits = Vec::new();
        if ask.api == Api::Chat {
            let start = body.iter().position(|byte| *byte == b'{')?.saturating_add(1);
            edits.push((start..start, r#""continue_final_message":true,"add_generation_prompt":false,"#.to_owned()));
        }
        for (name, value) in &fields {
            let own = place_of(value.get(), body);
            match (&**name, self.tokens_left(so_far)) {
                ("max_tokens" | "max_completion_tokens", Some(left)) if value.get() != "null" => {
                    edits.push((own, left.to_string()));
                }
                // Of those that are there twice, the last.
                _ if own.contains(&place.start) => {
                    let text = match ask.api {
                        Api::Chat if is_first => format!(r#"{{"role":"assistant","content":{text}}}"#),
                        Api::Chat => format!(r#",{{"role":"assistant","content":{text}}}"#),
                        _ => text.get(1..text.len().saturating_sub(1))?.to_owned(),
                    };
                    edits.push((place.clone(), text));
                }
                _ => {}
            }
        }
        Some(ask.with_body(edited(body, edits)))
    }
}

/// Where in a body the text goes, and whether it is the first of a list.
fn place_for_text(api: Api, request: &Members<'_>, body: &[u8]) -> Option<(Range<usize>, bool)> {
    let before_end = |value: &RawValue| {
        let at = place_of(value.get(), body).end.saturating_sub(1);
        at..at
    };
    match api {
        Api::Chat => {
            let messages = member(request, "messages")?;
            Some((before_end(messages), items(messages)?.is_empty()))
        }
        Api::Completions => {
            let prompt = member(request, "prompt")?;
            let only = match items(prompt) {
                Some(prompts) => prompts.into_iter().next()?,
                None => prompt,
            };
            text_of(only)?;
            Some((before_end(only), true))
        }
        _ => None,
    }
}

fn request(body: &[u8]) -> Option<Members<'_>> {
    str::from_utf8(body).ok().and_then(members)
}

/// Whether a text ends in the beginning of a stop string: the rest of it may come behind the splice, where nobody
/// would know it.
fn may_be_begun(text: &str, stop: &str) -> bool {
    stop.char_indices().skip(1).any(|(length, _)| text.ends_with(stop.get(..length).unwrap_or(stop)))
}

/// What Python's `str.strip` takes off, which chat templates use.
const fn is_white_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}
