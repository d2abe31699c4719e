// Where nobody can go on from a beginning, the answer is asked for again and compared with what the client has. Of an
// answer that differs in that, the client gets not one character.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { strict } from '../strict.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { CHAT, COMPLETIONS, Calls, PATIENT, PROMPT, answers, each } from './calls.mjs';
import { endpointsOf, startGateway } from './gateway.mjs';

const TEXT = 'Zürich\n\nhas 🦀 by "5".';
const LENGTH = [...TEXT].length;
/** Places at which a second answer may differ; none at all is `undefined`. */
const PLACES = [undefined, ...Array.from({ length: LENGTH + 1 }, (_, at) => at)];

/** Models by what has it verified; each has its reason in the log. */
const MODELS = {
  verifying: { policy: 'verify', targets: ['first'], why: [] },
  'verifying, two endpoints': { policy: 'verify', targets: ['first', 'second'], why: [] },
  'continue: false': { policy: 'continue', targets: ['fixed'], why: ['endpoint'] },
  'the other has continue: false': { policy: 'continue', targets: ['first', 'fixed'], why: ['endpoint'] },
};
/** How the second answer comes: in other tokens, in other events. */
const BOUNDARIES = {
  'the same tokens': {},
  'single characters': { stepping: 1 },
  'pairs of them': { stepping: 2 },
  'events of several tokens': { tokensPerEvent: [1, 3, 2] },
  'other tokens, several in an event': { stepping: 3, tokensPerEvent: [2, 1] },
  'one event': { tokensPerEvent: 100 },
};

let vllm;
let gateway;
let calls;
before(async () => {
  vllm = await startVllm({ defaults: { trims: true, prompt: PROMPT } });
  const to = (...endpoints) => endpoints.map((endpoint) => ({ endpoint }));
  gateway = await startGateway({
    open: true,
    endpoints: [
      ...endpointsOf({ first: vllm, second: vllm, refuser: vllm, other: vllm }),
      { ...endpointsOf({ fixed: vllm })[0], continue: false },
      { ...endpointsOf({ vouched: vllm })[0], continue: true },
    ],
    models: [
      ...Object.entries(MODELS).map(([name, { policy, targets }]) => ({ name, policy, targets: to(...targets) })),
      { name: 'refusing', policy: 'continue', targets: to('refuser') },
      { name: 'renamed', policy: 'continue', targets: [...to('first'), { endpoint: 'other', model: 'another' }] },
      { name: 'mistaken', policy: 'continue', targets: to('first') },
      { name: 'vouched', policy: 'continue', targets: to('vouched') },
    ],
    policies: { verify: { ...PATIENT, resume: 'verify' }, continue: { ...PATIENT, resume: 'continue' } },
  });
  calls = new Calls(gateway, vllm);
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});

const textsOf = ({ chunks }) =>
  chunks.map(({ choices: [choice] }) => choice?.delta?.content ?? choice?.text ?? '');

/** What an endpoint says that differs there. */
const said = new Map();
async function differing(path, differsAt) {
  const key = `${path} ${differsAt}`;
  if (!said.has(key)) {
    const call = calls.stream(path, { model: 'verifying', sim: answers(TEXT, { differsAt }) });
    said.set(key, call.then(({ text }) => strict(text).text));
  }
  return said.get(key);
}

/** A stream that breaks when the client has `shown`, and whose second answer differs at this place. */
async function assertVerified(path, model, { fault = 'cut', afterEvents, shown }, second) {
  const { differsAt } = second;
  const call = await calls.stream(path, { model, sim: answers(TEXT, { fault, afterEvents }, second) });
  const differs = differsAt !== undefined && differsAt < [...shown].length;
  const stream = strict(call.text, { interrupted: differs });
  const at = `${model}, behind ${JSON.stringify(shown)}, differs at ${differsAt}: ${stream.text}`;
  assert.equal(stream.text, differs ? shown : await differing(path, differsAt), at);
  assert.equal(call.ways.length, 1, at);
  assert.equal(call.end.attempts, 2, at);
  if (differs) {
    assert.deepEqual([stream.error.code, call.end.outcome], ['stream_interrupted', 'stream_interrupted'], at);
    assert.equal(call.lines.filter(({ event }) => event === 'attempt_failed').at(-1).reason, 'differs');
  }
  return call;
}

/** Every place at which an answer can break behind a text. */
async function breaks(path) {
  const { text } = await calls.stream(path, { model: 'verifying', sim: answers(TEXT) });
  const texts = textsOf(strict(text)).slice(0, -1); // but the finish
  const places = texts.map((_, at) => ({ afterEvents: at + 1, shown: texts.slice(0, at + 1).join('') }));
  return places.filter(({ shown }) => shown !== '');
}

describe('a second answer is shown only where it has said the same', { concurrency: 2 }, () => {
  const boundaries = Object.entries(BOUNDARIES);
  for (const [path, cases] of [[CHAT, boundaries], [COMPLETIONS, boundaries.slice(1, 3)]]) {
    for (const [at, [name, second]] of cases.entries()) {
      it(`${path}, in ${name}`, async () => {
        const places = await breaks(path);
        assert.ok(places.length > 6 && places.at(-1).shown === TEXT);
        // At each place once, and then at some.
        const all = places.flatMap((place) => PLACES.map((differsAt) => [place, differsAt]));
        const pairs = at < 2 ? all : all.filter((_, nth) => nth % 4 === at % 4);
        await each(pairs, async ([place, differsAt]) => {
          const call = await assertVerified(path, 'verifying', place, { ...second, differsAt });
          assert.deepEqual(call.ways, ['verify']);
        });
      });
    }
  }

  for (const [model, { why }] of Object.entries(MODELS)) {
    it(`${model}, whatever breaks it`, async () => {
      const places = await breaks(CHAT);
      const faults = ['cut-reset', 'error-mid-stream', 'end-without-finish', 'abort'];
      const all = places.flatMap((place) => PLACES.map((differsAt) => [place, differsAt]));
      const pairs = all.filter((_, nth) => nth % 3 === 0);
      await each(pairs.map((pair, nth) => [...pair, faults[nth % faults.length]]), async ([place, differsAt, fault]) => {
        const call = await assertVerified(CHAT, model, { ...place, fault }, { differsAt, stepping: 2 });
        assert.deepEqual(call.ways, [['verify', ...why].join(', ')]);
      });
    });
  }
});

it('an endpoint that refuses to continue is asked again from the start, and so from then on', async () => {
  const sim = answers(TEXT, { fault: 'cut', afterEvents: 4 }, { continues: false }, { continues: false });
  const first = await calls.stream(CHAT, { model: 'refusing', sim });
  assert.deepEqual(first.ways, ['continue', 'verify, refused']);
  assert.deepEqual([strict(first.text).text, first.end.attempts], [TEXT, 3]);
  const [, , again] = first.attempts;
  assert.deepEqual(again.json, first.attempts[0].json);
  const second = await calls.stream(CHAT, { model: 'refusing', sim });
  assert.deepEqual([second.ways, strict(second.text).text], [['verify, refused'], TEXT]);
});

it('an endpoint that is asked for another model does not go on, but may say the same', async () => {
  const sim = answers(TEXT, { fault: 'cut', afterEvents: 4 });
  const call = await calls.stream(CHAT, { model: 'renamed', sim });
  const stream = strict(call.text);
  assert.deepEqual([call.ways, stream.text, stream.model], [['verify, model'], TEXT, 'renamed']);
  assert.equal(call.attempts[1].json.model, 'another');
});

it('a continuation that lacks the white space which was kept from it is not shown, but compared', async () => {
  const sim = answers(TEXT, { fault: 'cut', afterEvents: 3 }, { text: TEXT.replace('\n\n', '') });
  const call = await calls.stream(CHAT, { model: 'mistaken', sim });
  assert.deepEqual([call.ways, strict(call.text).text], [['continue', 'verify, differs'], TEXT]);
});

describe('a server that is no vLLM is not believed to go on', { concurrency: true }, () => {
  for (const path of [CHAT, COMPLETIONS]) {
    it(`${path}: it may begin again, and none of that is shown`, async () => {
      const places = await breaks(path);
      await each(places, async ({ afterEvents, shown }) => {
        const sim = answers(TEXT, { fault: 'cut', afterEvents }, { continues: 'ignored' }, { differsAt: 20 });
        const call = await calls.stream(path, { model: 'mistaken', sim });
        const at = JSON.stringify(shown);
        const isLate = [...shown].length > 20;
        assert.deepEqual(call.ways, ['continue', 'verify, differs'], at);
        const stream = strict(call.text, { interrupted: isLate });
        assert.equal(stream.text, isLate ? shown : await differing(path, 20), at);
      });
    });
  }

  it('but where somebody says that it goes on', async () => {
    // With that word it is asked whatever its events look like; this one says something else behind the same text.
    const sim = answers(TEXT, { fault: 'cut', afterEvents: 4 }, { continues: 'ignored', text: ' and more' });
    const call = await calls.stream(CHAT, { model: 'vouched', sim });
    assert.deepEqual(call.ways, ['continue']);
    assert.equal(strict(call.text).text, 'Zürich\n\nhas and more');
  });
});
