//! RunPod's words: its answers one by one, and a job that is followed through them. The first byte chooses what is
//! wanted of the job, the second who waits how; then follow answers, each ended by a zero byte, each with a byte for
//! its status before its body.

use super::{choose, value, within};
use fairlead_core::{
    api::Dialect,
    classify::JobFailure,
    error::JobState,
    jobs::{Aim, Answer, Cancel, Health, Job, Next, Op, Pace, Piece, Reply, Want, cause, flat_error},
    message::{Headers, ResponseHead},
    native,
    provider::runpod,
    sse::Decoder,
    time::Instant,
};
use serde_json::{Value, value::RawValue};

const NOW: Instant = Instant::from_millis(1_795_299_888_000);

pub fn run(data: &[u8]) {
    let (want, data) = choose(data);
    let (how, data) = choose(data);
    let want = [Want::Outputs, Want::Result, Want::ResultOrOutputs, Want::Peek][want % 4];
    let answers: Vec<(u16, &[u8])> = data.split(|byte| *byte == 0).map(answer).collect();
    for (status, body) in &answers {
        within(16, body.len(), "a reply", || _ = Reply::read(body));
        within(4, body.len(), "an endpoint's health", || _ = Health::read(body));
        read_alone(*status, body);
    }
    within(64, data.len(), "a job", || follow(want, how, &answers));
    cancel(&answers);
}

/// The status that a letter stands for, and the body; 0: no answer at all.
fn answer(bytes: &[u8]) -> (u16, &[u8]) {
    let (first, body) = bytes.split_first().map_or((b'-', bytes), |(first, body)| (*first, body));
    let status = match first {
        b'{' | b'[' => return (200, bytes),
        b'-' => 0,
        b'1' => 401,
        b'3' => 429,
        b'4' => 404,
        b'5' => 500,
        b'6' => 503,
        b'9' => 409,
        _ => 200,
    };
    (status, body)
}

fn read_alone(status: u16, body: &[u8]) {
    let head = ResponseHead { status, headers: Headers::new() };
    runpod::said(&head, body);
    runpod::has_no_worker(body);
    let Ok(text) = str::from_utf8(body) else { return };
    let failure = within(64, body.len(), "a cause", || cause(text, None));
    if let JobFailure::Raised(words) = failure {
        assert!(words.chars().count() <= 300 && !words.contains(char::is_control));
    }
    within(64, body.len(), "an old worker's error", || _ = flat_error(text));
    let Ok(json) = serde_json::from_str::<&RawValue>(text) else { return };
    let piece = Piece::read(json);
    let Some(told) = value(body) else { return };
    assert_eq!(value(piece.to_json().as_bytes()).as_ref(), Some(&told));
    let event = native::output_event(&piece);
    let [data] = &*data_of(&event) else { panic!("one output is one event: {}", event.escape_ascii()) };
    assert_eq!(value(data).unwrap()["output"], told);
    for dialect in [Dialect::Chat, Dialect::Completions, Dialect::Messages] {
        runpod::is_native(&piece);
        within(64, body.len(), "an output as events", || _ = runpod::stream_bytes(piece.clone(), dialect));
        runpod::whole_bytes(json, dialect);
    }
    let stream = vec![piece.to_json().into_owned()];
    let state = JobState { id: Some("a\"".to_owned()), stream, ..JobState::default() };
    assert_eq!(value(&native::partial(state)).unwrap()["output"][0], told);
}

/// The data of these events.
fn data_of(events: &[u8]) -> Vec<Vec<u8>> {
    let (mut decoder, mut at) = (Decoder::default(), 0);
    let mut all = Vec::new();
    while let Some(block) = decoder.next(events, &mut at).unwrap() {
        all.extend(block.fields().map(|fields| fields.data.into_owned()));
    }
    all
}

/// Follows a job whose queue gives these answers, and then none any more.
fn follow(want: Want, how: usize, answers: &[(u16, &[u8])]) {
    let deadline = NOW.after(300_000);
    let until = (how & 1 > 0).then(|| NOW.after(20_000));
    let aim = Aim { want, deadline, execution_ms: (how & 2 > 0).then_some(60_000), until, aggregates: how & 4 > 0 };
    let mut job = match how & 8 {
        0 => Job::submit(NOW, aim, how & 16 > 0),
        _ => Job::follow(NOW, aim, "abc-u1".to_owned()),
    };
    let mut answers = answers.iter();
    let mut now = NOW;
    let mut shown = Vec::new();
    let mut aggregate = None;
    for _ in 0..2000 {
        let Some(next) = job.next() else { return };
        now = now.max(next);
        if now >= deadline || job.is_waited_for(now) {
            return;
        }
        job.take_warning(now);
        let Some(op) = job.due(now) else { continue };
        job.on_sent(now, op);
        assert!(job.may_run() || op == Op::Health || job.has_ended() || job.facts().word.is_some());
        now = now.after(20);
        let (status, body) = answers.next().copied().unwrap_or((0, b""));
        let head = ResponseHead { status, headers: Headers::new() };
        let answer = match status {
            0 => Answer::Lost,
            _ => Answer::Whole { head: &head, body: body.to_vec() },
        };
        if op == Op::Status && status == 200 {
            aggregate = texts_of_result(body);
        }
        let news = job.on_answer(now, answer, Pace { fair_share_ms: 100, fetches: 500 });
        shown.extend(news.pieces);
        match news.end {
            None => {}
            Some(end) => {
                if want == Want::Outputs
                    && end.is_ok()
                    && let Some(aggregate) = &aggregate
                    && let Some(shown) = texts(&shown)
                {
                    // Whatever was lost, posted again or restarted on the way.
                    assert_eq!(&shown, aggregate);
                }
                assert_eq!(job.next(), None);
                return;
            }
        }
        job.torn();
        job.is_in_doubt();
    }
    panic!("a job goes on for ever");
}

/// The result that a final status holds, where it is a list of texts: what the stream must have come to.
fn texts_of_result(body: &[u8]) -> Option<String> {
    let reply: Value = serde_json::from_slice(body).ok()?;
    if reply["status"] != "COMPLETED" {
        return None;
    }
    let list = reply["output"].as_array().filter(|list| !list.is_empty())?;
    list.iter().map(|item| item.as_str()).collect()
}

fn texts(pieces: &[Piece]) -> Option<String> {
    let text = |piece: &Piece| match piece {
        Piece::Text(text) => Some(text.clone()),
        Piece::Json(_) => None,
    };
    pieces.iter().map(text).collect()
}

/// Cancels a job whose queue gives these answers: in time, and in few fetches.
fn cancel(answers: &[(u16, &[u8])]) {
    let mut cancel = Cancel::new(NOW, NOW, 40);
    let mut answers = answers.iter();
    let mut now = NOW;
    for _ in 0..200 {
        match cancel.next(now) {
            Next::Over(_) => return,
            Next::Wait(at) => {
                assert!(at > now && NOW.until(at) <= 30_000);
                now = at;
            }
            Next::Send(_) => {
                cancel.on_sent();
                let (status, body) = answers.next().copied().unwrap_or((0, b""));
                let head = ResponseHead { status, headers: Headers::new() };
                let answer = match status {
                    0 => Answer::Lost,
                    _ => Answer::Whole { head: &head, body: body.to_vec() },
                };
                if cancel.on_answer(now, answer).is_some() {
                    return;
                }
            }
        }
    }
    panic!("a cancellation goes on for ever");
}
