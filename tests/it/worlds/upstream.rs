//! What an endpoint may do with a request: every fault of the simulated server in
//! `tests/upstream`, at other times and in other pieces each time.

use super::{
    answers::{Asked, Part, Piece},
    choices::Dice,
};
use crate::{captures::capture, script::*};
use fairlead_core::message::Barrier;
use std::fmt;

/// One answer to one request.
#[derive(Clone)]
pub struct Behaviour {
    pub fault: &'static str,
    pub script: Script,
}

/// The faults of `tests/upstream/faults.mjs`, by their names there.
pub const FAULTS: &[&str] = &[
    "ok",
    "reset",
    "close",
    "hang",
    "slow-headers",
    "huge-headers",
    "hang-after-headers",
    "slow-first-token",
    "stall",
    "stall-after-finish",
    "keepalives",
    "keepalives-mid-stream",
    "empty-deltas",
    "cut",
    "cut-reset",
    "end-without-finish",
    "end-without-done",
    "done-without-finish",
    "short-body",
    "wrong-content-length",
    "abort",
    "error-before-content",
    "error-mid-stream",
    "malformed",
    "html",
    "html-502",
    "json-for-stream",
    "empty-200",
    "huge-event",
    "endless-event",
    "crlf",
    "cr",
    "bom",
    "bytewise",
    "segments",
    "one-segment",
    "gzip",
    "status",
    "http-401",
    "http-403",
    "http-404",
    "http-408",
    "http-409",
    "http-422",
    "http-429",
    "http-500",
    "http-502",
    "http-503",
    "http-504",
    "http-524",
    "engine-dead",
    "scaling",
    "context-length",
    "content-filter",
    "should-retry-false",
    "should-retry-true",
    "redirect",
];

/// Those of them in which nobody says anything.
const SILENT_FAULTS: &[&str] = &[
    "reset",
    "close",
    "hang",
    "hang-after-headers",
    "html",
    "html-502",
    "empty-200",
    "redirect",
    "engine-dead",
    "scaling",
    "context-length",
    "status",
    "http-401",
    "http-429",
    "http-500",
    "http-503",
];

const EVENT_STREAM: (&str, &str) = ("content-type", "text/event-stream; charset=utf-8");
const JSON: (&str, &str) = ("content-type", "application/json");

/// How a body ends.
enum Ending {
    Clean,
    Broken,
    Silence,
    Babble(u64, Vec<u8>),
}

impl Behaviour {
    pub fn draw(dice: &mut Dice, asked: Asked) -> Self {
        let fault = if dice.up_to(4) < 2 { "ok" } else { dice.pick(FAULTS) };
        Self::of(dice, asked, fault)
    }

    /// One that says nothing.
    pub fn without_content(dice: &mut Dice, asked: Asked) -> Self {
        let fault = dice.pick(SILENT_FAULTS);
        Self::of(dice, asked, fault)
    }

    fn of(dice: &mut Dice, asked: Asked, fault: &'static str) -> Self {
        let begins = if dice.one_in(4) { pause(dice.ms()) } else { vec![] };
        let script = [begins, script(dice, asked, fault)].concat();
        Self { fault, script }
    }
}

fn script(dice: &mut Dice, asked: Asked, fault: &str) -> Script {
    match fault {
        // A browser's page cannot tell its own network's failures from the endpoint's.
        "reset" if dice.one_in(4) => barred(dice.pick(&[Barrier::Offline, Barrier::Cors])),
        "reset" => reset(),
        "close" => end(),
        "hang" => vec![],
        "html" => answers(200, &[("content-type", "text/html; charset=utf-8")], "<!DOCTYPE html>\n<p>Welcome</p>\n"),
        "html-502" => answers(502, &[("content-type", "text/html")], "<!DOCTYPE html>\n<p>Bad Gateway</p>\n"),
        "empty-200" => [head(200, &[JSON]), end()].concat(),
        "redirect" => [head(307, &[("location", "https://elsewhere.invalid/")]), end()].concat(),
        "engine-dead" => {
            answers(500, NONE, r#"{"error":{"message":"EngineCore","type":"InternalServerError","code":500}}"#)
        }
        "scaling" => answers(503, NONE, r#"{"error":"scaling"}"#),
        "context-length" => answers(400, NONE, capture("error_400_context").body()),
        "content-filter" => answers(400, NONE, r#"{"error":{"message":"filtered","code":"content_filter"}}"#),
        "should-retry-false" => refusal(dice, 503, &[("x-should-retry", "false")]),
        "should-retry-true" => refusal(dice, 400, &[("x-should-retry", "true")]),
        "status" => {
            let status = dice.pick(&[500, 501, 505, 529, 425, 302, 204, 206, 599, 600, 199, 0, 418]);
            refusal(dice, status, NONE)
        }
        fault if fault.starts_with("http-") => {
            let status = fault.trim_start_matches("http-").parse().expect("a status");
            refusal(dice, status, NONE)
        }
        "json-for-stream" => {
            let bytes = asked.plain_answer(dice);
            body(dice, &[JSON], bytes, Ending::Clean)
        }
        fault if asked.streams() => stream(dice, asked, fault),
        fault => plain(dice, asked, fault),
    }
}

/// A status with an explanation, which may come slowly or not to its end, and with hints.
fn refusal(dice: &mut Dice, status: u16, fields: &[(&str, &str)]) -> Script {
    let hint: &[(&str, &str)] = dice.pick(&[
        &[],
        &[("retry-after", "1")],
        &[("retry-after", "7")],
        &[("retry-after", "400")],
        &[("retry-after", "0.25")],
        &[("retry-after", "soon")],
        &[("retry-after", "Sat, 21 Nov 2026 22:24:58 GMT")],
        &[("retry-after", "Sat, 21 Nov 2026 22:00:10 GMT"), ("date", "Sat, 21 Nov 2026 22:00:00 GMT")],
        &[("retry-after-ms", "1500"), ("retry-after", "9")],
        &[("x-should-retry", "true")],
        &[("x-should-retry", "false")],
    ]);
    let fields: Vec<(&str, &str)> = fields.iter().chain(hint).copied().collect();
    let bytes = if dice.one_in(3) { capture("error_400_json").body() } else { br#"{"error":{"message":"No."}}"# };
    let ending = match dice.up_to(5) {
        0..=3 => Ending::Clean,
        4 => Ending::Broken,
        _ => Ending::Silence,
    };
    // More is not passed on.
    let much = if dice.one_in(100) { raw(vec![b' '; 1 << 20]) } else { vec![] };
    [head(status, &fields), much, in_pieces(dice, bytes), ending.steps()].concat()
}

/// An event stream with this fault.
fn stream(dice: &mut Dice, asked: Asked, fault: &str) -> Script {
    let mut parts = asked.stream(dice);
    let is = |part: &Part, kinds: &[Piece]| kinds.contains(&part.piece);
    let after = dice.index(parts.len());
    // In the middle of the text: never behind the first end of a choice.
    let finish = parts.iter().position(|part| part.piece == Piece::Finish).unwrap_or_default();
    let middle = after.min(finish);
    let mut ending = Ending::Clean;
    let mut fields = vec![EVENT_STREAM];
    let long = "x".repeat(10_000);
    match fault {
        "huge-headers" => fields.push(("x-padding", &long)),
        "hang-after-headers" => (parts, ending) = (vec![], Ending::Silence),
        "stall" => {
            parts.truncate(middle);
            ending = Ending::Silence;
        }
        "stall-after-finish" => {
            parts.retain(|part| !is(part, &[Piece::Usage, Piece::Done]));
            ending = Ending::Silence;
        }
        "keepalives" | "keepalives-mid-stream" => {
            parts.truncate(middle);
            ending = Ending::Babble(20 + dice.ms(), b": keep-alive\n\n".to_vec());
        }
        "empty-deltas" => {
            parts.truncate(middle);
            let weight = dice.pick(&[10, 300, 20_000]);
            ending = Ending::Babble(20 + dice.ms(), asked.empty_event(weight));
        }
        "cut" | "cut-reset" => {
            parts.truncate(after + 1);
            if let Some(last) = parts.last_mut() {
                let length = dice.index(last.text.len() + 1);
                last.text.truncate(length);
            }
            ending = if fault == "cut" { Ending::Clean } else { Ending::Broken };
        }
        "end-without-finish" => parts.truncate(middle),
        "end-without-done" => parts.retain(|part| !is(part, &[Piece::Done])),
        "done-without-finish" => parts.retain(|part| !is(part, &[Piece::Finish])),
        "short-body" => ending = Ending::Broken,
        "wrong-content-length" => {
            let mut bytes = joined(&parts);
            bytes.truncate(bytes.len().saturating_sub(20));
            return body(dice, &fields, bytes, Ending::Clean);
        }
        "abort" => {
            parts.truncate(middle);
            parts.push(Part::new(Piece::Finish, asked.aborted()));
            parts.push(Part::new(Piece::Done, b"data: [DONE]\n\n".to_vec()));
        }
        "error-before-content" | "error-mid-stream" => {
            parts.truncate(if fault == "error-mid-stream" { middle } else { middle.min(1) });
            parts.push(Part::new(Piece::Other, asked.error(dice)));
            parts.push(Part::new(Piece::Done, b"data: [DONE]\n\n".to_vec()));
        }
        "malformed" => {
            let text = &mut parts[after].text;
            let inside = text.windows(3).rposition(|bytes| bytes == b"\":\"").filter(|_| dice.one_in(2));
            if let Some(at) = inside {
                let damage = dice.pick(&[&b"\x01"[..], b"\\x", b"\""]);
                text.splice(at + 3..at + 3, damage.iter().copied());
            } else {
                text.truncate(text.len() / 2);
                text.extend_from_slice(b"\n\n");
            }
        }
        "huge-event" => {
            let bytes = if dice.one_in(40) { 1 << 20 } else { 5000 };
            parts[after].text.splice(0..0, [&b": "[..], &vec![b'x'; bytes], b"\n"].concat());
        }
        "endless-event" => {
            parts.truncate(middle);
            parts.push(Part::new(Piece::Other, b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"".to_vec()));
            ending = Ending::Babble(20, vec![b'x'; if dice.one_in(12) { 1 << 20 } else { 100 }]);
        }
        "gzip" => fields.push(("content-encoding", "gzip")),
        "slow-headers" => return [wait(dice.ms()), stream(dice, asked, "ok")].concat(),
        "slow-first-token" => {
            let first = joined(&parts[..middle]);
            let rest = joined(&parts[middle..]);
            return [head(200, &fields), raw(first), wait(dice.ms()), in_pieces(dice, &rest), end()].concat();
        }
        _ => {}
    }
    let framing = match fault {
        "crlf" => "\r\n",
        "cr" => "\r",
        _ => dice.pick(&["\n", "\n", "\n", "\r\n", "\r"]),
    };
    if framing != "\n" {
        parts.iter_mut().for_each(|part| part.text = with_line_ends(&part.text, framing));
    }
    if fault == "bom" || dice.one_in(12) {
        parts.insert(0, Part::new(Piece::Other, b"\xef\xbb\xbf".to_vec()));
    }
    if fault == "one-segment" {
        return [head(200, &fields), raw(joined(&parts)), end()].concat();
    }
    let bytes = damaged(dice, joined(&parts));
    let pieces = match fault {
        "bytewise" => every(dice, &bytes, 1),
        "segments" => every(dice, &bytes, 7),
        _ if dice.one_in(2) => in_pieces(dice, &bytes),
        // As vLLM does it: an event, a chunk.
        _ => {
            let ms = if dice.one_in(2) { dice.ms() } else { 0 };
            parts.iter().flat_map(|part| [pause(ms), raw(&part.text)].concat()).collect()
        }
    };
    [head(200, &fields), pieces, ending.steps()].concat()
}

/// An answer that does not stream, with this fault.
fn plain(dice: &mut Dice, asked: Asked, fault: &str) -> Script {
    let mut bytes = asked.plain_answer(dice);
    let mut fields = vec![asked.plain_type()];
    let mut ending = Ending::Clean;
    let (length, long) = (bytes.len().to_string(), (bytes.len() + 100).to_string());
    match fault {
        "hang-after-headers" => (bytes, ending) = (vec![], Ending::Silence),
        "stall" => {
            bytes.truncate(bytes.len() / 2);
            ending = Ending::Silence;
        }
        "cut" | "cut-reset" => {
            let end = dice.index(bytes.len() + 1);
            bytes.truncate(end);
            ending = if fault == "cut" { Ending::Clean } else { Ending::Broken };
        }
        "short-body" => fields.push(("content-length", &long)),
        "wrong-content-length" => {
            fields.push(("content-length", &length));
            bytes.extend_from_slice(b"                    ");
        }
        "abort" => bytes = asked.aborted(),
        "error-before-content" | "error-mid-stream" => bytes = asked.error(dice),
        "malformed" => bytes.truncate(bytes.len() / 2),
        "huge-event" => {
            // More than is held back, or just less.
            let padding = if dice.one_in(30) { dice.pick(&[8, 9]) << 20 } else { 5000 };
            let padding = vec![b' '; padding];
            return [head(200, &fields), raw(padding), pause(dice.ms()), in_pieces(dice, &bytes), end()].concat();
        }
        "gzip" => {
            fields.push(("content-encoding", "gzip"));
            fields.push(("content-length", &long));
        }
        "slow-headers" => return [wait(dice.ms()), plain(dice, asked, "ok")].concat(),
        _ if dice.one_in(2) => fields.push(("content-length", &length)),
        _ => {}
    }
    let bytes = damaged(dice, bytes);
    body(dice, &fields, bytes, ending)
}

fn body(dice: &mut Dice, fields: &[(&str, &str)], bytes: Vec<u8>, ending: Ending) -> Script {
    [head(200, fields), in_pieces(dice, &bytes), ending.steps()].concat()
}

/// Now and then one byte is another.
fn damaged(dice: &mut Dice, mut bytes: Vec<u8>) -> Vec<u8> {
    if dice.one_in(16) && !bytes.is_empty() {
        let place = dice.index(bytes.len());
        bytes[place] = dice.up_to(255) as u8;
    }
    bytes
}

fn joined(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.text.iter().copied()).collect()
}

fn with_line_ends(bytes: &[u8], line_end: &str) -> Vec<u8> {
    String::from_utf8_lossy(bytes).replace('\n', line_end).into_bytes()
}

/// These bytes in pieces of any size, with pauses anywhere.
fn in_pieces(dice: &mut Dice, bytes: &[u8]) -> Script {
    match dice.up_to(7) {
        0 | 1 => raw(bytes),
        2 => every(dice, bytes, 1),
        3 => {
            let length = 1 + dice.up_to(99) as usize;
            every(dice, bytes, length)
        }
        _ => {
            let mut places = dice.some(6, |dice| dice.index(bytes.len() + 1));
            places.sort_unstable();
            let mut script = Script::new();
            for step in cut_at(bytes, places) {
                if dice.one_in(3) {
                    script.extend(wait(dice.ms()));
                }
                script.push(step);
            }
            script
        }
    }
}

fn pause(ms: u64) -> Script {
    if ms > 0 { wait(ms) } else { vec![] }
}

/// These bytes so many at a time, with the same pause before each piece.
fn every(dice: &mut Dice, bytes: &[u8], length: usize) -> Script {
    // Long bodies in very small pieces would take most of these tests' time.
    let length = if bytes.len() > 3000 { length.max(bytes.len() / 100) } else { length };
    let ms = if dice.one_in(3) { dice.up_to(40) } else { 0 };
    bytes.chunks(length).flat_map(|piece| [pause(ms), raw(piece)].concat()).collect()
}

impl Ending {
    fn steps(self) -> Script {
        match self {
            Self::Clean => end(),
            Self::Broken => reset(),
            Self::Silence => vec![],
            Self::Babble(ms, bytes) => for_ever(ms, bytes),
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.fault)?;
        let both_chunks = |a: &Step, b: &Step| matches!((a, b), (Step::Chunk(_), Step::Chunk(_)));
        let steps: Vec<&[Step]> = self.script.chunk_by(both_chunks).collect();
        // More than this would be read by nobody.
        for step in steps.iter().take(20) {
            match step {
                [Step::Wait(ms)] => write!(f, " wait {ms} ms,")?,
                [Step::Head(head)] => {
                    write!(f, " {}", head.status)?;
                    for (name, value) in head.headers.iter() {
                        write!(f, " {name}: {value:.40}")?;
                    }
                    write!(f, ",")?;
                }
                [Step::ForEver(ms, bytes)] => write!(f, " every {ms} ms {}", text(bytes, 60))?,
                [Step::End] => write!(f, " end")?,
                [Step::Reset] => write!(f, " reset")?,
                [Step::Barred(barrier)] => write!(f, " {}", barrier.as_str())?,
                [Step::Chunk(bytes)] => write!(f, " {},", text(bytes, 120))?,
                chunks => write!(f, " {} in {} chunks,", text(&body_of(&chunks.to_vec()), 600), chunks.len())?,
            }
        }
        match self.script.last() {
            _ if steps.len() > 20 => write!(f, " … ({} steps)", steps.len()),
            Some(Step::End | Step::Reset | Step::Barred(_) | Step::ForEver(..)) => Ok(()),
            _ => write!(f, " silence"),
        }
    }
}

/// The beginning of these bytes, on one line.
fn text(bytes: &[u8], most: usize) -> String {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(most)]);
    let shown = shown.replace('\n', "\\n").replace('\r', "\\r");
    let more = if bytes.len() > most { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    format!("`{shown}`{more}")
}
