// Streams that break and go on, answers cut at their deadline, and hedges, in the package as it is built: in Node, in
// front of simulated vLLMs and of a gateway.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import OpenAI from 'openai';
import { Fairlead, StreamInterruptedError, TimeoutError } from '../../pkg-js/dist/node.js';
import { strict } from '../strict.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, startGateway, STAYS_CLOSED } from '../worker/gateway.mjs';

const QUICK = { idleMs: 150, backoff: { baseMs: 1, throttledBaseMs: 1, maxMs: 1 }, breaker: { enabled: false }, budget: { capacity: 1_000_000 } };
const MESSAGES = [{ role: 'user', content: 'Hello' }];
const COUNTED = { stream: true, stream_options: { include_usage: true } };
const failureOf = (promise) => promise.then(() => assert.fail('it did not fail'), (error) => error);

let one;
let two;
before(async () => {
  [one, two] = await Promise.all([startVllm(), startVllm()]);
});
beforeEach(() => {
  one.reset();
  two.reset();
});
after(() => Promise.all([one.close(), two.close()]));

/** A client in front of these servers, in their order, and what it tells. */
function make(t, servers, policy, options) {
  const heard = [];
  const ai = new Fairlead({
    ...(servers && {
      endpoints: Object.entries(servers).map(([name, { url }]) => ({ name, provider: 'vllm', baseURL: `${url}/v1` })),
    }),
    policies: { default: { ...QUICK, ...policy } },
    logLevel: 'off',
    onEvent: (event) => heard.push(event),
    ...options,
  });
  t.after(() => ai.close());
  return { ai, heard };
}
const ask = (ai, body, options) => ai.chat.completions.create({ model: 'm', messages: MESSAGES, ...body }, options);
const of = (heard, type) => heard.filter((event) => event.type === type);
/** The stream's bytes, as `ai.fetch` gives them. */
async function bytesOf(ai, body) {
  const response = await ai.fetch('https://any.example.com/v1/chat/completions', {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model: 'm', messages: MESSAGES, ...COUNTED, ...body }),
  });
  return new Uint8Array(await response.arrayBuffer());
}
/** An answer that nothing has broken. */
async function unbroken(t) {
  const { ai } = make(t, { two });
  return strict(await bytesOf(ai), { usage: true });
}
const generated = (server) => server.requests.filter(({ path }) => path === '/v1/chat/completions');

describe('a stream goes on', () => {
  /** The first event of a chat is its role, and of this one the sixteenth or so the last with content. */
  const BREAKS = {
    cut: { fault: 'cut' },
    'a reset': { fault: 'cut-reset', tokenMs: 2 },
    'a stall': { fault: 'stall' },
    'an error': { fault: 'error-mid-stream' },
    'an abort': { fault: 'abort' },
  };
  for (const [name, fault] of Object.entries(BREAKS)) {
    for (const [where, servers] of [['at the same endpoint', () => ({ one })], ['at the next', () => ({ one, two })]]) {
      it(`behind ${name}, ${where}, from whatever event`, async (t) => {
        const whole = await unbroken(t);
        const { ai, heard } = make(t, servers(), { resume: 'continue' });
        const last = servers().two ? 'two' : 'one';
        for (const afterEvents of name === 'a stall' ? [3, 9] : [2, 3, 5, 8, 13]) {
          heard.length = 0;
          one.reset();
          one.script({ ...fault, afterEvents });
          const stream = strict(await bytesOf(ai), { usage: true });
          assert.deepEqual([stream.text, stream.finishReason, stream.usage], [whole.text, whole.finishReason, whole.usage], `at ${afterEvents}`);
          const [resumed] = of(heard, 'stream_resumed');
          assert.deepEqual([resumed?.way, resumed?.endpoint, resumed?.attempt], ['continue', last, 2], `at ${afterEvents}`);
          assert.deepEqual(of(heard, 'call_ended').map(({ outcome, attempts }) => [outcome, attempts]), [['ok', 2]]);
          assert.ok(stream.comments.includes('resumed by continue, attempt 2'));
        }
      });
    }
  }

  it('and whoever reads it sees one answer: chunks, events, the message, what had come', async (t) => {
    const { ai, heard } = make(t, { one, two }, { resume: 'continue' });
    one.script({ fault: 'cut', afterEvents: 6 });
    const stream = await ask(ai, COUNTED);
    const [left, right] = stream.tee();
    const ids = new Set();
    for await (const { id } of left) ids.add(id);
    assert.equal(ids.size, 1);
    const events = [];
    for await (const event of right.events()) events.push(event);
    const told = (type) => events.filter((event) => event.type === type);
    assert.deepEqual([told('finish').length, told('usage').length, told('done')[0].text], [1, 1, DEFAULT_TEXT]);
    assert.equal(stream.partial.text, DEFAULT_TEXT);
    assert.deepEqual([of(heard, 'resume_started').length, of(heard, 'stream_resumed').length], [1, 1]);
    const { call, bytes, way, why } = of(heard, 'resume_started')[0];
    assert.deepEqual([call, way, why], [1, 'continue', undefined]);
    assert.ok(bytes > 0 && DEFAULT_TEXT.length > bytes);
    assert.ok(of(heard, 'stream_resumed')[0].gapMs >= 0);
  });

  it('under the openai SDK on ai.fetch, whose helpers see one answer', async (t) => {
    const { ai } = make(t, { one, two }, { resume: 'continue' });
    const openai = new OpenAI({ baseURL: 'https://any.example.com/v1', apiKey: 'key', fetch: ai.fetch, maxRetries: 0 });
    one.script({ fault: 'cut', afterEvents: 5 });
    two.script({ fault: 'cut', afterEvents: 3 });
    const runner = openai.chat.completions.stream({ model: 'm', messages: MESSAGES, stream_options: { include_usage: true } });
    const completion = await runner.finalChatCompletion();
    assert.equal(completion.choices.length, 1);
    assert.deepEqual([completion.choices[0].message.role, completion.choices[0].message.content, completion.choices[0].finish_reason], ['assistant', DEFAULT_TEXT, 'stop']);
    assert.equal(completion.usage.total_tokens, completion.usage.prompt_tokens + completion.usage.completion_tokens);
    assert.deepEqual([generated(one).length, generated(two).length], [2, 1]);
  });

  it('in completions', async (t) => {
    const { ai, heard } = make(t, { one, two }, { resume: 'continue' });
    const prompt = 'Tell me.';
    const create = () => ai.completions.create({ model: 'm', prompt, max_tokens: 12, ...COUNTED });
    const whole = await create();
    const text = await whole.finalText();
    one.script({ fault: 'cut', afterEvents: 4, prompt });
    two.script({ prompt });
    const stream = await create();
    assert.equal(await stream.finalText(), text);
    assert.deepEqual(stream.usage, whole.usage);
    assert.equal(of(heard, 'stream_resumed')[0].way, 'continue');
  });

  it('by verify where the endpoint does not continue, and says why', async (t) => {
    const { ai, heard } = make(t, { one, two }, { resume: 'continue' });
    const ways = async () => {
      heard.length = 0;
      one.script({ fault: 'cut', afterEvents: 6 });
      assert.equal(await (await ask(ai, COUNTED)).finalText(), DEFAULT_TEXT);
      return of(heard, 'resume_started').map(({ way, endpoint, why }) => [way, endpoint, why]);
    };
    two.script({ continues: false });
    // The last attempt is not spent on what may be refused again.
    assert.deepEqual(await ways(), [['continue', 'two', undefined], ['verify', 'one', 'refused']]);
    // What it has refused once, it is not asked again.
    assert.deepEqual(await ways(), [['verify', 'two', 'refused']]);
    assert.equal(of(heard, 'stream_resumed')[0].way, 'verify');
  });

  it('by verify where the options say that the endpoint does not continue, or is asked for another model', async (t) => {
    const endpoint = ({ url }, more) => ({ provider: 'vllm', baseURL: `${url}/v1`, ...more });
    for (const [why, second, target] of [['endpoint', { continue: false }, {}], ['model', {}, { model: 'other' }]]) {
      const { ai, heard } = make(t, undefined, { resume: 'continue' }, {
        endpoints: [endpoint(one, { name: 'one' }), endpoint(two, { name: 'two', ...second })],
        models: [{ name: 'm', targets: [{ endpoint: 'one' }, { endpoint: 'two', ...target }] }],
      });
      one.script({ fault: 'cut', afterEvents: 6 });
      assert.equal(await (await ask(ai, COUNTED)).finalText(), DEFAULT_TEXT);
      assert.deepEqual(of(heard, 'resume_started').map((event) => [event.way, event.why]), [['verify', why]]);
    }
  });

  it('never with what differs: the error has what was shown', async (t) => {
    const { ai } = make(t, { one, two }, { resume: 'verify' });
    one.script({ fault: 'cut', afterEvents: 8 });
    two.script({ differsAt: 12 });
    let shown = '';
    const error = await failureOf((async () => {
      for await (const { choices } of await ask(ai, { stream: true })) shown += choices[0]?.delta.content ?? '';
    })());
    assert.ok(error instanceof StreamInterruptedError, String(error));
    assert.match(error.message, /says something else than what has arrived/);
    assert.ok(shown.length > 12 && DEFAULT_TEXT.startsWith(shown));
    assert.equal(error.partial.text, shown);
  });

  it('no further than attempts last: the error has all that came over them', async (t) => {
    const { ai } = make(t, { one, two }, { resume: 'continue', maxAttempts: 3 });
    const cut = { fault: 'cut', afterEvents: 4 };
    one.script(cut, cut);
    two.script(cut);
    let shown = '';
    const stream = await ask(ai, { stream: true });
    const error = await failureOf((async () => {
      for await (const { choices } of stream) shown += choices[0]?.delta.content ?? '';
    })());
    assert.ok(error instanceof StreamInterruptedError);
    assert.ok(DEFAULT_TEXT.startsWith(shown) && shown.split(' ').length > 6, shown);
    assert.deepEqual([error.partial.text, stream.partial.text], [shown, shown]);
  });
});

describe('in front of a gateway', () => {
  let gateway;
  before(async () => {
    gateway = await startGateway({
      open: true,
      endpoints: endpointsOf({ one, two }),
      models: [{ name: 'm', targets: [{ endpoint: 'one' }, { endpoint: 'two' }] }],
      policies: {
        default: { breaker: STAYS_CLOSED, idle_ms: 150 },
        resume: { breaker: STAYS_CLOSED, resume: 'continue' },
        whole: { breaker: STAYS_CLOSED, stream_internally: true, max_attempts: 1, idle_ms: 150 },
        partial: { breaker: STAYS_CLOSED, stream_internally: true, on_deadline: 'partial' },
      },
    });
  });
  after(async () => {
    await gateway.close();
    assert.deepEqual(gateway.troubles, []);
  });
  const through = (t, policy, options) => make(t, undefined, policy, { baseURL: `${gateway.url}/v1`, ...options });

  /** A network whose connections break, the first so many of them, behind some bytes of the body. */
  const breaking = (times, bytes) => async (url, init) => {
    const response = await fetch(url, init);
    if (times-- <= 0) return response;
    const reader = response.body.getReader();
    let left = bytes;
    const body = new ReadableStream({
      async pull(controller) {
        const { done, value } = await reader.read();
        if (done) return controller.close();
        controller.enqueue(value.subarray(0, left));
        left -= value.length;
        if (left > 0) return undefined;
        await reader.cancel();
        return controller.error(new TypeError('network error'));
      },
    });
    return new Response(body, response);
  };

  it('a connection to it that breaks is mended by verify', async (t) => {
    for (const bytes of [700, 1500, 2500]) {
      const { ai, heard } = through(t, { resume: 'verify' }, { fetch: breaking(1, bytes) });
      const stream = await ask(ai, COUNTED);
      assert.equal(await stream.finalText(), DEFAULT_TEXT);
      assert.equal(stream.usage.total_tokens, stream.usage.prompt_tokens + stream.usage.completion_tokens);
      assert.deepEqual(of(heard, 'stream_resumed').map(({ way, endpoint }) => [way, endpoint]), [['verify', 'gateway']]);
    }
  });

  it('what has broken behind it goes on there, and is nothing here', async (t) => {
    const { ai, heard } = through(t);
    one.script({ fault: 'cut', afterEvents: 5 });
    assert.equal(await (await ask(ai, COUNTED, { policy: 'resume' })).finalText(), DEFAULT_TEXT);
    assert.deepEqual([of(heard, 'attempt_failed').length, of(heard, 'resume_started').length], [0, 0]);
  });

  it('an answer that it put together and could not make whole leaves its text', async (t) => {
    const { ai } = through(t);
    one.script({ fault: 'cut', afterEvents: 5 });
    const error = await failureOf(ask(ai, {}, { policy: 'whole' }));
    assert.ok(error instanceof StreamInterruptedError, String(error));
    assert.ok(error.partial.text && DEFAULT_TEXT.startsWith(error.partial.text));
    assert.deepEqual([error.partial.toolCalls, error.status], [[], 502]);
  });

  it('an answer that it cut at the deadline says so', async (t) => {
    const { ai } = through(t);
    one.script({ fault: 'stall', afterEvents: 5 });
    const { data, response } = await ask(ai, {}, { policy: 'partial', timeout: 1000 }).withResponse();
    assert.equal(response.headers.get('x-fairlead-truncated'), 'deadline');
    assert.deepEqual([data.fairlead, data.choices[0].finish_reason], [{ truncated: 'deadline' }, 'length']);
    assert.ok(DEFAULT_TEXT.startsWith(data.choices[0].message.content));
  });

  it('streamInternally here is a stream to it, and an answer for the caller', async (t) => {
    const { ai } = through(t, { streamInternally: true });
    const answer = await ask(ai);
    assert.equal(answer.choices[0].message.content, DEFAULT_TEXT);
    assert.ok(answer.usage.completion_tokens > 0);
    assert.equal(generated(one)[0].json.stream, true);
  });

  it('its error in the middle of that leaves the text', async (t) => {
    const { ai } = through(t, { streamInternally: true });
    one.script({ fault: 'cut', afterEvents: 5 });
    const error = await failureOf(ask(ai));
    assert.equal(error.code, 'stream_interrupted');
    assert.ok(error.partial?.text && DEFAULT_TEXT.startsWith(error.partial.text), String(error.message));
  });
});

describe('an answer that does not stream, streamed internally', () => {
  const policy = { streamInternally: true };

  it('is what it is without', async (t) => {
    const [streamed, plain] = [make(t, { one }, policy), make(t, { one })];
    const [here, there] = [await ask(streamed.ai, { n: 2, logprobs: true }), await ask(plain.ai, { n: 2, logprobs: true })];
    delete here.id;
    delete there.id;
    assert.deepEqual(here, there);
    assert.deepEqual(one.requests.map(({ json }) => json.stream ?? false), [true, false]);
    const { headers } = (await ask(streamed.ai).withResponse()).response;
    assert.equal(headers.get('content-type'), 'application/json');
  });

  it('goes on behind a break', async (t) => {
    const { ai, heard } = make(t, { one, two }, { ...policy, resume: 'continue' });
    one.script({ fault: 'cut', afterEvents: 6 });
    const { choices, usage } = await ask(ai);
    assert.equal(choices[0].message.content, DEFAULT_TEXT);
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
    assert.equal(of(heard, 'stream_resumed')[0].way, 'continue');
  });

  it('is asked for anew without `resume`', async (t) => {
    const { ai, heard } = make(t, { one, two }, policy);
    one.script({ fault: 'stall', afterEvents: 6 });
    assert.equal((await ask(ai)).choices[0].message.content, DEFAULT_TEXT);
    assert.deepEqual(of(heard, 'resume_started').map(({ way }) => way), ['anew']);
  });

  it('leaves its text on the error', async (t) => {
    const { ai } = make(t, { one }, { ...policy, resume: 'continue', maxAttempts: 2 });
    const cut = { fault: 'cut', afterEvents: 5 };
    one.script(cut, cut);
    const error = await failureOf(ask(ai));
    assert.ok(error instanceof StreamInterruptedError);
    assert.ok(error.partial.text.split(' ').length > 6 && DEFAULT_TEXT.startsWith(error.partial.text), error.partial.text);
  });

  it('leaves its text on the error of a deadline, or is cut short by it', async (t) => {
    one.script({ fault: 'stall', afterEvents: 5 }, { fault: 'stall', afterEvents: 5 });
    const error = await failureOf(ask(make(t, { one }, { ...policy, idleMs: 60_000 }).ai, {}, { timeout: 500 }));
    assert.ok(error instanceof TimeoutError);
    assert.equal(error.code, 'deadline_exceeded');
    assert.ok(error.partial.text && DEFAULT_TEXT.startsWith(error.partial.text));
    const { ai } = make(t, { one }, { ...policy, idleMs: 60_000, onDeadline: 'partial' });
    const { data, response } = await ask(ai, {}, { timeout: 600 }).withResponse();
    assert.deepEqual([data.fairlead, data.choices[0].finish_reason], [{ truncated: 'deadline' }, 'length']);
    assert.equal(data.choices[0].message.content, error.partial.text);
    assert.equal(response.headers.get('x-fairlead-truncated'), 'deadline');
  });
});

describe('onDeadline: "partial"', () => {
  it('ends a stream as it is, and the endpoint is left', async (t) => {
    const { ai, heard } = make(t, { one }, { onDeadline: 'partial', idleMs: 60_000 });
    one.script({ fault: 'stall', afterEvents: 5 });
    const chunks = [];
    for await (const chunk of await ask(ai, COUNTED, { timeout: 600 })) chunks.push(chunk);
    const end = chunks.find(({ choices }) => choices[0]?.finish_reason);
    assert.deepEqual([end.choices[0].finish_reason, end.fairlead], ['length', { truncated: 'deadline' }]);
    assert.equal(chunks.at(-1).usage, null);
    assert.equal(of(heard, 'call_ended')[0].outcome, 'partial');
    await one.until(() => one.requests[0].closedByClientAt);
  });

  it('is the error where nothing has come', async (t) => {
    const { ai } = make(t, { one }, { onDeadline: 'partial', idleMs: 60_000 });
    one.script('hang-after-headers');
    const error = await failureOf((async () => (await ask(ai, COUNTED, { timeout: 400 })).finalText())());
    assert.equal(error.code, 'deadline_exceeded');
    assert.ok(!error.partial?.text);
  });
});

describe('a hedge', () => {
  const policy = { hedgeAfterMs: 100, hedgeRatio: 1 };

  it('answers where the first is slow, and the first is left', async (t) => {
    const { ai, heard } = make(t, { one, two }, policy);
    one.script({ firstTokenMs: 5000 });
    const { data, response } = await ask(ai, COUNTED).withResponse();
    assert.equal(await data.finalText(), DEFAULT_TEXT);
    assert.equal(response.endpoint, 'two');
    assert.deepEqual(of(heard, 'hedge_started').map(({ attempt, endpoint }) => [attempt, endpoint]), [[2, 'two']]);
    assert.ok(of(heard, 'hedge_started')[0].afterMs >= 100);
    await one.until(() => one.requests[0].closedByClientAt);
  });

  it('is left where the first comes before it', async (t) => {
    const { ai, heard } = make(t, { one, two }, policy);
    one.script({ firstTokenMs: 250 });
    two.script({ firstTokenMs: 5000 });
    assert.equal(await (await ask(ai, COUNTED)).finalText(), DEFAULT_TEXT);
    assert.equal(of(heard, 'hedge_started').length, 1);
    await two.until(() => two.requests[0].closedByClientAt);
    assert.equal(of(heard, 'call_ended')[0].endpoint, 'one');
  });

  it('is none where the share is spent', async (t) => {
    const { ai, heard } = make(t, { one, two }, { hedgeAfterMs: 100, hedgeRatio: 0.5 });
    for (let at = 0; at < 3; at += 1) {
      one.script({ firstTokenMs: 250 });
      assert.equal(await (await ask(ai, COUNTED)).finalText(), DEFAULT_TEXT);
    }
    assert.equal(of(heard, 'hedge_started').length, 1);
  });
});
