// docs/operate.md, held to what a gateway says: its fields, its names, and its SQL on real data points.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { after, before, describe, it } from 'node:test';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { DATASET, pointsOf } from './dataset.mjs';
import { endpointsOf, sha256, startGateway, STATE, STAYS_CLOSED } from './gateway.mjs';

const repository = new URL('../../', import.meta.url);
const page = readFileSync(new URL('docs/operate.md', repository), 'utf8');
const source = readFileSync(new URL('src/event.rs', repository), 'utf8');

const section = (name) => new RegExp(`^## ${name}$([^]*?)(?=^## |$(?![^]))`, 'm').exec(page)[1];
const queries = [...page.matchAll(/^```sql\n([^]*?)^```$/gm)].map(([, sql]) => sql);
const answers = [...page.matchAll(/^```json answer\n([^]*?)^```$/gm)].map(([, json]) => JSON.parse(json));
/** The rows of the n-th table of a section, as the words in code of each cell. */
const table = (name, at = 0) => [...section(name).matchAll(/^\|.*\|\n\|[-|]+\|\n((?:\|.*\|\n)+)/gm)][at][1]
  .trim().split('\n').map((row) => row.split('|').slice(1, -1).map((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, word]) => word)));

const KEYS = { web: 'sk-web-0123456789', batch: 'sk-batch-0123456789' };
const ADMIN_KEY = 'sk-admin-0123456789';
const CHAT = '/v1/chat/completions';
const MESSAGES = [{ role: 'user', content: 'Hello' }];
const TRACEPARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';

let gateway;
let servers;
let ended;
let status;
let metrics;
before(async () => {
  const [a100, spare, runpod] = await Promise.all([
    startVllm(), startVllm(), startRunpod({ handler: 'worker-vllm', warm: 1, endpoints: { ep: {} } }),
  ]);
  servers = [a100, spare, runpod];
  gateway = await startGateway({
    endpoints: [
      ...endpointsOf({ a100, spare }),
      { name: 'burst', provider: 'runpod', base_url: runpod.baseUrl('ep'), api_key_secret: 'RUNPOD_KEY' },
    ],
    models: [
      { name: 'qwen', targets: [{ endpoint: 'a100' }, { endpoint: 'spare' }] },
      { name: 'small', targets: [{ endpoint: 'spare' }] },
      { name: 'jobs', targets: [{ endpoint: 'burst' }] },
    ],
    policies: { default: { backoff: { base_ms: 1, max_ms: 1 }, breaker: STAYS_CLOSED } },
    clients: Object.entries(KEYS).map(([name, key]) => ({ name, keys_sha256: [sha256(key)] })),
    admin_key_secret: 'ADMIN_KEY',
  }, { secrets: { ADMIN_KEY, RUNPOD_KEY: runpod.apiKey }, env: { STATE }, prelude: DATASET });

  const faults = ['ok', 'ok', 'ok', ['http-503'], ['reset'], 'http-500', 'cut', 'http-422'];
  const kinds = Object.keys(KEYS).flatMap((client) => ['qwen', 'small'].flatMap((model) =>
    [true, false].flatMap((stream) => faults.map((sim) => ({ client, body: { model, stream, messages: MESSAGES, sim } })))));
  kinds.push(...['jobs', 'none'].map((model) => ({ client: 'web', body: { model, messages: MESSAGES } })));
  kinds.push(...Array.from({ length: 5 }, () => ({ client: 'nobody', body: {} })));
  for (let at = 0; at < kinds.length; at += 8) await Promise.all(kinds.slice(at, at + 8).map((kind, n) => send(kind, at + n)));
  for (let at = 0; at < kinds.length; at += 1) await gateway.line({ request_id: `call-${at}`, event: 'call_ended' });
  ended = gateway.logs.filter(({ event }) => event === 'call_ended');
  const ask = async (path) => (await gateway.fetch(path, { headers: { authorization: `Bearer ${ADMIN_KEY}` } })).text();
  status = JSON.parse(await ask('/status'));
  metrics = await ask('/metrics');
});
after(async () => {
  await gateway.close();
  await Promise.all(servers.map((server) => server.close()));
  assert.deepEqual(gateway.troubles, []);
});

async function send({ client, body }, at) {
  const headers = { authorization: `Bearer ${KEYS[client]}`, 'x-request-id': `call-${at}`, traceparent: TRACEPARENT };
  // A stream that breaks and cannot say so breaks for its client.
  await gateway.fetch(CHAT, { body, headers }).then((response) => response.text()).catch(() => {});
}

describe('the log line', () => {
  it('has the fields of the table, and the table has those of the line', () => {
    const told = table('The log').flatMap(([words]) => words);
    // No call of this test is a rehearsal.
    const seen = new Set(['fault', ...ended.flatMap((line) => Object.keys(line))]);
    assert.deepEqual([...told, 'event'].sort(), [...seen].sort());
  });

  it('has those of the example', () => {
    const [example] = answers;
    const line = ended.find(({ outcome, stream, attempts }) => outcome === 'ok' && stream && attempts === 2);
    assert.deepEqual(Object.keys(line), Object.keys(example));
    assert.deepEqual(line.timeline.slice(0, 3).map((moment) => Object.keys(moment)), example.timeline.map((moment) => Object.keys(moment)));
  });

  it('has a timeline of the events in the table, with their fields', () => {
    const snake = (name) => name.replaceAll(/(?<=.)[A-Z]/g, (letter) => `_${letter}`).toLowerCase();
    const beside = ['job_cancelled', 'breaker_opened', 'breaker_closed', 'store_failed', 'rate_limiter_failed', 'call_ended'];
    const known = [...source.matchAll(/^    ([A-Z]\w+) \{$([^]*?)^    \},$/gm)]
      .map(([, name, body]) => [snake(name), [...body.matchAll(/^        (\w+): /gm)].map(([, field]) => field)]);
    const told = table('The log', 1).map(([[event], fields]) => [event, fields]);
    assert.deepEqual(told.sort(), known.filter(([name]) => !beside.includes(name)).sort());
    for (const [name] of known.filter(([each]) => beside.includes(each))) assert.ok(section('The log').includes(`\`${name}\``), name);
  });
});

describe('/status', () => {
  /** Where names stand that are data, or what the store has. */
  const DATA = ['failures', 'outcomes', 'refused', 'stored', 'timeline'];
  const paths = (value, path = '') => {
    if (Array.isArray(value)) return value.flatMap((each) => paths(each, `${path}[]`));
    if (value === null || typeof value !== 'object') return [path];
    return Object.entries(value).flatMap(([name, each]) => (DATA.includes(name) ? [`${path}.${name}`] : paths(each, `${path}.${name}`)));
  };

  it('has the fields of the example', () => {
    const [, example] = answers;
    const nullable = ['.endpoints[].jobs', '.endpoints[].breakers[]'];
    const known = (value) => [...new Set(paths(value))].filter((path) => !nullable.includes(path)).sort();
    assert.deepEqual(known(status), known(example));
  });

  it('has the parts of the table', () => {
    const told = table('Status').map(([[part]]) => part.split(/\[|\./)[0]);
    assert.deepEqual([...new Set(told)].sort(), Object.keys(status).filter((name) => name !== 'now_ms').sort());
  });
});

describe('/metrics', () => {
  it('has the names, types and labels of the table', () => {
    const types = [...metrics.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => {
      const [, labels = ''] = new RegExp(`^${name}(?:_bucket)?(?:\\{(.*)\\})? `, 'm').exec(metrics) ?? assert.fail(name);
      return [name, type, [...labels.matchAll(/(\w+)="/g)].map(([, label]) => label).filter((label) => label !== 'le')];
    });
    const rows = section('Metrics').split('\n').filter((row) => row.startsWith('| `fairlead_')).map((row) => row.split('|').map((cell) => cell.trim()));
    const words = (cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, word]) => word);
    assert.deepEqual(types.sort(), rows.map(([, name, type, labels]) => [...words(name), type, words(labels)]).sort());
  });
});

describe('a query', () => {
  /** What Analytics Engine's SQL has of what is used here, beside SQL itself. */
  const FUNCTIONS = ['NOW', 'SUM', 'sumIf', 'quantileExactWeighted', 'toStartOfInterval'];
  const SECONDS = { HOUR: 3600, DAY: 86_400 };
  let database;
  let points;

  before(() => {
    points = pointsOf(gateway);
    database = new DatabaseSync(':memory:');
    const columns = (kind) => Array.from({ length: 7 }, (_, at) => `${kind}${at + 1}`);
    const names = ['timestamp', '_sample_interval', 'index1', ...columns('blob'), ...columns('double')];
    database.exec(`CREATE TABLE fairlead (${names.join(', ')})`);
    const row = database.prepare(`INSERT INTO fairlead VALUES (${names.map(() => '?').join(', ')})`);
    const now = Math.floor(Date.now() / 1000);
    for (const { indexes, blobs, doubles } of points) row.run(now, 1, ...indexes, ...blobs, ...doubles);
    // What is too old is no part of any answer.
    row.run(now - 40 * SECONDS.DAY, 1, 'old', ...columns('x'), ...columns('x').map(() => 1));
    database.function('NOW', () => now);
    database.function('toStartOfInterval', (at, seconds) => at - (at % seconds));
    database.aggregate('sumIf', { start: 0, step: (sum, value, counts) => (counts ? sum + value : sum) });
    database.aggregate('quantileExactWeighted', {
      start: () => [],
      step: (seen, level, value, weight) => [...seen, [level, value, weight]],
      result: (seen) => {
        const sorted = seen.sort(([, a], [, b]) => a - b);
        const all = sorted.reduce((sum, [, , weight]) => sum + weight, 0);
        let below = 0;
        return sorted.find(([level, , weight]) => (below += weight) >= level * all)[1];
      },
    });
  });
  after(() => database.close());

  /** A query in the words of SQLite. */
  const translated = (sql) => sql
    .replaceAll(/INTERVAL '(\d+)' (\w+)/g, (_, count, unit) => count * SECONDS[unit])
    .replaceAll(/quantileExactWeighted\(([\d.]+)\)\(/g, 'quantileExactWeighted($1, ');
  const run = (sql) => database.prepare(translated(sql)).all();
  const of = (words) => queries.find((sql) => sql.includes(words)) ?? assert.fail(words);

  for (const sql of queries) {
    const [, what] = /AS (\w+),?\n? *(?:SUM|FROM|[a-z])/.exec(sql);
    it(`is answered: ${sql.split('\n')[0].slice(0, 60)} (${what})`, () => {
      const used = [...sql.replaceAll(/'[^']*'/g, '').matchAll(/(\w+)\(/g)].map(([, name]) => name);
      assert.deepEqual(used.filter((name) => !FUNCTIONS.includes(name)), []);
      assert.doesNotMatch(sql, /\b(JOIN|UNION|WITH|OVER|DISTINCT)\b|\(\s*SELECT/);
      assert.match(sql, /WHERE timestamp > NOW\(\) - INTERVAL/);
      assert.match(sql, /SUM\(_sample_interval\)/, 'what is sampled is counted by what it stands for');
      const rows = run(sql);
      assert.ok(rows.length > 0);
      assert.ok(rows.every((row) => Object.values(row).every((value) => value !== null && value !== 'old')));
    });
  }

  const sum = (rows, name) => rows.reduce((all, row) => all + row[name], 0);

  it('counts every request once', () => {
    assert.equal(sum(run(of('AS outcome')), 'calls'), points.length);
    assert.equal(points.length, ended.length);
  });

  it('finds the failures that callers have not seen', () => {
    const rows = run(of('answered_none_the_less'));
    const saved = points.filter(({ blobs: [outcome, , , , reason] }) => outcome === 'ok' && reason !== '');
    assert.ok(saved.length > 0);
    assert.equal(sum(rows, 'answered_none_the_less'), saved.length);
    assert.ok(rows.some(({ endpoint, reason }) => /^(a100|spare)$/.test(endpoint) && reason === 'http_503'));
  });

  it('knows the tokens of each client', () => {
    const rows = run(of('prompt_tokens'));
    for (const client of Object.keys(KEYS)) {
      const own = ended.filter((line) => line.client === client);
      const told = rows.filter((row) => row.client === client);
      assert.equal(sum(told, 'completion_tokens'), sum(own.map((line) => ({ n: line.completion_tokens ?? 0 })), 'n'));
    }
  });

  it('and who was turned away', () => {
    const rows = run(of('AS code')).map((row) => ({ ...row }));
    assert.deepEqual(rows, [
      { client: '', code: 'invalid_api_key', route: CHAT, requests: 5 },
      { client: 'web', code: 'model_not_found', route: CHAT, requests: 1 },
    ]);
  });
});

describe('the columns of a data point', () => {
  it('are those of the table', () => {
    const told = table('Analytics Engine').flatMap(([words]) => words);
    const [{ blobs, doubles }] = pointsOf(gateway);
    const columns = (kind, all) => all.map((_, at) => `${kind}${at + 1}`);
    assert.deepEqual(told, ['index1', ...columns('blob', blobs), ...columns('double', doubles)]);
  });
});
