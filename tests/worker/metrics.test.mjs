// What became of requests: each is counted once and leaves one line, one data point, and its place in /status and
// /metrics, whatever it came to; and none of that holds what is nobody's business.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { ensureSdk } from '../upstream/real-worker.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { DATASET, pointsOf } from './dataset.mjs';
import { endpointsOf, sha256, startGateway, STATE, STAYS_CLOSED } from './gateway.mjs';

const ADMIN_KEY = 'sk-admin-0123456789';
const CLIENT_KEY = 'sk-client-0123456789';
const ENDPOINT_KEY = 'sk-endpoint-0123456789';
const PROMPT = 'a prompt that nobody else may read';
const CHAT = '/v1/chat/completions';
const BODY = { model: 'qwen', messages: [{ role: 'user', content: PROMPT }] };
const ODD = 'org/"odd\\ name: 1';

const python = await ensureSdk();

const bearer = (key) => ({ authorization: `Bearer ${key}` });

let first;
let second;
let runpod;
before(async () => {
  [first, second, runpod] = await Promise.all([
    startVllm({ apiKey: ENDPOINT_KEY }), startVllm({ apiKey: ENDPOINT_KEY }), startRunpod({ apiKey: ENDPOINT_KEY, handler: 'worker-vllm', warm: 1, endpoints: { ep: {} } }),
  ]);
});
after(() => Promise.all([first.close(), second.close(), runpod.close()]));

const config = (more) => ({
  endpoints: [
    ...endpointsOf({ first, second }).map((each) => ({ ...each, api_key_secret: 'VLLM_API_KEY' })),
    { name: 'burst', provider: 'runpod', base_url: `${runpod.url}/v2/ep`, api_key_secret: 'VLLM_API_KEY', native: true },
  ],
  models: [
    { name: 'qwen', targets: [{ endpoint: 'first' }, { endpoint: 'second' }] },
    { name: ODD, targets: [{ endpoint: 'second' }] },
    { name: 'jobs', targets: [{ endpoint: 'burst' }] },
  ],
  policies: { default: { backoff: { base_ms: 1, max_ms: 1 }, breaker: STAYS_CLOSED, max_request_bytes: 5000 } },
  clients: [{ name: 'web', keys_sha256: [sha256(CLIENT_KEY)], models: ['qwen', ODD, 'jobs'], runpod: ['burst'] }],
  admin_key_secret: 'ADMIN_KEY',
  ...more,
});

async function started({ config: more, secrets, ...rest } = {}) {
  return startGateway(config(more), { secrets: { ADMIN_KEY, VLLM_API_KEY: ENDPOINT_KEY, ...secrets }, ...rest });
}

async function ended(gateway) {
  await gateway.close();
  assert.deepEqual(gateway.troubles, []);
  const printed = gateway.printed.join('\n');
  for (const secret of [PROMPT, CLIENT_KEY, ADMIN_KEY, ENDPOINT_KEY, first.url, second.url, runpod.url]) {
    assert.ok(!printed.includes(secret), `${secret} was logged`);
  }
}

/** One request of every kind; each with what is to be its outcome and its model. */
const REQUESTS = {
  'a stream': [{ body: { ...BODY, stream: true } }, 'ok', 'qwen'],
  'a whole answer': [{ body: BODY }, 'ok', 'qwen'],
  'another name': [{ body: { ...BODY, model: ODD } }, 'ok', ODD],
  'a second attempt': [{ body: { ...BODY, sim: ['http-503'] } }, 'ok', 'qwen'],
  'a failure': [{ body: { ...BODY, sim: 'reset' } }, 'upstream_unreachable', 'qwen'],
  'a broken stream': [{ body: { ...BODY, stream: true, sim: { fault: 'cut', afterEvents: 8 } } }, 'stream_interrupted', 'qwen'],
  "the endpoint's own refusal": [{ body: { ...BODY, sim: 'http-422' } }, 'upstream_422', 'qwen'],
  'no time': [{ body: { ...BODY, sim: 'stall' }, headers: { 'x-fairlead-deadline-ms': '300' } }, 'deadline_exceeded', 'qwen'],
  'a job': [{ body: { ...BODY, model: 'jobs' } }, 'ok', 'jobs'],
  "a job of the client's own": [{ path: '/runpod/burst/run', body: { input: { prompt: PROMPT } } }, 'ok', 'burst'],
  'the list of models': [{ path: '/v1/models' }, 'ok', ''],
  'one model': [{ path: '/v1/models/qwen' }, 'ok', ''],
  'a model that is not there': [{ path: '/v1/models/none' }, 'model_not_found', ''],
  'no key': [{ body: BODY, key: '' }, 'invalid_api_key', ''],
  'another key': [{ body: BODY, key: 'sk-nobody' }, 'invalid_api_key', ''],
  'a model that is closed': [{ body: { ...BODY, model: 'none' } }, 'model_not_found', ''],
  'a policy that is closed': [{ body: BODY, headers: { 'x-fairlead-policy': 'default' } }, 'forbidden', ''],
  'no JSON': [{ body: '{' }, 'invalid_request', ''],
  'too much': [{ body: { ...BODY, pad: 'x'.repeat(6000) } }, 'request_too_large', ''],
  'a wrong method': [{ path: CHAT }, 'method_not_allowed', ''],
  'a wrong deadline': [{ body: BODY, headers: { 'x-fairlead-deadline-ms': 'soon' } }, 'invalid_request', ''],
  "another's endpoint": [{ path: '/runpod/nobody/health' }, 'route_not_found', ''],
};

/** What is no request to a client's route. */
const OTHERS = [
  ['/health'], ['/status'], ['/metrics'], ['/nothing'], ['/v1/nothing'], ['/v1/modelsx'],
  [CHAT, { method: 'OPTIONS', headers: { origin: 'https://a.example', 'access-control-request-method': 'POST' } }],
];

async function send(gateway, id, { path = CHAT, key = CLIENT_KEY, headers, ...init }) {
  const response = await gateway.fetch(path, { headers: { ...(key && bearer(key)), 'x-request-id': id, ...headers }, ...init });
  return { status: response.status, text: await response.text() };
}

async function admin(gateway, path) {
  const response = await gateway.fetch(path, { headers: bearer(ADMIN_KEY) });
  return { response, text: await response.text() };
}

const idOf = (name) => name.replaceAll(/[^a-z]/g, '-');

describe('every request to a client\'s route', { concurrency: true }, () => {
  let gateway;
  let status;
  let metrics;
  before(async () => {
    gateway = await started({ env: { STATE }, prelude: DATASET });
    for (const [name, [request]] of Object.entries(REQUESTS)) await send(gateway, idOf(name), request);
    for (const [path, init] of OTHERS) await (await gateway.fetch(path, init)).text();
    for (const name of Object.keys(REQUESTS)) await gateway.line({ request_id: idOf(name), event: 'call_ended' });
    status = JSON.parse((await admin(gateway, '/status?store=no')).text);
    metrics = (await admin(gateway, '/metrics')).text;
  });
  after(() => ended(gateway));

  for (const [name, [{ path = CHAT }, outcome, model]] of Object.entries(REQUESTS)) {
    it(`leaves one line: ${name}`, () => {
      const lines = gateway.logs.filter(({ request_id, event }) => request_id === idOf(name) && event === 'call_ended');
      assert.equal(lines.length, 1);
      const [line] = lines;
      assert.deepEqual([line.outcome, line.model ?? ''], [outcome, model]);
      assert.ok(path.startsWith(line.route), line.route);
      assert.equal(line.client, outcome === 'invalid_api_key' || outcome === 'method_not_allowed' ? undefined : 'web');
      assert.ok(line.timeline.every(({ at_ms }) => at_ms >= 0 && at_ms <= line.total_ms));
    });
  }

  it('and no other request does', () => {
    const ended = gateway.logs.filter(({ event }) => event === 'call_ended');
    assert.equal(ended.length, Object.keys(REQUESTS).length);
  });

  it('leaves one data point', () => {
    const points = pointsOf(gateway);
    const expected = Object.values(REQUESTS).map(([, outcome, model]) => `${model} ${outcome}`);
    assert.deepEqual(points.map(({ indexes: [model], blobs: [outcome] }) => `${model} ${outcome}`).sort(), expected.sort());
    for (const { indexes, blobs, doubles } of points) {
      assert.deepEqual([indexes.length, blobs.length, doubles.length], [1, 7, 7]);
      assert.ok([...indexes, ...blobs].every((text) => typeof text === 'string'));
      assert.ok(doubles.every((number) => Number.isFinite(number) && number >= -1));
    }
    const [failed] = points.filter(({ blobs: [outcome] }) => outcome === 'upstream_unreachable');
    assert.deepEqual(failed.blobs.slice(2, 5), ['web', CHAT, 'unreachable']);
    assert.match(failed.blobs[6], /^(first|second)$/);
    const [stream] = points.filter(({ doubles }) => doubles[6] === 1);
    assert.ok(stream.doubles[1] >= 0 && stream.doubles[3] > 0);
  });

  it('is counted once in /metrics', () => {
    const counted = [...metrics.matchAll(/^fairlead_calls_total\{.*\} (\d+)$/gm)].map(([, count]) => Number(count));
    assert.equal(counted.reduce((sum, count) => sum + count), Object.keys(REQUESTS).length);
  });

  it('is counted once in /status', () => {
    const sum = (counts) => Object.values(counts).reduce((all, count) => all + count, 0);
    const byModel = (name) => Object.values(REQUESTS).filter(([, , model]) => model === name).length;
    assert.deepEqual(
      status.models.map(({ name, outcomes, attempts }) => [name, sum(outcomes), sum(attempts)]),
      ['qwen', ODD, 'jobs'].map((name) => [name, byModel(name), byModel(name)]),
    );
    const refused = Object.values(REQUESTS).filter(([, outcome, model]) => model === '' && outcome !== 'ok');
    assert.equal(sum(status.refused), refused.length);
    assert.equal(status.calls.length, Object.values(REQUESTS).filter(([, , model]) => model !== '').length);
    const [newest] = status.calls;
    assert.equal(newest.request_id, idOf("a job of the client's own"));
  });

  it('has its attempts counted by endpoint and by what became of them', () => {
    const [one, two] = status.endpoints;
    assert.deepEqual([one.name, two.name], ['first', 'second']);
    assert.equal(one.failures.http_503, 1);
    assert.ok(one.failures.unreachable > 0 && one.failures.http_422 === 1 && one.failures.cut === 1);
    const seen = (server) => server.requests.length;
    assert.deepEqual([one.attempts, two.attempts], [seen(first), seen(second)]);
  });

  it('and what it says of RunPod is what RunPod has told', () => {
    const { jobs } = status.endpoints.find(({ name }) => name === 'burst');
    assert.equal(jobs.queue_ms.count, 1);
    assert.ok(jobs.execution_ms.sum_ms > 0 && jobs.max_execution_ms === 600_000);
    assert.ok(jobs.workers > 0 && jobs.looked_at_ms > 0);
    assert.equal(status.endpoints[0].jobs, null);
  });

  it('under the limits that are in force', () => {
    const [{ policy }] = status.models;
    assert.deepEqual(policy, {
      name: 'default', deadline_ms: 300_000, first_token_ms: 120_000, idle_ms: 60_000, progress_ms: 120_000,
      queue_ms: 600_000, max_attempts: 3,
    });
  });

  it('by an isolate that says which it is, and under which configuration', () => {
    assert.match(status.isolate.id, /^[0-9a-f]{8}$/);
    assert.ok(status.isolate.since_ms <= status.now_ms);
    assert.ok(status.isolate.colo === null || typeof status.isolate.colo === 'string');
    assert.deepEqual([status.config.source, status.config.refused], ['var', null]);
    assert.equal(status.store.kind, 'kv');
  });

  it('without a word of what is nobody\'s business', () => {
    for (const secret of [PROMPT, CLIENT_KEY, ADMIN_KEY, ENDPOINT_KEY, first.url, second.url, runpod.url]) {
      for (const page of [metrics, JSON.stringify(status)]) assert.ok(!page.includes(secret), secret);
    }
  });
});

describe('/metrics', () => {
  let gateway;
  before(async () => {
    gateway = await started();
    for (const model of ['qwen', 'qwen', ODD]) await send(gateway, 'm', { body: { ...BODY, model } });
    await send(gateway, 'm', { body: { ...BODY, sim: 'reset' } });
  });
  after(() => ended(gateway));

  it('takes the admin\'s key and no other', async () => {
    for (const [key, code] of [['', 401], [CLIENT_KEY, 401], [ADMIN_KEY, 200]]) {
      const response = await gateway.fetch('/metrics', { headers: key && bearer(key) });
      await response.text();
      assert.equal(response.status, code, key);
    }
  });

  it('is Prometheus\' text format', async () => {
    const { response, text } = await admin(gateway, '/metrics');
    assert.equal(response.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8');
    assert.ok(text.endsWith('\n') && !text.includes('\n\n'));
    const names = [...text.matchAll(/^# TYPE (\S+) (counter|gauge|histogram)$/gm)];
    assert.equal(new Set(names.map(([, name]) => name)).size, names.length);
    for (const [, name, type] of names) assert.equal(name.endsWith('_total'), type === 'counter', name);
  });

  it('counts buckets up to their bounds', async () => {
    const { text } = await admin(gateway, '/metrics');
    const buckets = [...text.matchAll(/^fairlead_call_seconds_bucket\{model="qwen",le="(.*)"\} (\d+)$/gm)];
    const counts = buckets.map(([, , count]) => Number(count));
    assert.deepEqual(counts, [...counts].sort((a, b) => a - b));
    const bounds = buckets.map(([, bound]) => (bound === '+Inf' ? Infinity : Number(bound)));
    assert.deepEqual(bounds, [...bounds].sort((a, b) => a - b));
    assert.deepEqual([counts.at(-1), bounds.at(-1)], [3, Infinity]);
    assert.match(text, /^fairlead_call_seconds_count\{model="qwen"\} 3$/m);
  });

  it('is read by Prometheus\' own parser', { skip: python === null && 'needs Python 3.10 and PyPI' }, async () => {
    const { text } = await admin(gateway, '/metrics');
    const file = join(tmpdir(), `fairlead-metrics-${process.pid}.txt`);
    await writeFile(file, text);
    const script = `
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = text_string_to_metric_families(open(sys.argv[1]).read())
print(json.dumps([[f.name, f.type, f.documentation, [[s.name, s.labels, s.value] for s in f.samples]] for f in families]))`;
    const { stdout } = await promisify(execFile)(python, ['-c', script, file]);
    const families = JSON.parse(stdout.replaceAll('Infinity', '"Infinity"'));
    const of = (name) => families.find(([other]) => other === name)[3];
    assert.ok(families.every(([, , documentation]) => documentation.length > 0));
    const calls = of('fairlead_calls').map(([, { model, outcome }, count]) => [model, outcome, count]);
    assert.deepEqual(calls.sort(), [['qwen', 'ok', 2], ['qwen', 'upstream_unreachable', 1], [ODD, 'ok', 1]].sort());
    assert.deepEqual(of('fairlead_in_flight').map(([, { endpoint }, value]) => [endpoint, value]), [
      ['first', 0], ['second', 0], ['burst', 0],
    ]);
    const [[, , start]] = of('fairlead_isolate_start_seconds');
    assert.ok(Math.abs(start - Date.now() / 1000) < 600);
  });
});

describe('a dataset', () => {
  it('that throws hurts no call', async (t) => {
    const gateway = await started({
      prelude: DATASET.replace('console.log', 'throw new Error(\'no dataset\'); console.log'),
    });
    t.after(() => ended(gateway));
    assert.equal((await send(gateway, 'x', { body: BODY })).status, 200);
    assert.equal((await gateway.line({ request_id: 'x', event: 'call_ended' })).outcome, 'ok');
    assert.deepEqual(pointsOf(gateway), []);
  });

  it('as the platform binds it takes the points', async (t) => {
    const gateway = await started({ env: { METRICS: { type: 'analytics-engine-dataset', name: 'fairlead' } } });
    t.after(() => ended(gateway));
    assert.equal((await send(gateway, 'x', { body: BODY })).status, 200);
  });
});

describe('the log', () => {
  const lines = ({ logs }) => logs.filter(({ event }) => event === 'call_ended').map(({ request_id }) => request_id);
  const KINDS = {
    well: { body: BODY }, again: { body: { ...BODY, sim: ['http-503'] } }, badly: { body: { ...BODY, sim: 'reset' } },
    refused: { body: BODY, key: '' },
  };

  for (const [log, expected] of Object.entries({
    calls: ['well', 'again', 'badly', 'refused'], failures: ['again', 'badly', 'refused'], off: [],
  })) {
    it(`has with ${log} ${expected.join(', ') || 'none'}`, async (t) => {
      const gateway = await started({ config: { log }, prelude: DATASET });
      t.after(() => ended(gateway));
      for (const [kind, request] of Object.entries(KINDS)) await send(gateway, `${log}-${kind}`, request);
      assert.equal(pointsOf(gateway).length, 4);
      assert.deepEqual(lines(gateway), expected.map((kind) => `${log}-${kind}`));
    });
  }
});
