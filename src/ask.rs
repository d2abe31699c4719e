//! What a caller asks for, read from the request without touching it.
//!
//! The body is peeked at, never rebuilt: on its way to an endpoint only the name of the model is
//! replaced, in place, so unknown vLLM fields, number forms and the order of keys survive.

mod bounds;

pub(crate) use bounds::{Edit, bound_object};

use crate::{
    access::Limits,
    api::Api,
    config::Media,
    error::{Code, Error},
    find::find,
    jobs::{IfJobs, if_jobs},
    json::{RawFields, edited, member, members, pick, pick_into, place_of, text, text_of},
    media,
    message::Headers,
    native::Errand,
    settings::Target,
};
use bounds::{SIZES, Sizes};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use std::{ops::Range, rc::Rc};

/// One understood request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The route.
    pub api: Api,
    /// The model asked for.
    pub model: String,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Choices that a whole answer has.
    pub choices: usize,
    /// Tools or structured output: vLLM's parsers hold such text back, so silence is normal.
    pub held_back: bool,
    /// The request's own fields that go on to an endpoint.
    pub headers: Headers,
    /// The body as it came.
    pub body: Rc<[u8]>,
    /// It names what an endpoint would have to fetch. Looked for only where one minds: see [`Ask::look_for_addresses`].
    pub has_address: bool,
    /// What is to be done with a job of the client's own.
    pub errand: Option<IfJobs<Rc<Errand>>>,
    /// Where the model's name stands in it, quotes included.
    model_at: Range<usize>,
}

/// Fields of a client's request that endpoints get to see. Its `Authorization` and cookies stop
/// here, and whatever else nobody has asked for.
const FORWARDED: [&str; 8] = [
    "accept",
    "anthropic-beta",
    "anthropic-version",
    "content-type",
    "openai-beta",
    "traceparent",
    "tracestate",
    "x-session-id",
];

impl Ask {
    /// Reads a request, or says what is wrong with it.
    pub fn read(api: Api, headers: &Headers, body: Rc<[u8]>) -> Result<Self, Error> {
        Self::read_within(api, headers, body, None)
    }

    /// The same of a client with limits. What the request leaves to the server is written into it.
    pub fn read_within(
        api: Api,
        headers: &Headers,
        mut body: Rc<[u8]>,
        limits: Option<&Limits>,
    ) -> Result<Self, Error> {
        if headers.get("content-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(invalid("content-encoding", "The body is compressed; send it as it is."));
        }
        let forwarded = headers.iter().filter(|(name, _)| FORWARDED.contains(name)).collect();
        let limits = limits.filter(|limits| limits.bound_answers());
        let peeked = if api.takes_form() { peek_form(headers, &body)? } else { peek_json(api, &body, limits)? };
        let Peeked { model, mut model_at, stream, choices, held_back, edit } = peeked;
        if model.is_empty() {
            return Err(invalid("model", "`model` is empty. GET /v1/models lists the names that you may use."));
        }
        if let Some((place, text)) = edit {
            if place.end <= model_at.start {
                let moved = |at: usize| at.saturating_add(text.len()).saturating_sub(place.len());
                model_at = moved(model_at.start)..moved(model_at.end);
            }
            body = edited(&body, [(place, text)]).into();
        }
        let stream = stream && api.streams();
        Ok(Self {
            api,
            model,
            stream,
            choices,
            held_back,
            headers: forwarded,
            body,
            has_address: false,
            errand: None,
            model_at,
        })
    }

    /// A request about a job of the client's own, at the endpoint of this name.
    pub fn of_errand(endpoint: &str, errand: Errand, stream: bool, body: Rc<[u8]>) -> Self {
        Self {
            api: Api::Job,
            model: endpoint.to_owned(),
            stream,
            choices: 1,
            held_back: false,
            headers: Headers::new(),
            body,
            has_address: false,
            errand: if_jobs(Rc::new(errand)),
            model_at: 0..0,
        }
    }

    /// Looks whether this names what an endpoint would have to fetch, if one of these targets must not; an error where
    /// none of them may.
    pub fn look_for_addresses(&mut self, targets: &[Target]) -> Result<(), Error> {
        let minds = |target: &Target| target.endpoint.media == Media::Data;
        // The files in a form are there.
        if self.api.takes_form() || !targets.iter().any(minds) {
            return Ok(());
        }
        let Some(field) = media::address(self.api, text(&self.body)) else { return Ok(()) };
        self.has_address = true;
        if !targets.iter().all(minds) {
            return Ok(());
        }
        let message = "Pictures, sounds and files must come as `data:` URLs: the endpoints of this model fetch nothing (`\"media\": \"data\"`). Put the bytes themselves into the request, as `data:image/png;base64,…`.";
        Err(invalid(&field, message))
    }

    /// The same request with another body.
    pub(crate) fn with_body(&self, body: Vec<u8>) -> Self {
        let members = str::from_utf8(&body).ok().and_then(members);
        let model_at = members.and_then(|members| Some(place_of(member(&members, "model")?.get(), &body)));
        Self { model_at: model_at.unwrap_or_default(), body: body.into(), ..self.clone() }
    }

    /// The body with another model's name in it.
    pub fn body_for(&self, model: Option<&str>) -> Rc<[u8]> {
        let Some(model) = model.filter(|model| *model != self.model) else { return Rc::clone(&self.body) };
        let name = if self.api.takes_form() {
            model.to_owned()
        } else {
            // A string always has a JSON form.
            serde_json::to_string(model).unwrap_or_default()
        };
        let before = self.body.get(..self.model_at.start).unwrap_or_default();
        let behind = self.body.get(self.model_at.end..).unwrap_or_default();
        [before, name.as_bytes(), behind].concat().into()
    }

    /// The same request, asking for a stream that tells its token counts, to be put together by
    /// [`Assembly`](crate::assembly::Assembly). `None` where a stream would not be the same answer, or is none.
    pub fn streamed(&self) -> Option<Self> {
        if self.stream || !matches!(self.api, Api::Chat | Api::Completions) {
            return None;
        }
        let body = std::str::from_utf8(&self.body).ok()?;
        let mut edits = Vec::new();
        let mut has = [false; 2];
        for (key, value) in members(body)? {
            let which = match &*key {
                "stream" => 0,
                "stream_options" => 1,
                // With these vLLM refuses to stream, or leaves out of a stream what a whole answer has; and sound is
                // streamed in another format.
                "audio" | "best_of" | "ec_transfer_params" | "kv_transfer_params" | "prompt_logprobs"
                | "use_beam_search"
                    if !matches!(value.get(), "null" | "false") =>
                {
                    return None;
                }
                _ => continue,
            };
            edits.push((place_of(value.get(), &self.body), STREAMED.get(which)?.1.to_owned()));
            *has.get_mut(which)? = true;
        }
        let end = self.body.iter().rposition(|byte| *byte == b'}')?;
        for ((name, wanted), _) in STREAMED.iter().zip(has).filter(|(_, has)| !has) {
            // There is a member before it: the model's name.
            edits.push((end..end, format!("{name}{wanted}")));
        }
        Some(Self { stream: true, ..self.with_body(edited(&self.body, edits)) })
    }
}

/// What a request has that asks for a stream.
const STREAMED: [(&str, &str); 2] = [(",\"stream\":", "true"), (",\"stream_options\":", r#"{"include_usage":true}"#)];

struct Peeked {
    model: String,
    model_at: Range<usize>,
    stream: bool,
    choices: usize,
    held_back: bool,
    /// What is to be written into the body.
    edit: Option<Edit>,
}

/// The fields that steer a call; all others are skipped, and checked only to be JSON. With one of the five behind
/// `response_format` the answer is held back. Behind those are the [`SIZES`]; where nothing is bounded, only the first
/// three of them are looked for.
const FIELDS: [&str; 17] = {
    let [n, prompt, prompt_embeds, max_tokens, max_completion, max_output, min_tokens, best_of] = SIZES;
    [
        "model",
        "stream",
        "tools",
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        n,
        prompt,
        prompt_embeds,
        max_tokens,
        max_completion,
        max_output,
        min_tokens,
        best_of,
    ]
};
const UNBOUNDED: usize = 12;

fn peek_json(api: Api, body: &[u8], limits: Option<&Limits>) -> Result<Peeked, Error> {
    let names = FIELDS.get(..if limits.is_some() { FIELDS.len() } else { UNBOUNDED }).unwrap_or(&FIELDS);
    let mut fields: RawFields<'_, { FIELDS.len() }> = [None; FIELDS.len()];
    pick_into(text(body), names, &mut fields).map_err(|error| not_json(&error))?;
    let [model, stream, tools, format, structured, json, regex, choice, grammar, sizes @ ..] = fields;
    let filled = |field: Option<_>| field.filter(|value: &&RawValue| value.get() != "null");
    let (stream, tools, format) = (filled(stream), filled(tools), filled(format));
    let guided = [structured, json, regex, choice, grammar].map(filled);
    let Some(model) = filled(model) else {
        return Err(invalid("model", "`model` is missing. GET /v1/models lists the names that you may use."));
    };
    let model_at = place_of(model.get(), body);
    let model = serde_json::from_str(model.get()).map_err(|_| invalid("model", "`model` must be a string."))?;
    let stream = match stream.map(RawValue::get).filter(|_| api.streams()) {
        None | Some("false") => false,
        Some("true") => true,
        // vLLM itself would take "true" or 1 for true, and stream to a caller that does not expect it.
        Some(_) => return Err(invalid("stream", "`stream` must be true or false.")),
    };
    let mistake = || invalid("response_format", "`response_format` must be an object with a `type`.");
    let format = format.map(|format| pick(format.get(), &["type"])).transpose().map_err(|_| mistake())?;
    let kind = format.and_then(|[kind]| kind).map(|kind| text_of(kind).ok_or_else(mistake)).transpose()?;
    let json_format = kind.is_some_and(|kind| kind != "text");
    let tools = tools.is_some_and(|tools| tools.get() != "[]");
    let choices = count_choices(api, &sizes)?;
    let edit = limits.map(|limits| bounds::bound(api, text(body), &sizes, choices, limits)).transpose()?.flatten();
    Ok(Peeked {
        model,
        model_at,
        stream,
        choices,
        held_back: tools || json_format || guided.iter().any(Option::is_some),
        edit,
    })
}

/// The choices of an answer: so many for each prompt.
fn count_choices(api: Api, sizes: &Sizes<'_>) -> Result<usize, Error> {
    let [n, prompt, prompt_embeds, ..] = sizes.map(|value| value.filter(|value| value.get() != "null"));
    let n: usize = match n.filter(|_| api.has_choices()).map(|n| n.get().parse()) {
        None => 1,
        Some(Ok(n)) if (1..=16_384).contains(&n) => n,
        Some(_) => return Err(invalid("n", "`n` must be a whole number from 1 to 16384.")),
    };
    // A completion is made for each prompt; elsewhere the field means nothing.
    let prompts = match api {
        Api::Completions => [prompt, prompt_embeds].into_iter().flatten().map(count_prompts).sum(),
        _ => 1,
    };
    Ok(n.saturating_mul(prompts.max(1)))
}

/// A list of strings or of token lists is several prompts; a string or a list of tokens is one.
fn count_prompts(prompt: &RawValue) -> usize {
    let first = prompt.get().strip_prefix('[').unwrap_or_default().trim_ascii_start();
    if !first.starts_with(['"', '[', '{']) {
        return 1;
    }
    // Counted without being kept: they may be many.
    serde_json::from_str::<Vec<IgnoredAny>>(prompt.get()).map_or(1, |items| items.len())
}

/// Finds two fields of a `multipart/form-data` body (RFC 7578): the file in it stays untouched.
fn peek_form(headers: &Headers, body: &[u8]) -> Result<Peeked, Error> {
    let no_form = || invalid("content-type", "This route takes `multipart/form-data` with a boundary.");
    let content_type = headers.get("content-type").unwrap_or_default();
    if headers.media_type() != "multipart/form-data" {
        return Err(no_form());
    }
    let boundary = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    });
    // A delimiter stands at the start of a line, its line end being part of it (RFC 2046, 5.1.1):
    // what looks like one inside a file is none.
    let delimiter = format!("\r\n--{}", boundary.filter(|boundary| !boundary.is_empty()).ok_or_else(no_form)?);
    let (mut model, mut stream) = (None, false);
    let first = body.starts_with(delimiter.as_bytes().get(2..).unwrap_or_default());
    let first = first.then(|| (0, delimiter.len().saturating_sub(2)));
    let mut delimiters: Vec<(usize, usize)> = first.into_iter().collect();
    let mut from = 0usize;
    while let Some(at) = body.get(from..).and_then(|rest| find(rest, delimiter.as_bytes())) {
        let at = from.saturating_add(at);
        from = at.saturating_add(delimiter.len());
        delimiters.push((at, from));
    }
    for ((_, from), (end, _)) in delimiters.iter().zip(delimiters.iter().skip(1)) {
        let part = body.get(*from..*end).unwrap_or_default();
        let Some(split) = find(part, b"\r\n\r\n") else { continue };
        let (head, content) = part.split_at_checked(split).unwrap_or((part, &[]));
        let content = content.strip_prefix(b"\r\n\r\n").unwrap_or_default();
        let at = from.saturating_add(split).saturating_add(4);
        match field_name(head).as_deref() {
            Some("model") if model.is_some() => return Err(invalid("model", "`model` is there twice.")),
            Some("model") => {
                model = Some((at..at.saturating_add(content.len()), String::from_utf8_lossy(content).into_owned()))
            }
            Some("stream") => stream = content.eq_ignore_ascii_case(b"true"),
            _ => {}
        }
    }
    let (model_at, model) = model.ok_or_else(|| invalid("model", "The form has no field `model`."))?;
    Ok(Peeked { model, model_at, stream, choices: 1, held_back: false, edit: None })
}

/// The `name` of a part's `Content-Disposition`.
fn field_name(head: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(head);
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    line.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("name").then(|| value.trim_matches('"').to_owned())
    })
}

fn not_json(error: &serde_json::Error) -> Error {
    // Serde's own words may repeat a value of the body; its position says enough.
    let what = match error.classify() {
        serde_json::error::Category::Eof => "The body ends in the middle of its JSON",
        serde_json::error::Category::Data if error.to_string().starts_with("duplicate field") => {
            "The body has a field twice"
        }
        serde_json::error::Category::Data => "The body is not a JSON object of the right shape",
        _ => "The body is not JSON",
    };
    Error::new(Code::InvalidRequest, format!("{what} (line {}, column {}).", error.line(), error.column()))
}

fn invalid(param: &str, message: &str) -> Error {
    Error::new(Code::InvalidRequest, message).with_param(param)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(api: Api, body: &str) -> Result<Ask, Error> {
        Ask::read(api, &Headers::new(), body.as_bytes().into())
    }

    #[test]
    fn only_the_models_name_changes() {
        let body = "{\n \"temperature\":1.0e0, \"model\" :  \"q\\u0077en\" ,\"x\":{\"model\":\"inner\"},\"big\":12345678901234567890123}";
        let ask = read(Api::Chat, body).unwrap();
        assert_eq!(ask.model, "qwen");
        let sent = String::from_utf8(ask.body_for(Some("Qwen/\"7B\"")).to_vec()).unwrap();
        assert_eq!(sent, body.replace("\"q\\u0077en\"", "\"Qwen/\\\"7B\\\"\""));
        for same in [None, Some("qwen")] {
            assert!(Rc::ptr_eq(&ask.body, &ask.body_for(same)));
        }
    }

    #[test]
    fn what_steers_a_call_is_seen() {
        let ask = read(Api::Chat, r#"{"model":"m","stream":true,"n":3,"tools":[{}]}"#).unwrap();
        assert!(ask.stream && ask.held_back);
        assert_eq!(ask.choices, 3);
        let ask =
            read(Api::Chat, r#"{"model":"m","stream":false,"n":null,"tools":[],"response_format":{"type":"text"}}"#)
                .unwrap();
        assert!(!ask.stream && !ask.held_back);
        assert!(
            read(Api::Chat, r#"{"model":"m","response_format":{"type":"json_schema","json_schema":{}}}"#)
                .unwrap()
                .held_back
        );
        assert!(read(Api::Chat, r#"{"model":"m","structured_outputs":{"regex":"a"}}"#).unwrap().held_back);
        assert!(!read(Api::Embeddings, r#"{"model":"m","stream":true}"#).unwrap().stream);
    }

    #[test]
    fn prompts_multiply_the_choices() {
        for (prompt, choices) in
            [(r#""a""#, 2), (r#"["a","b","c"]"#, 6), ("[1,2,3]", 2), ("[[1],[2,3]]", 4), ("null", 2)]
        {
            let ask = read(Api::Completions, &format!(r#"{{"model":"m","n":2,"prompt":{prompt}}}"#)).unwrap();
            assert_eq!(ask.choices, choices, "{prompt}");
        }
    }

    #[test]
    fn bad_input_is_named_and_never_repeated() {
        for (body, param, start) in [
            ("", None, "The body ends"),
            ("{\"model\":\"m\"", None, "The body ends"),
            ("{\"model\":\"m\"} x", None, "The body is not JSON"),
            ("[]", None, "The body is not a JSON object"),
            ("\"secret\"", None, "The body is not a JSON object"),
            (r#"{"model":"a","model":"b"}"#, None, "The body has a field twice"),
            (r#"{"messages":[]}"#, Some("model"), "`model` is missing"),
            (r#"{"model":null}"#, Some("model"), "`model` is missing"),
            (r#"{"model":""}"#, Some("model"), "`model` is empty"),
            (r#"{"model":5}"#, Some("model"), "`model` must be a string"),
            (r#"{"model":"m","stream":"true"}"#, Some("stream"), "`stream` must be"),
            (r#"{"model":"m","n":0}"#, Some("n"), "`n` must be"),
            (r#"{"model":"m","n":1.5}"#, Some("n"), "`n` must be"),
        ] {
            let error = read(Api::Chat, body).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (Code::InvalidRequest, param), "{body}");
            assert!(error.message.starts_with(start) && !error.message.contains("secret"), "{body}: {}", error.message);
        }
        let no_utf8 = Ask::read(Api::Chat, &Headers::new(), b"{\"model\":\"m\",\"x\":\"\xff\"}"[..].into());
        assert!(no_utf8.unwrap_err().message.starts_with("The body is not JSON"));
        let gzip = Headers::from_iter([("content-encoding", "gzip")]);
        assert!(Ask::read(Api::Chat, &gzip, b"{}"[..].into()).is_err());
    }

    #[test]
    fn a_form_keeps_its_file_and_changes_its_model() {
        let body = b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n\xff\x00 --XX\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nno\r\n--XX\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--XX\r\nContent-Disposition: form-data; name=\"stream\"\r\n\r\ntrue\r\n--XX--\r\n";
        let headers = Headers::from_iter([("content-type", "multipart/form-data; boundary=\"XX\"")]);
        let ask = Ask::read(Api::Transcriptions, &headers, body[..].into()).unwrap();
        assert_eq!(ask.model, "whisper");
        assert!(ask.stream);
        let sent = ask.body_for(Some("openai/whisper-large"));
        let place = find(body, b"whisper").unwrap();
        assert_eq!(*sent, *[&body[..place], b"openai/whisper-large", &body[place + 7..]].concat());
        let error = Ask::read(Api::Transcriptions, &Headers::new(), body[..].into()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("content-type"));
    }

    #[test]
    fn a_request_is_asked_as_a_stream_and_else_byte_for_byte() {
        let options = r#""stream_options":{"include_usage":true}"#;
        for (body, sent) in [
            (r#"{"model":"m"}"#, format!(r#"{{"model":"m","stream":true,{options}}}"#)),
            (
                " { \"x\":1.0e0, \"stream\" : false,\"y\":[\"é}\"],\n\"model\": \"m\" }\n",
                format!(" {{ \"x\":1.0e0, \"stream\" : true,\"y\":[\"é}}\"],\n\"model\": \"m\" ,{options}}}\n"),
            ),
            (
                r#"{"stream_options":{"include_usage":false, "continuous_usage_stats":true},"model":"m","stream":null,"n":2}"#,
                format!(r#"{{{options},"model":"m","stream":true,"n":2}}"#),
            ),
            (
                r#"{"stream_options":1,"stream_options":null,"model":"m","best_of":null,"use_beam_search":false}"#,
                format!(r#"{{{options},{options},"model":"m","best_of":null,"use_beam_search":false,"stream":true}}"#),
            ),
            (
                r#"{"str\u0065am":false,"x":{"model":"m","stream":false,"best_of":2},"model":"m"}"#,
                format!(
                    r#"{{"str\u0065am":true,"x":{{"model":"m","stream":false,"best_of":2}},"model":"m",{options}}}"#
                ),
            ),
        ] {
            for api in [Api::Chat, Api::Completions] {
                let ask = read(api, body).unwrap();
                let streamed = ask.streamed().unwrap();
                assert_eq!(std::str::from_utf8(&streamed.body), Ok(&*sent), "{body}");
                let again = read(api, &sent).unwrap();
                assert_eq!((streamed.stream, streamed.model_at), (again.stream, again.model_at), "{body}");
            }
        }
    }

    #[test]
    fn what_cannot_be_streamed_is_asked_as_ever() {
        for field in [
            r#""stream":true"#,
            r#""best_of":2"#,
            r#""use_beam_search":true"#,
            r#""prompt_logprobs":1"#,
            r#""kv_transfer_params":{"do_remote_decode":true}"#,
            r#""audio":{"format":"wav"}"#,
        ] {
            let ask = read(Api::Chat, &format!(r#"{{"model":"m",{field}}}"#)).unwrap();
            assert!(ask.streamed().is_none(), "{field}");
        }
        for api in [Api::Responses, Api::Messages, Api::Embeddings, Api::Tokenize] {
            assert!(read(api, r#"{"model":"m"}"#).unwrap().streamed().is_none(), "{api:?}");
        }
    }

    #[test]
    fn a_clients_secrets_do_not_go_on() {
        let headers = Headers::from_iter([
            ("authorization", "Bearer k"),
            ("cookie", "c"),
            ("x-api-key", "k"),
            ("content-type", "application/json"),
            ("traceparent", "t"),
        ]);
        let ask = Ask::read(Api::Chat, &headers, br#"{"model":"m"}"#[..].into()).unwrap();
        let names: Vec<&str> = ask.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["content-type", "traceparent"]);
    }
}
