//! A server that says a text, and goes on from a beginning of it, as vLLM does.

use crate::script::{Script, Step, end, event, head, opened, raw, reset, wait};
use fairlead_core::message::Request;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// How an answer breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The connection breaks.
    Reset,
    /// It ends cleanly.
    End,
    /// Nothing more comes.
    Stall,
    /// An error event and `[DONE]`.
    Error,
    /// `finish_reason: "abort"` and `[DONE]`.
    Abort,
}

impl Break {
    pub const ALL: [Self; 5] = [Self::Reset, Self::End, Self::Stall, Self::Error, Self::Abort];

    /// What follows what has come.
    pub fn script(self) -> Script {
        match self {
            Self::Reset => reset(),
            Self::End => end(),
            Self::Stall => Script::new(),
            Self::Error => [crate::script::engine_error(), crate::script::done(), end()].concat(),
            Self::Abort => [crate::script::finishes("abort"), crate::script::done(), end()].concat(),
        }
    }
}

/// What such a server says.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Its answer, token by token.
    pub tokens: Vec<String>,
    /// What it thinks first, token by token.
    pub thoughts: Vec<String>,
    /// Why it ends, where no limit ends it.
    pub finish: &'static str,
    /// Milliseconds before each token.
    pub token_ms: u64,
    /// It takes no beginnings.
    pub refuses: bool,
    /// It passes over what it does not know, and is no vLLM.
    pub begins_again: bool,
    /// It does not count tokens.
    pub counts_nothing: bool,
    /// It takes for ever to count them.
    pub counts_late: bool,
    /// Its template keeps white space at the end of a beginning.
    pub keeps_white_space: bool,
    /// Its next answers break behind so many tokens.
    pub breaks: VecDeque<(usize, Break)>,
    /// How many it has given.
    pub answers: u32,
}

impl Engine {
    /// One that says these tokens.
    pub fn of(tokens: &[&str]) -> Self {
        Self {
            tokens: tokens.iter().map(|token| (*token).to_owned()).collect(),
            thoughts: Vec::new(),
            finish: "stop",
            token_ms: 0,
            refuses: false,
            begins_again: false,
            counts_nothing: false,
            counts_late: false,
            keeps_white_space: false,
            breaks: VecDeque::new(),
            answers: 0,
        }
    }

    /// Its next answer breaks behind so many tokens.
    pub fn breaking(mut self, behind: usize, how: Break) -> Self {
        self.breaks.push_back((behind, how));
        self
    }

    /// All that it says.
    pub fn text(&self) -> String {
        self.tokens.concat()
    }

    /// Its whole answer, whatever it is asked.
    pub fn answer_to_any(&self, chat: bool) -> Script {
        let telling = Telling { chat, answer: 1, usage: false, prompt: 7, thoughts: &[], finish: self.finish };
        telling.script(&self.tokens, None)
    }

    /// How many tokens the beginning of its answer is, a token that is not whole being one.
    fn count(&self, beginning: &str) -> usize {
        let starts = self.tokens.iter().scan(0, |length, token| Some(std::mem::replace(length, *length + token.len())));
        starts.take_while(|start| *start < beginning.len()).count()
    }

    /// What it answers.
    pub fn answer(&mut self, request: &Request) -> Script {
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        if request.url.ends_with("/tokenize") {
            assert_eq!(body["add_special_tokens"], false);
            if self.counts_late {
                return Script::new();
            }
            let count = self.count(body["prompt"].as_str().expect("a text"));
            let answer = json!({ "count": count, "max_model_len": 1024, "tokens": [], "token_strs": null });
            return match self.counts_nothing {
                true => [head(404, &[("content-type", "application/json")]), raw("{}"), end()].concat(),
                false => [head(200, &[("content-type", "application/json")]), raw(answer.to_string()), end()].concat(),
            };
        }
        let chat = request.url.ends_with("/chat/completions");
        let continues = body["continue_final_message"] == true;
        if continues {
            assert_eq!(body["add_generation_prompt"], false, "vLLM refuses both");
        }
        if continues && self.refuses {
            let error = json!({ "error": { "message": "no", "type": "BadRequestError", "param": null, "code": 400 } });
            return [head(400, &[("content-type", "application/json")]), raw(error.to_string()), end()].concat();
        }
        let text = self.text();
        let last = body["messages"].as_array().and_then(|messages| messages.last());
        let begun = match last {
            Some(message) if continues => {
                assert_eq!(message["role"], "assistant");
                message["content"].as_str().expect("a text").to_owned()
            }
            Some(_) => String::new(),
            // The prompt of all tests.
            None => body["prompt"].as_str().expect("a prompt").trim_start_matches("hush").to_owned(),
        };
        let begun = if chat && !self.keeps_white_space { begun.trim_end() } else { &begun };
        let rest = match text.strip_prefix(begun) {
            Some(rest) if !self.begins_again => rest.to_owned(),
            Some(_) => text.clone(),
            None => format!(" (another beginning than {} bytes of this)", begun.len()),
        };
        // Token by token, the first being what is left of the one that the beginning ends in.
        let mut tokens = Vec::new();
        let mut left = &*rest;
        let mut place = 0;
        for token in &self.tokens {
            place += token.len();
            let length = (place.saturating_sub(text.len() - rest.len().min(text.len()))).min(rest.len());
            let taken = length.saturating_sub(rest.len() - left.len());
            if taken > 0 {
                tokens.push(left[..taken].to_owned());
                left = &left[taken..];
            }
        }
        if !left.is_empty() {
            tokens.push(left.to_owned());
        }
        let limit = [&body["max_completion_tokens"], &body["max_tokens"]].into_iter().find_map(Value::as_u64);
        assert_ne!(limit, Some(0), "vLLM refuses that");
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit <= tokens.len());
        tokens.truncate(limit.unwrap_or(usize::MAX));
        self.answers += 1;
        let usage = body["stream_options"]["include_usage"] == true;
        let prompt = 7 + self.count(begun);
        let thoughts = if continues { &[][..] } else { &self.thoughts };
        let script =
            Telling { chat, answer: self.answers, usage, prompt, thoughts, finish: self.finish }.script(&tokens, limit);
        let script = if self.begins_again { without_marks(script) } else { script };
        let mut paced = Script::new();
        let (mut told, mut first) = (0, true);
        let behind = self.breaks.pop_front();
        for step in script {
            if let Some((most, how)) = behind
                && told >= most + 2
            {
                return [paced, how.script()].concat();
            }
            told += usize::from(matches!(step, Step::Chunk(_) | Step::Head(_)));
            if matches!(step, Step::Chunk(_)) && !std::mem::replace(&mut first, false) {
                paced.extend(wait(self.token_ms));
            }
            paced.push(step);
        }
        paced
    }
}

/// How one answer is told.
struct Telling<'a> {
    chat: bool,
    answer: u32,
    usage: bool,
    prompt: usize,
    thoughts: &'a [String],
    finish: &'a str,
}

impl Telling<'_> {
    fn script(&self, tokens: &[String], limit: Option<usize>) -> Script {
        let (object, prefix) =
            if self.chat { ("chat.completion.chunk", "chatcmpl") } else { ("text_completion", "cmpl") };
        let told = |choice: Value| {
            event(json!({
                "id": format!("{prefix}-{}", self.answer), "object": object, "created": 1_000_000 + self.answer,
                "model": "served", "choices": [choice],
            }))
        };
        let choice = |delta: Value, text: &str, finish: Option<&str>| match self.chat {
            true => json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish, "token_ids": null }),
            false => json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": finish, "token_ids": null }),
        };
        let mut script = opened();
        if self.chat {
            script.extend(told(choice(json!({ "role": "assistant", "content": "" }), "", None)));
        } else {
            // So that the first token is the third step in both.
            script.extend(raw(": begins\n\n"));
        }
        for thought in self.thoughts {
            script.extend(told(choice(json!({ "reasoning": thought }), "", None)));
        }
        for (place, token) in tokens.iter().enumerate() {
            let finish = (limit == Some(place + 1)).then_some("length");
            script.extend(told(choice(json!({ "content": token }), token, finish)));
        }
        if limit.is_none() {
            script.extend(told(choice(json!({}), "", Some(self.finish))));
        }
        if self.usage {
            let completion = tokens.len() + usize::from(limit.is_none());
            script.extend(event(json!({
                "id": format!("{prefix}-{}", self.answer), "object": object, "created": 1_000_000 + self.answer,
                "model": "served", "choices": [],
                "usage": {
                    "prompt_tokens": self.prompt, "total_tokens": self.prompt + completion,
                    "completion_tokens": completion,
                },
            })));
        }
        [script, crate::script::done(), end()].concat()
    }
}

/// Without what only vLLM puts there.
fn without_marks(script: Script) -> Script {
    let plain = |step| match step {
        Step::Chunk(bytes) => {
            let text = String::from_utf8_lossy(&bytes).replace(r#","token_ids":null"#, "");
            Step::Chunk(text.into_bytes().into())
        }
        step => step,
    };
    script.into_iter().map(plain).collect()
}
