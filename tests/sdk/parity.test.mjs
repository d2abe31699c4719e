// One core: the same script of faults under the same CONFIG, once behind the Worker in workerd and once in the package,
// comes to the same attempts for the same reasons, the same waits to the millisecond, and the same words to the caller.
//
// Waits and openings are random, and both hosts seed the core from `crypto.getRandomValues`: it says the same in both.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Fairlead } from '../../pkg-js/dist/node.js';
import { HASTY, PATIENT } from '../outcomes.mjs';
import { eventsIn } from '../upstream/raw-client.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { STATE, endpointsOf, startGateway } from '../worker/gateway.mjs';
import { optionsOf } from './options.mjs';

const CHAT = '/v1/chat/completions';
/** What chance says, to everybody who asks. */
const fixed = `(view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength).fill(77) && view`;

/** With waits of some length, so that they can differ, and no breaker, which has a test of its own. */
const DIFFERING = { backoff: { base_ms: 150, throttled_base_ms: 400, max_ms: 1000 }, breaker: { enabled: false } };
const PLAIN = { ...PATIENT, ...DIFFERING };
const POLICIES = {
  default: PLAIN,
  hasty: { ...HASTY, ...DIFFERING, deadline_ms: 1500 },
  continue: { ...PLAIN, resume: 'continue', idle_ms: 500 },
  verify: { ...PLAIN, resume: 'verify' },
  internal: { ...PLAIN, stream_internally: true },
  'internal, continue': { ...PLAIN, stream_internally: true, resume: 'continue' },
  partial: { ...PLAIN, deadline_ms: 800, on_deadline: 'partial', stream_internally: true },
  hedge: { ...PLAIN, hedge_after_ms: 150, hedge_ratio: 1 },
};
/** For each, how the endpoints fare with the attempts to come; `first` and `second` are asked in this order. */
const SCRIPT = {
  'a whole answer': { first: ['ok'] },
  'a reset': { first: ['reset', 'ok'] },
  'three resets': { first: ['reset', 'close', 'reset'] },
  'a 503 with Retry-After': { first: [{ fault: 'http-503', retryAfter: 1 }, 'ok'] },
  'a 503 with retry-after-ms': { first: [{ fault: 'http-503', retryAfterMs: 700 }, 'ok'] },
  'a 503 that asks for more time than there is': { first: [{ fault: 'http-503', retryAfter: 3600 }] },
  'a 429 that names no time': { first: ['http-429', 'http-429', 'ok'] },
  'a 500, then an answer': { first: ['http-500', 'ok'] },
  'a wrong key': { first: ['http-401'] },
  'a wrong key, and a second endpoint': { model: 'both', first: ['http-401'], second: ['ok'] },
  'a request that is at fault': { first: ['http-422'] },
  'a prompt that is too long': { first: ['context-length'] },
  'a server that says not to ask again': { first: ['should-retry-false'] },
  'a page instead of an answer': { first: ['html', 'ok'] },
  'nothing instead of an answer': { first: ['empty-200', 'ok'] },
  'no headers': { policy: 'hasty', first: ['hang', 'ok'] },
  'no headers, and a second endpoint': { model: 'both', policy: 'hasty', first: ['hang'], second: ['ok'] },
  'headers and nothing more': { policy: 'hasty', first: ['hang-after-headers', 'ok'] },
  'a stall in the middle': { policy: 'hasty', first: ['stall'] },
  'comments in the middle': { policy: 'hasty', first: [{ fault: 'keepalives-mid-stream', everyMs: 100 }] },
  'a cut': { first: ['cut'] },
  'a cut before the first content': { first: [{ fault: 'cut', afterEvents: 0 }, 'ok'] },
  'a reset in the middle': { first: ['cut-reset'] },
  'a clean end too early': { first: ['end-without-finish'] },
  'an error inside a 200': { first: ['error-before-content', 'ok'] },
  'an error in the middle': { first: ['error-mid-stream'] },
  'an answer that was aborted': { first: ['abort'] },
  'a malformed event': { first: ['malformed'] },
  'one after another': { model: 'both', first: ['http-503', 'reset'], second: ['error-before-content', 'ok'] },
  'the deadline': { policy: 'hasty', first: ['hang', 'hang', 'hang', 'hang'] },
  'a break that the same goes on behind': { policy: 'continue', first: ['cut', 'ok'] },
  'a break that the next goes on behind': { model: 'twins', policy: 'continue', first: ['cut-reset'], second: ['ok'] },
  'a stall that the next goes on behind': { model: 'twins', policy: 'continue', first: ['stall'], second: ['ok'] },
  'a break at which there is but another model': { model: 'both', policy: 'continue', first: ['cut'], second: ['ok'] },
  'breaks on breaks': { model: 'twins', policy: 'continue', first: ['cut', 'error-mid-stream'], second: ['abort'] },
  'a break that is verified': { model: 'both', policy: 'verify', first: ['cut'], second: ['ok'] },
  'a break that is verified, and differs': { model: 'both', policy: 'verify', first: ['cut'], second: [{ differsAt: 3 }] },
  'an answer that is put together': { policy: 'internal', first: ['ok'] },
  'one that breaks, and is asked for anew': { model: 'both', policy: 'internal', first: ['cut'], second: ['ok'] },
  'one that breaks, and goes on': { model: 'twins', policy: 'internal, continue', first: ['cut'], second: ['ok'] },
  'one that breaks again and again': {
    model: 'twins', policy: 'internal, continue', first: ['cut', 'cut'], second: ['cut'],
  },
  'the deadline in the middle': { policy: 'partial', first: ['stall'] },
  'the deadline before anything': { policy: 'partial', first: ['hang-after-headers'] },
  'a hedge that wins': { model: 'both', policy: 'hedge', first: [{ firstTokenMs: 3000 }], second: ['ok'] },
  'a hedge that fails': { model: 'both', policy: 'hedge', first: [{ firstTokenMs: 600 }], second: ['http-500'] },
  // The last of all: it is remembered.
  'a break behind which nobody continues': {
    model: 'twins', policy: 'continue', first: ['cut', { continues: false }], second: [{ continues: false }],
  },
};

let first;
let second;
const { getRandomValues } = crypto;
before(async () => {
  crypto.getRandomValues = new Function(`return ${fixed}`)();
  first = await startVllm();
  second = await startVllm();
});
after(async () => {
  crypto.getRandomValues = getRandomValues;
  await Promise.all([first.close(), second.close()]);
});

/**
 * The Worker and the package under the same CONFIG. Once a minute they look at what others say of an endpoint, each at
 * a time of its own, and that takes a share of chance: none of these lives as long.
 */
async function startBoth(policies) {
  const target = (endpoint) => ({ endpoint, model: `model-of-${endpoint}` });
  const config = {
    endpoints: endpointsOf({ first, second }),
    models: [
      { name: 'one', targets: [target('first')] },
      { name: 'both', targets: [target('first'), target('second')] },
      { name: 'twins', targets: [{ endpoint: 'first' }, { endpoint: 'second' }] },
    ],
    policies,
  };
  const gateway = await startGateway({ open: true, ...config }, {
    env: { STATE }, prelude: `crypto.getRandomValues = ${fixed};`,
  });
  const events = new Events();
  const ai = new Fairlead({ ...optionsOf(config), logLevel: 'off', onEvent: (event) => events.hear(event) });
  return {
    gateway,
    ai,
    events,
    async close() {
      ai[Symbol.dispose]();
      await gateway.close();
      assert.deepEqual(gateway.troubles, []);
    },
  };
}

/** The facts of a client's calls, one call after another. */
class Events {
  #heard = [];
  #end;
  #ended;

  constructor() {
    this.#next();
  }

  hear(event) {
    this.#heard.push(event);
    if (event.type === 'call_ended') this.#end();
  }

  /** Those of the last call, once it has told its end: the caller may have its answer before. */
  async ofLastCall() {
    await this.#ended;
    const heard = this.#heard;
    this.#next();
    return heard;
  }

  #next() {
    this.#heard = [];
    this.#ended = new Promise((resolve) => { this.#end = resolve; });
  }
}

let calls = 0;

/** What a fact of a call says under either name, without what no two calls have in common. */
function fact(told, names) {
  const [type, ...fields] = names;
  return [told[type], ...fields.map((field) => told[field] ?? null)];
}
const IN_LOG = {
  attempt_failed: ['event', 'attempt', 'endpoint', 'reason', 'then', 'wait_ms'],
  resume_started: ['event', 'attempt', 'endpoint', 'way', 'why', 'bytes'],
  stream_resumed: ['event', 'attempt', 'endpoint', 'way'],
  hedge_started: ['event', 'attempt', 'endpoint'],
  breaker_opened: ['event', 'endpoint', 'entry', 'reason', 'open_ms', 'one_client'],
  call_ended: ['event', 'outcome', 'param', 'endpoint', 'attempts', 'stream', 'malformed', 'completion_tokens'],
};
const inCamelCase = (name) => name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
const IN_EVENT = Object.fromEntries(Object.entries(IN_LOG).map(([name, fields]) =>
  [name, ['type', ...fields.slice(1).map(inCamelCase)]]));

async function throughTheWorker({ gateway }, { model, stream, policy }) {
  calls += 1;
  const id = `call-${calls}`;
  const response = await gateway.fetch(CHAT, {
    body: { model, stream, messages: [] },
    headers: { 'x-request-id': id, ...(policy && { 'x-fairlead-policy': policy }) },
  });
  const body = await response.text();
  await gateway.line({ request_id: id, event: 'call_ended' });
  const facts = gateway.logs.filter((line) => line.request_id === id && IN_LOG[line.event])
    .map((line) => fact(line, IN_LOG[line.event]));
  return { facts, ...(stream && response.status === 200 ? inStream(body) : whole(response.status, JSON.parse(body))) };
}

function inStream(body) {
  const data = eventsIn(body.replace(/^:.*\n\n/gm, '')).map((event) => event.slice('data: '.length));
  const chunks = data.filter((each) => each !== '[DONE]').map((each) => JSON.parse(each));
  const text = chunks.map(({ choices }) => choices?.[0]?.delta.content ?? '').join('');
  const { error } = chunks.find((chunk) => chunk.error) ?? {};
  return { text, error: error && [String(error.code), error.param ?? null] };
}

function whole(status, { error, choices }) {
  if (status === 200) return { text: choices[0].message.content, error: undefined };
  return { text: error.partial ?? '', error: [wordOf(status, error), error.param ?? null] };
}

/** An endpoint's own refusal goes by its status. */
const wordOf = (status, { code }) => (typeof code === 'string' ? code : String(status));

async function throughThePackage({ ai, events }, { model, stream, policy }) {
  let text = '';
  let error;
  try {
    const answer = await ai.chat.completions.create({ model, stream, messages: [] }, { policy });
    if (!stream) text = answer.choices[0].message.content;
    else for await (const { choices } of answer) text += choices[0]?.delta.content ?? '';
  } catch (thrown) {
    const own = typeof thrown.body?.error?.code === 'number';
    error = [own ? String(thrown.status) : thrown.code, thrown.param ?? null];
    if (!stream) text = thrown.partial?.text ?? '';
  }
  const facts = (await events.ofLastCall()).filter((event) => IN_EVENT[event.type])
    .map((event) => fact(event, IN_EVENT[event.type]));
  return { facts, text, error };
}

/** One call through one of the two, and what the endpoints have seen of it. */
async function run(host, hosts, call) {
  for (const [server, script] of [[first, call.first], [second, call.second ?? []]]) {
    server.reset();
    server.script(...script);
  }
  const came = await host(hosts, { model: 'one', ...call });
  const seen = [first, second].map(({ requests }) => requests.map(({ path, headers, json }) =>
    [path, headers['x-request-id']?.split('-').at(-1), json]));
  return { ...came, seen };
}

async function assertSame(hosts, call) {
  const expected = await run(throughTheWorker, hosts, call);
  const actual = await run(throughThePackage, hosts, call);
  assert.deepEqual(actual, expected);
  return actual;
}

for (const stream of [true, false]) {
  describe(`${stream ? 'a stream' : 'an answer'} in the package is what it is behind the Worker under`, () => {
    let both;
    before(async () => { both = await startBoth(POLICIES); });
    after(() => both?.close());
    for (const [name, call] of Object.entries(SCRIPT)) it(name, () => assertSame(both, { stream, ...call }));
  });
}

it('waits are long enough to differ, and Retry-After is waited for to the millisecond', async (t) => {
  const both = await startBoth(POLICIES);
  t.after(() => both.close());
  const waits = async (faults) => {
    const { facts } = await assertSame(both, { first: [...faults, 'ok'] });
    return facts.filter(([type]) => type === 'attempt_failed').map((each) => each.at(-1));
  };
  const [once, again] = await waits(['reset', 'http-500']);
  assert.ok(once > 0 && again > once);
  assert.deepEqual(await waits([{ fault: 'http-503', retryAfter: 1 }]), [1000]);
});

it('breakers open at the same call, for the same time, and answer for the endpoint', async (t) => {
  const both = await startBoth({ default: { ...POLICIES.default, breaker: { consecutive: 3 } } });
  t.after(() => both.close());
  const outcomes = [];
  for (let at = 0; at < 4; at += 1) {
    const { error, facts } = await assertSame(both, { stream: true, first: ['reset', 'reset', 'reset'] });
    outcomes.push([error[0], facts.filter(([type]) => type === 'breaker_opened').length]);
  }
  assert.deepEqual(outcomes.map(([code]) => code).at(-1), 'circuit_open');
  assert.equal(outcomes.reduce((sum, [, opened]) => sum + opened, 0), 1);
});
