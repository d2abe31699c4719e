// RunPod's own SDKs, by base URL alone, and its own worker behind the gateway: what a user has before the gateway comes
// in between goes on working.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import runpodSdk from 'runpod-sdk';
import { ensureSdk } from '../upstream/real-worker.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { sha256, startGateway } from './gateway.mjs';
import { jobEndpoints } from './jobs.mjs';

const KEY = 'sk-client-0123456789';

const python = await ensureSdk();

let runpod;
let gateway;
before(async () => {
  const names = ['any', 'generator', 'sleep', 'raise'];
  const handlers = { any: 'echo', generator: 'generator', sleep: 'sleep', raise: 'raise' };
  runpod = await startRunpod({
    warm: 1, concurrency: 10,
    endpoints: Object.fromEntries(names.map((name) => [name, { handler: handlers[name] }])),
  });
  gateway = await startGateway({
    endpoints: jobEndpoints(runpod, names, { native: true }),
    models: [{ name: 'any', targets: [{ endpoint: 'any' }] }],
    clients: [{ name: 'app', keys_sha256: [sha256(KEY)], runpod: names }],
  }, { secrets: { RUNPOD_API_KEY: runpod.apiKey } });
});
after(async () => {
  await gateway.close();
  await runpod.close();
  assert.deepEqual(gateway.troubles, []);
});

describe('RunPod\'s npm SDK', () => {
  // It tells every poll.
  const { log } = console;
  before(() => { console.log = () => {}; });
  after(() => { console.log = log; });

  const endpoint = (name) => runpodSdk(KEY, { baseUrl: `${gateway.url}/runpod` }).endpoint(name);

  it('runs, waits, and tells the status', async () => {
    const { completed, succeeded, output } = await endpoint('any').runSync({ input: { a: '🪢' } });
    assert.deepEqual([completed, succeeded, output], [true, true, { a: '🪢' }]);
    const { id, status } = await endpoint('any').run({ input: { b: 2 } });
    assert.equal(status, 'IN_QUEUE');
    const waited = await endpoint('any').statusSync(id);
    assert.deepEqual([waited.status, waited.output], ['COMPLETED', { b: 2 }]);
    assert.equal((await endpoint('any').status(id)).status, 'COMPLETED');
    assert.ok((await endpoint('any').health()).workers.ready >= 1);
  });

  it('waits for longer than its first answer may take', async () => {
    const { completed, output } = await endpoint('sleep').runSync({ input: { ms: 1800 } }, 1000);
    assert.deepEqual([completed, output], [true, { slept: 1800 }]);
  });

  it('streams, though it polls without a pause', async () => {
    const { id } = await endpoint('generator').run({ input: { n: 10, everyMs: 50 } });
    const outputs = [];
    for await (const { output } of endpoint('generator').stream(id)) outputs.push(output.index);
    assert.deepEqual(outputs, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    const { polls } = runpod.endpoint('generator').jobs.all.at(-1);
    assert.ok(polls.stream <= 20, `${polls.stream} polls`);
  });

  it('cancels', async () => {
    const { id } = await endpoint('sleep').run({ input: { ms: 60_000 } });
    assert.equal((await endpoint('sleep').cancel(id)).status, 'CANCELLED');
    const { status, completed, succeeded } = await endpoint('sleep').status(id);
    assert.deepEqual([status, completed, succeeded], ['CANCELLED', true, false]);
  });

  it('throws what a handler raised', async () => {
    await assert.rejects(endpoint('raise').runSync({ input: {} }), ({ response }) => {
      assert.deepEqual([response.status, response.data.error.code], [502, 'job_failed']);
      assert.equal(response.data.status, 'FAILED');
      return true;
    });
  });
});

it('RunPod\'s Python SDK', { skip: python === null && 'needs Python 3.10 and PyPI' }, async () => {
  const script = fileURLToPath(new URL('runpod-sdk.py', import.meta.url));
  const { stdout } = await promisify(execFile)(python, [script], {
    env: { PATH: process.env.PATH, RUNPOD_ENDPOINT_BASE_URL: `${gateway.url}/runpod`, RUNPOD_API_KEY: KEY },
    timeout: 60_000,
  });
  const { blocking, awaiting } = JSON.parse(stdout);
  const { raised, unauthorized, health, ...rest } = blocking;
  assert.deepEqual(rest, {
    run_sync: { a: '🪢' }, run: { b: 2 }, status: 'COMPLETED', stream: [0, 1, 2, 3, 4], cancel: 'CANCELLED',
    cancelled: 'CANCELLED',
  });
  assert.ok(health >= 1);
  // What it hides elsewhere: there a handler's exception is an output of None.
  assert.match(raised, /The handler of endpoint `raise` raised: ValueError: no voice/);
  assert.match(unauthorized, /401 Unauthorized/);
  assert.deepEqual(awaiting, { stream: [0, 1, 2], output: { c: 3 } });
});
