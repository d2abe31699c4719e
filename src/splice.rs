//! A second stream behind a first one that broke: what of its events the client gets.
//!
//! The client reads one stream. Events of the second get the names of the first (`id`, `created`, `model`), a role is
//! told once, and what the client has already is taken off. That is *compared*, character for character: an answer
//! that differs in what the client has is not this answer, and nothing of it goes out.

use crate::{
    json::{items, member, members, one_line, string, text_of},
    stream::{Said, Transcript, Usage, is_content, told_usage},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt::Write};

/// The second stream says something else than the client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differs;

/// Brings the events of a second stream behind those of a first.
#[derive(Debug)]
pub struct Splice {
    /// `id`, `created` and `model` that the client knows, as JSON; `None` where it knows none.
    names: Vec<(&'static str, Option<String>)>,
    /// What is still to come that the client has.
    content: Expected,
    reasoning: Expected,
    /// Nothing may be thought any more: the answer's text has begun.
    thought: bool,
    /// Its endpoint is known to do what it was asked.
    known: bool,
    /// Tokens of what stands before a continuation.
    before: Before,
}

/// A text that is to come again.
#[derive(Debug, Default)]
struct Expected {
    text: String,
    /// So many bytes of it have come.
    come: usize,
}

impl Expected {
    const fn new(text: String) -> Self {
        Self { text, come: 0 }
    }

    fn rest(&self) -> &str {
        self.text.get(self.come..).unwrap_or_default()
    }

    /// What of a piece goes beyond this text.
    fn take_off<'a>(&mut self, piece: &'a str) -> Result<&'a str, Differs> {
        if let Some(beyond) = piece.strip_prefix(self.rest()) {
            self.come = self.text.len();
            return Ok(beyond);
        }
        if !self.rest().starts_with(piece) {
            return Err(Differs);
        }
        self.come = self.come.saturating_add(piece.len());
        Ok("")
    }
}

/// What a stream's token counts leave out.
#[derive(Clone, Copy, Debug)]
pub enum Before {
    /// Nothing: it is the whole answer again.
    Nothing,
    /// So many tokens of the answer, which it counts among those of its prompt; where that is known, the prompt alone
    /// has `prompt`.
    Tokens {
        /// Of the answer.
        completion: u64,
        /// Of the prompt.
        prompt: Option<u64>,
    },
    /// Nobody knows.
    Unknown,
}

/// An event as the client gets it.
#[derive(Debug, Default)]
pub struct Spliced {
    /// Its JSON.
    pub json: String,
    /// The insides of the JSON strings of what it says.
    content: String,
    reasoning: String,
    other: bool,
    /// The counts that it tells.
    pub usage: Option<Usage>,
}

impl Spliced {
    /// What it says.
    pub fn said(&self) -> Said<'_> {
        Said { content: self.content.as_bytes(), reasoning: self.reasoning.as_bytes(), other: self.other }
    }
}

impl Splice {
    /// A stream that goes on behind what the client has. `rest` ends that, was kept from the endpoint, and is to
    /// come again. `surely`: the endpoint is known to go on; of others only vLLM is.
    pub fn of_continuation(shown: &Transcript, rest: &str, surely: bool, before: Before) -> Self {
        Self {
            names: names(shown),
            content: Expected::new(rest.to_owned()),
            reasoning: Expected::default(),
            thought: true,
            known: surely,
            before,
        }
    }

    /// A stream that begins again. `None` where what the client has is not all text.
    pub fn of_repeat(shown: &Transcript) -> Option<Self> {
        let (content, reasoning) = (shown.content()?, shown.reasoning()?);
        let thought = !content.is_empty();
        let (content, reasoning) = (Expected::new(content), Expected::new(reasoning));
        let splice = Self { names: names(shown), content, reasoning, thought, known: true, before: Before::Nothing };
        shown.gap().is_none().then_some(splice)
    }

    /// Whether all that the client has has come.
    pub fn is_level(&self) -> bool {
        self.content.rest().is_empty() && self.reasoning.rest().is_empty()
    }

    /// Takes in an event. `None`: it holds nothing that the client lacks.
    pub fn pass(&mut self, event: &[u8]) -> Result<Option<Spliced>, Differs> {
        let event = str::from_utf8(event).ok().and_then(members).ok_or(Differs)?;
        let choices = member(&event, "choices").and_then(items).unwrap_or_default();
        let mut spliced = Spliced::default();
        let mut choice_json = None;
        let mut ends = false;
        match *choices {
            [] => {}
            [choice] => {
                let choice = members(choice.get()).ok_or(Differs)?;
                ends = member(&choice, "finish_reason").is_some_and(is_content);
                self.known |= is_of_vllm(&event, &choice);
                choice_json = Some(self.take_choice(&choice, &mut spliced)?);
            }
            // There was but one.
            _ => return Err(Differs),
        }
        let says = !spliced.content.is_empty() || !spliced.reasoning.is_empty() || spliced.other;
        // Another server may pass over what it does not know, and begin again.
        if !self.known && (says || ends) {
            return Err(Differs);
        }
        if !self.is_level() {
            return if says || ends { Err(Differs) } else { Ok(None) };
        }
        let mut json = String::from("{");
        for (name, value) in &event {
            let own = self.names.iter().find(|(own, _)| *own == &**name).map(|(_, json)| json.as_deref());
            if own == Some(None) {
                continue;
            }
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&string(name));
            json.push(':');
            match (&**name, &choice_json) {
                ("choices", Some(choice)) => json.extend(["[", choice, "]"]),
                ("usage", _) => json.push_str(&self.usage(value, &mut spliced.usage)),
                _ => json.push_str(own.flatten().unwrap_or(value.get())),
            }
        }
        json.push('}');
        spliced.json = one_line(&json).into_owned();
        // Roles, and what an endpoint says of the prompt, have come with the first stream.
        Ok((says || ends || choice_json.is_none()).then_some(spliced))
    }

    /// A choice without what the client has.
    fn take_choice(&mut self, choice: &[(Cow<'_, str>, &RawValue)], spliced: &mut Spliced) -> Result<String, Differs> {
        if member(choice, "index").is_some_and(|index| index.get() != "0") {
            return Err(Differs);
        }
        let mut json = Vec::new();
        for (name, value) in choice {
            let value = match &**name {
                "delta" => self.take_delta(value, spliced)?,
                "text" => self.take_content(value, spliced)?,
                _ => value.get().to_owned(),
            };
            json.push((&**name, value));
        }
        Ok(object(&json))
    }

    fn take_delta(&mut self, delta: &RawValue, spliced: &mut Spliced) -> Result<String, Differs> {
        let delta = members(delta.get()).unwrap_or_default();
        let is_thought = |name: &str| matches!(name, "reasoning" | "reasoning_content");
        // What is thought comes before what is said, even where both are in one event; and once, even where it stands
        // there under both names.
        let thought = delta.iter().find(|(name, value)| is_thought(name) && is_content(value));
        let thought = thought.map(|(_, value)| self.take_reasoning(value, spliced)).transpose()?;
        let mut json = Vec::new();
        for (name, value) in &delta {
            let kept = match (&**name, &thought) {
                ("role", _) => continue,
                ("content", _) => self.take_content(value, spliced)?,
                (name, Some(thought)) if is_thought(name) && is_content(value) => thought.clone(),
                (name, _) => {
                    let says = matches!(name, "refusal" | "tool_calls" | "function_call");
                    spliced.other |= says && is_content(value);
                    value.get().to_owned()
                }
            };
            json.push((&**name, kept));
        }
        Ok(object(&json))
    }

    fn take_content(&mut self, value: &RawValue, spliced: &mut Spliced) -> Result<String, Differs> {
        if !is_content(value) {
            return Ok(value.get().to_owned());
        }
        let text = text_of(value).ok_or(Differs)?;
        if !self.reasoning.rest().is_empty() {
            return Err(Differs);
        }
        self.thought = true;
        let json = string(self.content.take_off(&text)?);
        spliced.content.push_str(inside(&json));
        Ok(json)
    }

    fn take_reasoning(&mut self, value: &RawValue, spliced: &mut Spliced) -> Result<String, Differs> {
        let text = text_of(value).ok_or(Differs)?;
        let rest = self.reasoning.take_off(&text)?;
        if self.thought && !rest.is_empty() {
            return Err(Differs);
        }
        let json = string(rest);
        spliced.reasoning.push_str(inside(&json));
        Ok(json)
    }

    /// Token counts of the whole answer.
    fn usage(&self, usage: &RawValue, told: &mut Option<Usage>) -> String {
        let (completion, prompt) = match self.before {
            Before::Nothing => {
                *told = told_usage(usage);
                return usage.get().to_owned();
            }
            Before::Unknown => return "null".to_owned(),
            Before::Tokens { completion, prompt } => (completion, prompt),
        };
        let Some(usage) = members(usage.get()) else { return "null".to_owned() };
        let count = |name| member(&usage, name)?.get().parse::<u64>().ok();
        let (Some(own_prompt), Some(own)) = (count("prompt_tokens"), count("completion_tokens")) else {
            return "null".to_owned();
        };
        let prompt = prompt.unwrap_or_else(|| own_prompt.saturating_sub(completion));
        let completion = completion.saturating_add(own);
        *told = Some(Usage { prompt_tokens: Some(prompt), completion_tokens: Some(completion) });
        let count = |(name, value): &(Cow<'_, str>, &RawValue)| {
            let count = match &**name {
                "prompt_tokens" => prompt,
                "completion_tokens" => completion,
                "total_tokens" => prompt.saturating_add(completion),
                _ => return value.get().to_owned(),
            };
            count.to_string()
        };
        let counts: Vec<(&str, String)> = usage.iter().map(|own| (&*own.0, count(own))).collect();
        object(&counts)
    }
}

/// What the events of the second stream are called by.
fn names(shown: &Transcript) -> Vec<(&'static str, Option<String>)> {
    ["id", "created", "model"].into_iter().map(|name| (name, shown.common(name))).collect()
}

/// Whether an event has what only vLLM puts there (since 0.10.1; in completions since 0.4).
fn is_of_vllm(event: &[(Cow<'_, str>, &RawValue)], choice: &[(Cow<'_, str>, &RawValue)]) -> bool {
    let names = event.iter().chain(choice).map(|(name, _)| &**name);
    names.into_iter().any(|name| matches!(name, "prompt_token_ids" | "token_ids" | "stop_reason"))
}

fn object(members: &[(&str, String)]) -> String {
    let mut json = String::from("{");
    for (name, value) in members {
        let comma = if json.len() > 1 { "," } else { "" };
        // Text can always be written into a string.
        let _ = write!(json, "{comma}{}:{value}", string(name));
    }
    json.push('}');
    json
}

fn inside(json: &str) -> &str {
    json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default()
}
