//! Streams put together: what comes out is what the endpoint would have answered without streaming.

use crate::captures::{capture, streams};
use fairlead_core::{
    api::Dialect,
    assembly::Assembly,
    stream::{Flaw, Usage, check_answer},
};
use serde_json::{Value, json};

fn assemble<'a>(dialect: Dialect, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut assembly = Assembly::new(dialect);
    for chunk in chunks {
        assembly.push(chunk).unwrap();
    }
    assembly.finish()
}

fn read(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

/// The events of a stream, read by a parser that knows nothing but LF.
fn events(stream: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(stream).unwrap().lines();
    lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect()
}

/// Whole answers of the simulated vLLM, and the same ones as streams. See `tests/upstream/pairs.mjs`.
fn pairs() -> Vec<(String, Dialect, Value, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/assembly");
    let pairs: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            let dialect = if name.starts_with("chat") { Dialect::Chat } else { Dialect::Completions };
            let text = std::fs::read_to_string(file.path()).unwrap();
            let (whole, stream) = text.split_once('\n').unwrap();
            (name, dialect, read(whole.as_bytes()), stream.as_bytes().to_vec())
        })
        .collect();
    assert!(pairs.len() > 15);
    pairs
}

/// What is known to differ: a whole answer has the arguments of a tool written anew, a stream as the model wrote them.
fn comparable(mut answer: Value) -> Value {
    for choice in answer["choices"].as_array_mut().unwrap() {
        for call in choice["message"]["tool_calls"].as_array_mut().into_iter().flatten() {
            let arguments = &mut call["function"]["arguments"];
            if let Ok(parsed) = serde_json::from_str::<Value>(arguments.as_str().unwrap()) {
                *arguments = parsed;
            }
        }
    }
    answer
}

#[test]
fn a_stream_amounts_to_the_whole_answer() {
    for (name, dialect, whole, stream) in pairs() {
        let assembled = assemble(dialect, [&*stream]);
        assert_eq!(comparable(read(&assembled)), comparable(whole), "{name}");
        assert!(check_answer(dialect, &assembled).is_ok(), "{name}");
    }
}

/// The recorded whole answer, said in the events of the recorded streams.
#[test]
fn a_recorded_answer_comes_back_from_events_like_recorded_ones() {
    let whole = read(capture("chat").body());
    let text: Vec<char> = whole["choices"][0]["message"]["content"].as_str().unwrap().chars().collect();
    let [first, next, .., finish, sum] = &events(capture("chat_stream_usage").body())[..] else { panic!() };
    let enveloped = |event: &Value| {
        let mut event = event.clone();
        event.as_object_mut().unwrap().remove("usage");
        for key in ["id", "created", "model"] {
            event[key] = whole[key].clone();
        }
        event
    };
    let mut said = vec![enveloped(first)];
    for piece in text.chunks(3) {
        let mut event = enveloped(next);
        event["choices"][0]["delta"]["content"] = piece.iter().collect::<String>().into();
        said.push(event);
    }
    said.extend([enveloped(finish), enveloped(sum)]);
    said.last_mut().unwrap()["usage"] = json!({ "prompt_tokens": 7, "total_tokens": 77, "completion_tokens": 70 });
    let stream: String = said.iter().map(|event| format!("data: {event}\n\n")).collect();
    assert_eq!(read(&assemble(Dialect::Chat, [stream.as_bytes()])), whole);
}

#[test]
fn recorded_streams_have_the_form_of_the_recorded_answer() {
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let whole = read(capture("chat").body());
    for capture in streams().filter(|capture| capture.name.starts_with("chat")) {
        let answer = read(&assemble(Dialect::Chat, [capture.body()]));
        let said = events(capture.body());
        assert_eq!(keys(&answer), keys(&whole), "{}", capture.name);
        for key in ["id", "created", "model"] {
            assert_eq!(answer[key], said[0][key], "{}", capture.name);
        }
        assert_eq!(answer["object"], "chat.completion");
        assert_eq!(answer["system_fingerprint"], "vllm-0.32.0-3f5403e3");
        for (index, choice) in answer["choices"].as_array().unwrap().iter().enumerate() {
            assert_eq!((&choice["index"], keys(choice)), (&json!(index), keys(&whole["choices"][0])));
            let deltas: Vec<&Value> = said
                .iter()
                .flat_map(|event| event["choices"].as_array().unwrap())
                .filter(|each| each["index"] == index)
                .collect();
            let text: String = deltas.iter().filter_map(|each| each["delta"]["content"].as_str()).collect();
            let arguments: String = deltas
                .iter()
                .filter_map(|each| each["delta"]["tool_calls"][0]["function"]["arguments"].as_str())
                .collect();
            assert_eq!(choice["finish_reason"], deltas.last().unwrap()["finish_reason"]);
            let mut message = whole["choices"][0]["message"].clone();
            message["content"] = text.into();
            if capture.name == "chat_stream_tool" {
                message["content"] = Value::Null;
                message["tool_calls"] = json!([{
                    "id": "chatcmpl-tool-86c1af8eb18062af",
                    "type": "function",
                    "function": { "name": "get_weather", "arguments": arguments },
                }]);
            }
            assert_eq!(choice["message"], message, "{}", capture.name);
        }
    }
}

#[test]
fn token_ids_and_counts_are_the_recorded_ones() {
    let answer = read(&assemble(Dialect::Chat, [capture("chat_stream_token_ids").body()]));
    assert_eq!(answer["prompt_token_ids"], json!([2, 94, 76, 0, 3]));
    let ids: Vec<Value> = events(capture("chat_stream_token_ids").body())
        .iter()
        .filter_map(|event| event["choices"][0]["token_ids"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!((ids.len(), &answer["choices"][0]["token_ids"]), (24, &Value::Array(ids)));

    let counted = assemble(Dialect::Chat, [capture("chat_stream_usage").body()]);
    let told = Usage { prompt_tokens: Some(7), completion_tokens: Some(4) };
    assert_eq!(check_answer(Dialect::Chat, &counted), Ok(told));

    let completion = read(&assemble(Dialect::Completions, [capture("completions_stream").body()]));
    assert_eq!(
        completion,
        json!({
            "id": "cmpl-91d64c6fabec35a0", "object": "text_completion", "created": 1_795_299_888, "model": "taught",
            "choices": [{
                "index": 0, "text": " the quick brown fox number 1", "logprobs": null, "finish_reason": "length",
                "stop_reason": null, "token_ids": null, "prompt_logprobs": null, "prompt_token_ids": null,
            }],
            "service_tier": null, "system_fingerprint": "vllm-0.32.0-3f5403e3", "usage": null,
            "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null,
        })
    );
}

/// Who asks for the parts has to look at them: a stream that broke off does not come out as a whole answer.
#[test]
fn a_stream_that_failed_is_no_answer() {
    let killed = assemble(Dialect::Chat, [capture("chat_stream_engine_killed").body()]);
    assert!(matches!(check_answer(Dialect::Chat, &killed), Err(Flaw::Error(_))));
    let body = capture("chat_stream").body();
    let finish = body.windows(14).position(|window| window == b"\"delta\":{},\"lo").unwrap();
    assert_eq!(check_answer(Dialect::Chat, &assemble(Dialect::Chat, [&body[..finish]])), Err(Flaw::Empty));
}

#[test]
fn every_cutting_gives_the_same_answer() {
    let recorded = streams().filter(|capture| capture.name.starts_with("ch")).map(|capture| {
        // Comments and other line ends are the framing's.
        let noisy = std::str::from_utf8(capture.body()).unwrap().replace("\n\n", "\r\n\r\n: note\r\n\r\n");
        (Dialect::Chat, noisy.into_bytes())
    });
    let said = pairs().into_iter().map(|(_, dialect, _, stream)| (dialect, stream));
    for (dialect, stream) in recorded.chain(said) {
        let whole = assemble(dialect, [&*stream]);
        assert_eq!(assemble(dialect, stream.chunks(1)), whole);
        assert_eq!(assemble(dialect, stream.chunks(7)), whole);
        let cuts = if stream.len() < 6000 { stream.len() } else { 0 };
        for cut in 0..=cuts {
            let (start, end) = stream.split_at(cut);
            assert_eq!(assemble(dialect, [start, end]), whole, "cut at {cut}");
        }
    }
}
