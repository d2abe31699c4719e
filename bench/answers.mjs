// What the upstream says, prepared once: the upstream writes `steps`, the load generator expects `payload`.
// The shapes are those that vLLM 0.32 sends (tests/fixtures/vllm-0.32), an event of some 240 bytes, each event a
// chunk of its own, which is how a Worker gets to read it.

import { chunked } from './wire.mjs';

/** Events in a long stream, `[DONE]` among them. */
export const EVENTS = 300;
/** 250 tokens a second: a fast model, seen by one client. */
export const PACE_MS = 4;

/** What the upstream calls its model; clients ask for `bench`. */
export const SERVED_MODEL = 'Qwen/Qwen2.5-7B-Instruct';
const ABOUT = {
  id: 'chatcmpl-8511b35c9c3e86e9', object: 'chat.completion.chunk', created: 1795299886, model: SERVED_MODEL,
};
const TEXT = 'A fairlead is a ring or a hook that keeps a rope running in the right direction. '.repeat(3);

export const answers = {
  /** Not streamed. */
  whole: whole(),
  /** The shortest stream there is. */
  brief: stream(4),
  /** As fast as it is taken. */
  burst: stream(EVENTS),
  /** Token by token. */
  paced: stream(EVENTS, { stepwise: true }),
};

/** What a client sends to be answered so. `bench` is a field that nobody between it and the upstream knows. */
export function request(kind) {
  const body = Buffer.from(JSON.stringify({
    model: 'bench',
    messages: [{ role: 'system', content: TEXT }, { role: 'user', content: 'What is a fairlead?' }],
    temperature: 0.7,
    stream: kind !== 'whole',
    bench: kind,
  }));
  const head = [
    'POST /v1/chat/completions HTTP/1.1', 'host: bench', 'accept: application/json', 'user-agent: OpenAI/JS 7.57.0',
    'authorization: Bearer sk-bench', 'content-type: application/json', `content-length: ${body.length}`,
  ];
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), body]);
}

/** The kind of answer that a request's body asks for. */
export const kindOf = (body) => /"bench":"(\w+)"/.exec(body)?.[1];

function whole() {
  const payload = Buffer.from(JSON.stringify({
    ...ABOUT,
    object: 'chat.completion',
    choices: [{
      index: 0,
      message: { role: 'assistant', content: TEXT, refusal: null, annotations: null, reasoning: null },
      logprobs: null, finish_reason: 'stop', stop_reason: null, token_ids: null, routed_experts: null,
    }],
    service_tier: null,
    usage: { prompt_tokens: 87, total_tokens: 157, completion_tokens: 70, prompt_tokens_details: null },
    prompt_logprobs: null, kv_transfer_params: null,
  }));
  return { payload, steps: [Buffer.concat([head('application/json', `content-length: ${payload.length}`), payload])] };
}

function stream(count, { stepwise = false } = {}) {
  const choice = (delta, finish) => ({ index: 0, delta, logprobs: null, finish_reason: finish, token_ids: null });
  const event = (data) => Buffer.from(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`);
  const token = (delta, finish = null) => event({ ...ABOUT, choices: [choice(delta, finish)] });
  const events = [
    token({ role: 'assistant', content: '' }),
    ...Array.from({ length: count - 3 }, (_, index) => token({ content: ` token ${index}` })),
    token({}, 'stop'),
    event('[DONE]'),
  ];
  const [role, first, ...middle] = events.map(chunked);
  const [finish, done] = middle.splice(-2);
  // vLLM sends the role together with the first token, and ends in the step that ends the text.
  const steps = [
    Buffer.concat([head('text/event-stream; charset=utf-8', 'transfer-encoding: chunked'), role, first]),
    ...middle,
    Buffer.concat([finish, done, chunked(Buffer.alloc(0))]),
  ];
  return { payload: Buffer.concat(events), steps: stepwise ? steps : [Buffer.concat(steps)] };
}

function head(type, framing) {
  return Buffer.from([
    'HTTP/1.1 200 OK', 'date: Sat, 21 Nov 2026 22:24:46 GMT', 'server: uvicorn', `content-type: ${type}`,
    'x-request-id: 30fc698db7124a39b29b37d03e3524d0', framing, '\r\n',
  ].join('\r\n'));
}
