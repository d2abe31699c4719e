// OpenAI's routes over jobs: what a client gets is what the vLLM inside the worker said, to the byte, however its
// stream was cut into outputs and polls; and what the worker or the way destroyed is never passed off as whole.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { DEFAULT_TEXT, repeated } from '../upstream/tokens.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { CHAT, DONE, JobCall, MESSAGES, contentOf, startJobs } from './jobs.mjs';

const EMOJI = [{ role: 'user', content: 'Some emoji, please.' }];
const SEEDS = { cut1: [1, 7], cut2: [2, 3], cut3: [3, 80], cut4: [4, 0] };
const older = { handler: 'worker-vllm-older' };

/** A worker whose last word takes as long as three posts that fail; one of its outputs gets lost. */
const late = {
  generator: true,
  aggregate: true,
  async* run(_, { job }) {
    job.behaviour.drop = 2;
    const chunk = (delta, finish_reason = null) =>
      `data: ${JSON.stringify({ object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason }] })}\n\n`;
    yield* [chunk({ content: 'A' }), chunk({ content: ' fairlead' }), chunk({ content: ' guides' }), chunk({}, 'stop')];
    yield `${DONE}\n\n`;
    await sleep(2000);
  },
};

let runpod;
let gateway;
before(async () => {
  const cuts = Object.entries(SEEDS).map(([id, [seed, pieceBytes]]) => [id, { seed, pieceBytes }]);
  runpod = await startRunpod({
    handler: 'worker-vllm', warm: 1,
    endpoints: {
      llm: {}, late: { handler: late }, ...Object.fromEntries(cuts),
      older, lists: { ...older, rawOpenaiOutput: false }, flat: { ...older, flatErrors: true },
    },
  });
  gateway = await startJobs(runpod, ['llm', 'late', ...Object.keys(SEEDS), 'older', 'lists', 'flat'], {
    models: [{ name: 'failover', targets: [{ endpoint: 'llm' }, { endpoint: 'cut3' }] }],
  });
});
after(async () => {
  await gateway.close();
  await runpod.close();
  assert.deepEqual(gateway.troubles, []);
});

const call = (model, body, more) => new JobCall(gateway, runpod, model, body, more).ended;
const chat = (model, body, headers) => call(model, { messages: MESSAGES, stream: true, ...body }, { headers });

/** What the worker's vLLM sent, as the job's own result has it. */
const saidBy = ({ output }) => output.join('');

function assertWhole({ response, text, events, jobs }) {
  assert.equal(response.status, 200, text);
  assert.equal(jobs.length, 1);
  assert.equal(jobs[0].status, 'COMPLETED');
  assert.equal(events.map((event) => `${event}\n\n`).join(''), saidBy(jobs[0]));
}

describe('a stream over a job is what the worker\'s server sent', { concurrency: 4 }, () => {
  const dialects = {
    [CHAT]: [{ messages: MESSAGES }, /\[DONE\]\n\n$/],
    '/v1/completions': [{ prompt: 'What is a fairlead?' }, /\[DONE\]\n\n$/],
    '/v1/responses': [{ input: 'What is a fairlead?' }, /event: response.completed\n.*\n\n$/],
    '/v1/messages': [{ messages: MESSAGES, max_tokens: 100 }, /event: message_stop\n.*\n\n$/],
  };
  for (const [path, [body, end]] of Object.entries(dialects)) {
    for (const model of ['llm', 'older']) {
      it(`${path} of ${model}`, async () => {
        const streamed = await call(model, { ...body, stream: true }, { path });
        assertWhole(streamed);
        assert.match(streamed.text, end);
        assert.equal(streamed.jobs[0].input.openai_route, path);
      });
    }
  }

  it('the older worker\'s lists, which have no [DONE], get one', async () => {
    const { response, events, jobs } = await chat('lists');
    assert.equal(response.status, 200);
    assert.equal(events.pop(), DONE);
    assert.deepEqual(events.map((event) => JSON.parse(event.slice('data: '.length))), jobs[0].output.flat());
    assert.equal(contentOf(events), DEFAULT_TEXT);
  });

  for (const model of Object.keys(SEEDS)) {
    it(`with emoji, cut as ${model} does, and an answer of 400 tokens`, async () => {
      const streamed = await chat(model, { messages: EMOJI });
      assertWhole(streamed);
      assert.match(contentOf(streamed.events), /🪢, flags 🏴‍☠️ wave, crews 👩🏽‍✈️👨‍👩‍👧‍👦 cheer/);
      assertWhole(await chat(model, { sim: { text: '漁船 🌊🌊 \ufffd naïve', tokens: 400 } }));
    });
  }

  it('with several choices, usage, and equal tokens one behind another', async () => {
    const many = await chat('cut1', { n: 3, stream_options: { include_usage: true }, sim: { text: 'ha', tokens: 60 } });
    assertWhole(many);
    assert.match(many.text, /"usage":\{"prompt_tokens"/);
    assert.equal(many.text.split('"finish_reason":"stop"').length, 4);
  });

  it('in the order in which the outputs come, while they come', async () => {
    const slow = new JobCall(gateway, runpod, 'llm', { messages: MESSAGES, stream: true, sim: { tokenMs: 50 } });
    await slow.has('fairlead');
    assert.equal(slow.jobs[0].status, 'IN_PROGRESS');
    assertWhole(await slow.ended);
    assert.ok(slow.jobs[0].polls.stream > 3);
  });
});

describe('an answer that does not stream is the worker\'s server\'s own', { concurrency: 4 }, () => {
  const bodies = {
    [CHAT]: { messages: EMOJI, n: 2 },
    '/v1/completions': { prompt: 'emoji' },
    '/v1/responses': { input: 'emoji' },
    '/v1/messages': { messages: EMOJI, max_tokens: 50 },
    '/v1/messages/count_tokens': { messages: EMOJI },
    '/v1/embeddings': { input: ['a', 'b 🪢'] },
    '/v1/score': { text_1: 'a', text_2: ['b', 'c'] },
    '/v1/rerank': { query: 'a', documents: ['b', 'c'] },
    '/pooling': { input: 'a 🪢' },
    '/classify': { input: 'a' },
    '/tokenize': { prompt: 'emoji 🪢' },
    '/detokenize': { tokens: [1, 2] },
  };
  for (const [path, body] of Object.entries(bodies)) {
    it(path, async () => {
      const { response, json, jobs } = await call('llm', body, { path });
      assert.equal(response.status, 200);
      assert.match(response.headers.get('content-type'), /^application\/json/);
      assert.equal(response.headers.get('x-fairlead-endpoint'), 'llm');
      const timing = response.headers.get('server-timing');
      assert.match(timing, /queue;dur=\d+, execution;dur=\d+, worker;desc="[0-9a-f]{14}"/);
      assert.deepEqual([json], jobs[0].output);
    });
  }

  it('the older worker\'s', async () => {
    for (const model of ['older', 'lists', 'flat']) {
      const { json, jobs } = await call(model, { messages: EMOJI });
      assert.deepEqual([json], jobs[0].output);
    }
  });

  it('and the name that the target asks for stands in the body, all else untouched', async () => {
    const { jobs } = await call('llm', { messages: MESSAGES, top_k: 20, vllm_xargs: { a: 1.50 } });
    assert.deepEqual(jobs[0].input, {
      openai_route: CHAT, openai_input: { model: 'llm', messages: MESSAGES, top_k: 20, vllm_xargs: { a: 1.5 } },
    });
  });
});

it('a file is not carried by a job', async () => {
  const form = new FormData();
  form.set('model', 'llm');
  form.set('file', new Blob(['RIFF']), 'a.wav');
  const asked = runpod.requests.length;
  const response = await gateway.fetch('/v1/audio/transcriptions', { method: 'POST', body: form });
  assert.deepEqual([response.status, (await response.json()).error.code], [400, 'invalid_request']);
  assert.equal(runpod.requests.length, asked);
});

describe('what was lost on the way is made good from the job\'s result', { concurrency: 4 }, () => {
  const faults = {
    'a reply of /stream that a proxy answers for': { stream: ['lost-502'] },
    'one that is cut': { stream: ['ok', 'ok', 'cut'] },
    'one that is reset in the middle': { stream: ['ok', 'ok', 'cut-reset'] },
    'one that is half, as if it were whole': { stream: ['ok', 'malformed'] },
    'one that is empty': { stream: ['ok', 'empty'] },
    'one of another shape': { stream: ['ok', 'other-json'] },
    'all of them': { stream: Array(40).fill('lost-502') },
    '/stream that knows no job': { stream: Array(40).fill('http-404') },
    '/stream that knows no new job yet': { stream: ['http-404'] },
    'neither does /status': { stream: ['http-404'], status: ['http-404'] },
    'polls that are refused for a time': { stream: ['http-429', 'http-429', 'ok', 'http-429'] },
    'a final status that takes several requests': { status: ['reset', 'http-502', 'html', 'cut'] },
  };
  for (const [name, requests] of Object.entries(faults)) {
    it(name, async () => {
      assertWhole(await chat('cut1', { sim: { tokenMs: 20 }, sim_job: { faults: requests } }));
    });
  }

  it('/stream that knows the job later on is read from then on', async () => {
    const sim_job = { faults: { stream: ['http-404'] } };
    const { jobs: [{ polls }] } = await chat('llm', { sim: { tokenMs: 50 }, sim_job });
    assert.ok(polls.stream > 3 && polls.status === 2, JSON.stringify(polls));
  });

  it('a submission that is refused once, before anything was queued', async () => {
    for (const fault of ['http-429', 'http-503']) {
      const { response, jobs } = await chat('llm', { sim_job: { faults: { run: [fault] } } });
      assert.deepEqual([response.status, jobs.length], [200, 1]);
    }
  });

  it('a submission whose answer is lost: one more, and no third', async () => {
    const twice = await chat('llm', { sim_job: { faults: { run: ['lost'] } } });
    assert.equal(contentOf(twice.events), DEFAULT_TEXT);
    assert.equal(twice.requests.filter(({ operation }) => operation === 'run').length, 2);
    const never = await chat('llm', { sim_job: { faults: { run: ['lost', 'lost', 'lost'] } } });
    assert.deepEqual([never.response.status, never.json.error.code], [502, 'upstream_unreachable']);
    assert.equal(never.requests.filter(({ operation }) => operation === 'run').length, 2);
    assert.match(never.json.error.message, /may be at work all the same, no longer than its `ttl`/);
  });
});

describe('what nothing makes good ends in a typed error, never in a proof', { concurrency: 4 }, () => {
  const damages = {
    'a character that the worker destroyed': { mangle: true },
    'an output that was lost in the middle': { drop: 100 },
    'an output that was lost for ever': { drop: 100, dropEverywhere: true },
    'an output that stands there twice': { duplicate: 100 },
    'a second answer behind half of the first': { requeueAfter: 100 },
  };
  for (const [name, sim_job] of Object.entries(damages)) {
    it(name, async () => {
      const sim = { text: 'Boats moor ⛵ here 🪢.', tokens: 30, tokenMs: 15 };
      const broken = await chat('cut1', { sim, sim_job });
      assert.equal(broken.response.status, 200, broken.text);
      assert.equal(broken.error.code, 'stream_interrupted', broken.text);
      assert.ok(!broken.text.includes(DONE) && !/"finish_reason":"/.test(broken.text), broken.text);
      if (sim_job.mangle) return;
      // Outputs of some bytes: what is behind the hole is no event any more, and nothing is shown of it.
      const shown = contentOf(broken.events.slice(0, -1));
      assert.ok(shown.startsWith('Boats') && repeated(sim.text, 30).join('').startsWith(shown), shown);
    });
  }

  // workerd sends a GET again by itself where a connection that was used before breaks without an answer
  // (capnproto/capnproto#2785): nobody but the aggregate tells of the reply that was lost in between.
  it('a reply of /stream that is lost unnoticed', async () => {
    const sim_job = { faults: { stream: ['ok', 'lost'] } };
    const broken = await chat('llm', { sim: { tokens: 40, tokenMs: 15 }, sim_job });
    assert.equal(broken.error.code, 'stream_interrupted');
    assert.ok(!broken.text.includes(DONE) && !/"finish_reason":"/.test(broken.text), broken.text);
  });

  it('an output that was lost, of a job whose end comes long behind its last text', async () => {
    const call = new JobCall(gateway, runpod, 'late', { messages: MESSAGES, stream: true });
    await call.ended;
    assert.equal(call.error.code, 'stream_interrupted', call.text);
    assert.ok(!call.text.includes(DONE));
  });

  it('a job that never ends, though its text has: nobody can tell whether that is all', async () => {
    const never = await chat('llm', { sim_job: { neverDone: true } }, { 'x-fairlead-deadline-ms': '2500' });
    assert.equal(never.error.code, 'deadline_exceeded');
    assert.ok(never.text.includes('true') && !never.text.includes(DONE) && !/"finish_reason":"/.test(never.text));
  });

  it('which names the characters that were destroyed, and the log does too', async () => {
    const torn = await chat('llm', { messages: EMOJI, sim_job: { mangle: true } });
    assert.match(torn.error.message, /destroyed \d characters \(U\+FFFD\)/);
    const line = await torn.line({ event: 'characters_destroyed' });
    assert.ok(line.characters > 0);
  });

  it('a character of an answer that does not stream and was cut is no concern: it is one output', async () => {
    const { response, json, jobs } = await chat('llm', { stream: false, messages: EMOJI, sim_job: { mangle: true } });
    assert.equal(response.status, 200);
    assert.deepEqual([json], jobs[0].output);
  });

  it('a worker that is lost in mid-stream', async () => {
    const lost = await chat('cut1', { sim: { tokenMs: 20 }, sim_job: { workerLostAfter: 150 } });
    assert.equal(lost.error.code, 'job_failed');
    assert.match(lost.error.message, /worker of endpoint `cut1` that had the job was lost/);
    assert.ok(!lost.text.includes(DONE));
  });

  it('a worker that is lost before it said anything: the job is run once more', async () => {
    const again = await chat('failover', { sim_job: { workerLostAfter: 1, drop: 1 } });
    assert.equal(again.jobs.length, 3 - 1, again.text);
  });
});

describe('what the worker\'s server refuses', { concurrency: 4 }, () => {
  for (const stream of [true, false]) {
    const asked = stream ? 'a stream' : 'an answer';
    it(`is passed on with its own status and body: ${asked}`, async () => {
      for (const [fault, status] of [['context-length', 400], ['http-404', 404], ['http-422', 422]]) {
        const { response, json, requests } = await chat('llm', { stream, sim: { fault } });
        assert.equal(response.status, status);
        const sent = JSON.parse(runpod.endpoint('llm').vllm.requests.findLast((each) => each.fault === fault).sent);
        assert.deepEqual(json, sent);
        assert.equal(requests.filter(({ operation }) => operation === 'run').length, 1);
      }
    });

    it(`is asked for again where it had no room, and of another: ${asked}`, async () => {
      for (const fault of ['http-503', 'http-429', 'http-500']) {
        const { response, requests } = await chat('failover', { stream, sim: { fault } });
        const runs = requests.filter(({ operation }) => operation === 'run').map(({ endpoint }) => endpoint);
        // The fault stands in the body, so the second endpoint has it too.
        assert.deepEqual(runs.slice(0, 2), ['llm', 'cut3'], fault);
        assert.notEqual(response.status, 200);
      }
    });
  }

  it('and an apostrophe in it changes Python\'s quotes', async () => {
    const error = { message: 'it\'s "bad"\n\u00a0🪢', code: 400 };
    const sim = { fault: 'status', status: 400, body: JSON.stringify({ error }) };
    const { response, json } = await chat('llm', { sim });
    assert.deepEqual([response.status, json], [400, { error }]);
  });

  it('the older worker\'s errors have their status too, in either form', async () => {
    for (const model of ['older', 'flat']) {
      for (const stream of [true, false]) {
        const { response, json } = await chat(model, { stream, messages: 'x' });
        assert.deepEqual([response.status, json.error?.code ?? json.code], [400, 400], `${model} ${stream}`);
        assert.match(json.error?.message ?? json.message, /messages/);
      }
    }
  });
});

it('an error in the middle of the stream is an error, with [DONE] behind it or not', async () => {
  for (const model of ['llm', 'older', 'lists']) {
    const broken = await chat(model, { sim: { fault: 'error-mid-stream' } });
    assert.equal(broken.error.code, 'stream_interrupted');
    assert.ok(!broken.text.includes(DONE));
  }
});
