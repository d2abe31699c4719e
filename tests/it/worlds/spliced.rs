//! What a client reads of an answer that breaks and goes on, held against what endpoints were asked and what they said.

use super::{plain::Plain, speech::Speech};
use crate::record::Record;
use fairlead_core::{api::Api, policy::Policy};
use serde_json::Value;

/// All that a client has read of a stream, and where it went on behind another.
pub struct Listener {
    pub heard: Plain,
    pub splice: Option<Splice>,
    pub splices: usize,
}

/// Where a stream goes on.
pub struct Splice {
    /// The place of the attempt that brings the rest.
    pub attempt: usize,
    /// What the client had, and what it had of thoughts.
    said: String,
    thought: String,
}

impl Listener {
    pub const fn new(heard: Plain) -> Self {
        Self { heard, splice: None, splices: 0 }
    }

    /// A comment says that another attempt goes on.
    pub fn splice(&mut self, attempt: usize) {
        let (said, thought) = (self.heard.said.clone(), self.heard.thought.clone());
        self.splices += 1;
        self.splice = Some(Splice { attempt, said, thought });
    }

    /// `whole`: what the attempt has said, behind what it was given to begin with. `settled`: all of it has had its
    /// effect.
    pub fn check(&self, whole: &str, thought: &str, settled: bool) {
        let Some(splice) = &self.splice else { return };
        let (heard, had) = (&self.heard.said, &splice.said);
        assert!(heard.starts_with(&**had), "{heard:?} is no longer what it was: {had:?}");
        assert!(heard == had || whole.starts_with(&**heard), "the client reads {heard:?}, said was {whole:?}");
        if !settled {
            return;
        }
        let thinks = if had.is_empty() { thought.starts_with(&*splice.thought) } else { thought == splice.thought };
        let level = whole.starts_with(&**had) && thinks;
        assert_eq!(heard, if level { whole } else { had }, "neither more nor less than was said");
    }
}

/// Whether a call keeps what it has shown, to go on or to end behind it.
pub fn keeps(record: &Record) -> bool {
    let policy: &Policy = &record.policy;
    let has_choices = matches!(record.ask.api, Api::Chat | Api::Completions);
    let wanted = policy.resume != fairlead_core::config::Resume::Off
        || policy.on_deadline == fairlead_core::config::OnDeadline::Partial;
    has_choices && (is_internal(record) || wanted && record.ask.stream)
}

/// Whether its client gets whole what its endpoint is asked to stream.
pub fn is_internal(record: &Record) -> bool {
    let has_choices = matches!(record.ask.api, Api::Chat | Api::Completions);
    record.policy.stream_internally && !record.ask.stream && has_choices
}

/// An answer that was put together: its text, and how it ends.
pub fn assembled(json: &Value) -> Option<(&str, Option<&str>)> {
    let [choice] = &**json["choices"].as_array()? else { return None };
    let text = choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap_or_default();
    Some((text, choice["finish_reason"].as_str()))
}

/// What stands behind a beginning that a chat's template would trim.
pub fn trimmed(text: &str) -> &str {
    text.trim_end_matches(is_white_space)
}

/// What Python takes for white space.
pub fn is_white_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// What a client has read at the end of a call whose models have one text each.
pub struct Heard<'a> {
    pub text: &'a str,
    pub finish: Option<&'a str>,
    pub ok: bool,
    pub splices: usize,
    /// All questions for counts were answered.
    pub counted: bool,
}

impl Heard<'_> {
    /// It is the beginning of what some model says, and all of it where it ends by itself.
    pub fn check(&self, speech: &Speech) {
        let Self { text, finish, ok, splices, counted } = self;
        let texts = ["m", "served", "other"].map(|model| speech.text(model));
        let said: Vec<&String> = texts.iter().filter(|said| said.starts_with(text)).collect();
        assert!(!said.is_empty(), "nobody says {text:?}: {texts:?}");
        assert!(speech.stop().is_none_or(|stop| !text.contains(stop)), "{text:?} was to stop before that");
        if *ok && *finish == Some("stop") {
            let all = |said: &&String| {
                speech.until_stop(said).len() <= text.len() && (speech.stop().is_some() || *said == text)
            };
            assert!(said.iter().any(all), "{text:?} is not all of it: {texts:?}");
        }
        let most = speech.limit().filter(|_| *counted);
        let tokens = speech.count(text);
        assert!(most.is_none_or(|most| tokens <= most + splices), "{tokens} tokens of {most:?}");
    }
}

/// A stream of one choice that ended well, event by event: it is one stream from its beginning to its end, whoever told
/// it.
pub fn check_form(record: &Record, heard: &Plain, speech: &Speech, splices: usize) {
    let events = heard.events();
    let first: &Value = events.first().expect("an event");
    let (mut roles, mut finishes, mut usage, mut text) = (0, 0, Vec::new(), String::new());
    let chat = record.ask.api == Api::Chat;
    for event in &events {
        for name in ["id", "object", "created", "model"] {
            assert_eq!(event[name], first[name], "{name} of {event}");
        }
        assert!(usage.is_empty(), "something behind the counts: {event}");
        for choice in event["choices"].as_array().expect("choices") {
            assert_eq!(finishes, 0, "something behind the end: {event}");
            roles += usize::from(!choice["delta"]["role"].is_null());
            finishes += usize::from(!choice["finish_reason"].is_null());
            text.push_str(choice["text"].as_str().or(choice["delta"]["content"].as_str()).unwrap_or_default());
        }
        if event["choices"].as_array().is_some_and(Vec::is_empty) {
            usage.push(event["usage"].clone());
        }
        if !event["usage"].is_null() {
            let count = |name: &str| event["usage"][name].as_u64().expect("a count") as usize;
            let (prompt, completion) = (count("prompt_tokens"), count("completion_tokens"));
            assert_eq!(count("total_tokens"), prompt + completion, "{event}");
            assert_eq!(prompt, 7, "{event}");
            // A token that was cut in two counts twice; another one may be that of the end, or those of thoughts.
            let tokens = speech.count(&text);
            let thoughts = 3;
            let fits = (tokens..=tokens + splices + 1 + thoughts).contains(&completion);
            assert!(fits, "{completion} tokens, {tokens} by another count: {event}");
        }
    }
    assert_eq!((roles, finishes), (usize::from(chat), 1), "roles and ends");
    assert_eq!(usage.len(), usize::from(speech.tells_usage()), "counts at the end");
}
