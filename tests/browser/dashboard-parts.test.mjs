// What the dashboard makes of what it is told, without a browser.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { findings, verdict } from '../../worker/dashboard/dashboard/findings.js';
import { ago, bytes, count, countdown, duration, percent, rate } from '../../worker/dashboard/dashboard/numbers.js';
import { between, Seen, since } from '../../worker/dashboard/dashboard/seen.js';
import { eventsOf } from '../../worker/dashboard/dashboard/sse.js';
import { lanes } from '../../worker/dashboard/dashboard/timeline.js';
import { eventWords, kindOf, outcomeWords, reasonWords } from '../../worker/dashboard/dashboard/words.js';
import { health, outage } from './status.mjs';

const FOLDER = new URL('../../worker/dashboard/', import.meta.url);
const NOW = health().now_ms;

function seenOf(...statuses) {
  const seen = new Seen();
  for (const [at, status] of statuses.entries()) seen.take(status, NOW + at * 2000, true);
  return seen;
}

describe('numbers', () => {
  for (const [value, shown] of [
    [0, '0 ms'], [999, '999 ms'], [999.6, '1 s'], [1234, '1.2 s'], [9949, '9.9 s'], [9951, '10 s'], [59_400, '59 s'], [60_000, '1 min'],
    [125_000, '2 min 5 s'], [3_600_000, '1 h'], [11_520_000, '3 h 12 min'], [352_800_000, '4 d 2 h'], [-5, '0 ms'], [null, '–'],
    [undefined, '–'], [NaN, '–'],
  ]) it(`${value} ms are ${shown}`, () => assert.equal(duration(value), shown));

  for (const [value, shown] of [
    [0, '0'], [1204, '1,204'], [9999, '9,999'], [10_000, '10.0 k'], [999_499, '999 k'], [999_999, '1.0 M'], [4_100_000_000, '4.1 G'],
    [2 ** 53, '9007199 G'], [null, '–'],
  ]) it(`${value} is ${shown}`, () => assert.equal(count(value), shown));

  it('says all and nothing only of all and nothing', () => {
    assert.deepEqual([[0, 10], [10, 10], [1, 100_000], [99_999, 100_000], [1, 3], [0, 0]].map(([part, whole]) => percent(part, whole)),
      ['0 %', '100 %', '0.1 %', '99.9 %', '33.3 %', '–']);
  });

  it('has units everywhere', () => {
    assert.deepEqual([bytes(0), bytes(1400), bytes(3_000_000), rate(0), rate(0.05), rate(12.34), rate(20_000), ago(500), ago(65_000), countdown(12_001), countdown(-1)],
      ['0 B', '1.4 kB', '3.0 MB', '0 /min', '3.0 /min', '12.3 /s', '20.0 k /s', 'just now', '1 min 5 s ago', '13 s', '0 s']);
  });
});

describe('words', () => {
  it('are the gateway’s own where it has new ones', () => {
    // As the core tells an endpoint's own refusal: src/call/failure.rs.
    assert.deepEqual(['upstream_400', 'upstream_422', 'upstream_timeout'].map(kindOf), ['theirs', 'theirs', 'failed']);
    assert.equal(outcomeWords('upstream_422'), 'HTTP 422 of the endpoint, passed on');
    assert.deepEqual([reasonWords('http_529'), reasonWords('quarks'), outcomeWords('quarks'), kindOf('quarks')], ['HTTP 529', 'quarks', 'quarks', 'failed']);
    assert.equal(eventWords({ event: 'novel', at_ms: 5, attempt: 2 }, duration), 'novel: attempt 2');
  });
});

describe('what is wrong', () => {
  it('is nothing in health', () => {
    const seen = seenOf(health());
    assert.deepEqual(findings(seen, NOW), []);
    assert.deepEqual(verdict([], seen.isolate.status), { level: 'ok', text: 'All well' });
  });

  it('is said worst first, with the place that shows more', () => {
    const seen = seenOf(outage());
    const found = findings(seen, NOW);
    assert.deepEqual(found.map(({ level, place, text }) => [level, place, text]), [
      ['bad', 'endpoint-0', 'a100 is left alone: no connection.'],
      ['warn', 'model-0', 'qwen: 30 of 420 calls failed (7.1 %), mostly as upstream_timeout: a timer ran out.'],
      ['warn', 'endpoint-0', 'a100 has no retry tokens left: failures there are not tried again.'],
      ['warn', 'endpoint-1', 'spare is isolated: an operator has taken it out.'],
      ['warn', 'endpoint-2', 'burst is full: 16 of 16 calls in flight, 3 in line.'],
      ['warn', 'endpoint-2', 'burst has 7 jobs in its queue and no worker yet.'],
    ]);
    assert.deepEqual(verdict(found, seen.isolate.status), { level: 'bad', text: '1 problem now' });
  });

  it('counts failures of the last minute only', () => {
    const before = outage();
    const seen = seenOf(before);
    const now = structuredClone(before);
    now.models[0].outcomes.ok += 50;
    seen.take(now, NOW + 300_000 - 1, false);
    assert.ok(!findings(seen, NOW).some(({ place }) => place === 'model-0'));
  });

  it('sees a limit that is nearly met, but not after two calls', () => {
    const status = health();
    status.models[0].policy.first_token_ms = 700;
    assert.deepEqual(findings(seenOf(status), NOW).map(({ text }) => text),
      ['qwen: the first content takes 610 ms at p95, and the timer ends an attempt at 700 ms.']);
    status.models[0].first_content_ms.count = 2;
    assert.deepEqual(findings(seenOf(status), NOW), []);
  });

  it('tells of a configuration that was refused, and of a store that is silent', () => {
    const status = health();
    status.config.refused = { at_ms: NOW - 60_000, mistakes: [{ path: 'models[0]', message: 'wrong' }] };
    status.store.error = 'timeout';
    assert.deepEqual(findings(seenOf(status), NOW).map(({ level, text }) => [level, text]), [
      ['bad', 'A new configuration was refused 1 min ago, for 1 mistake. The last valid one serves on.'],
      ['warn', 'The store (KV) does not answer: no answer within 2 s. Isolates hear nothing of each other.'],
    ]);
  });

  it('tells of an isolation of which this isolate has not heard', () => {
    const status = health();
    status.endpoints[0].stored = { epoch: 2, state: 'isolated', open_until_ms: 0, reason: 'isolated', at_ms: NOW };
    assert.deepEqual(findings(seenOf(status), NOW).map(({ text }) => text), ['a100 is isolated, but this isolate has not heard of it yet.']);
  });
});

describe('isolates', () => {
  const of = (id, change = () => {}) => {
    const status = health();
    status.isolate.id = id;
    change(status);
    return status;
  };

  it('stay apart, and the first is shown as long as it answers', () => {
    const seen = seenOf(of('one'), of('two'), of('one'));
    assert.deepEqual([seen.shown, seen.isolates.size, seen.isolate.past.length], ['one', 2, 2]);
  });

  it('give way when they fall silent, unless they were chosen', () => {
    for (const [isChosen, shown] of [[false, 'two'], [true, 'one']]) {
      const seen = seenOf(of('one'));
      if (isChosen) seen.choose('one');
      seen.take(of('two'), NOW + 30_000, false);
      assert.equal(seen.shown, shown);
    }
  });

  it('have their calls in one list, each once, newest first', () => {
    const later = (status) => { status.calls.unshift({ ...status.calls[0], request_id: 'later', at_ms: NOW }); };
    const seen = seenOf(of('one'), of('two', later), of('one'), of('two', later));
    assert.deepEqual(seen.calls.map(({ isolate, request_id: id }) => [isolate, id]),
      [['two', 'later'], ['two', '5f1c0b5e8a7d4c21'], ['one', '5f1c0b5e8a7d4c21']]);
  });

  it('leave what the store said where the store was not asked', () => {
    const seen = new Seen();
    seen.take(outage(), NOW, true);
    const silent = outage();
    silent.endpoints[1].stored = null;
    seen.take(silent, NOW + 2000, false);
    assert.equal(seen.store.records.get('["spare",null]')?.state, 'isolated');
  });

  it('count from the last moment before a span', () => {
    const past = [0, 2000, 4000].map((at) => ({ at }));
    assert.deepEqual([since(past, 2000), since(past, 60_000), since(past.slice(0, 1), 5)], [past[1], past[0], past[0]]);
    assert.deepEqual(between({ ok: 2, gone: 5 }, { ok: 3, gone: 5, fresh: 1 }), { ok: 1, fresh: 1 });
  });
});

describe('a timeline', () => {
  const brief = (call) => lanes(call).map(({ from, to, kind, label }) => [from, to, kind, label]);

  it('has each attempt, and what was waited for between', () => {
    assert.deepEqual(brief(outage().calls[0]), [
      [1, 20, 'failed', '1 · a100'], [20, 420, 'wait', 'wait'], [420, 15_420, 'failed', '2 · burst'],
    ]);
  });

  it('shows who answered beside whom', () => {
    assert.deepEqual(brief({
      ...health().calls[0], endpoint: 'spare', attempts: 2, first_content_ms: 1300,
      timeline: [
        { at_ms: 0, event: 'attempt_started', attempt: 1, endpoint: 'a100' },
        { at_ms: 1000, event: 'hedge_started', attempt: 1, endpoint: 'a100', after_ms: 1000 },
        { at_ms: 1000, event: 'attempt_started', attempt: 2, endpoint: 'spare' },
      ],
    }), [[0, 1300, 'stopped', '1 · a100'], [1000, 1500, 'ok', '2 · spare']]);
  });

  it('shows a call that stood in line, and one that nobody was asked for', () => {
    const call = { ...health().calls[0], timeline: [] };
    assert.deepEqual(brief({ ...call, outcome: 'circuit_open', total_ms: 2 }), []);
    assert.deepEqual(brief({ ...call, outcome: 'upstream_overloaded', total_ms: 5000 }), [[0, 5000, 'wait', 'wait']]);
  });

  it('bears what makes no sense', () => {
    assert.deepEqual(brief({ ...health().calls[0], timeline: [{ at_ms: 1, event: 'attempt_failed', attempt: 9, endpoint: 'x' }] }), [[0, 1500, 'wait', 'wait']]);
  });
});

describe('event streams', () => {
  const read = async (pieces) => {
    const encoder = new TextEncoder();
    const stream = new ReadableStream({
      start(controller) {
        for (const piece of pieces) controller.enqueue(typeof piece === 'string' ? encoder.encode(piece) : piece);
        controller.close();
      },
    });
    return Array.fromAsync(eventsOf(stream));
  };

  it('may be cut anywhere', async () => {
    const whole = new TextEncoder().encode(': IN_QUEUE 2 s\r\n\r\ndata: {"a":"é"}\r\n\r\ndata: x\ndata: y\n\ndata: [DONE]\n\n');
    const expected = [{ comment: 'IN_QUEUE 2 s' }, { data: '{"a":"é"}' }, { data: 'x\ny' }, { data: '[DONE]' }];
    for (let cut = 0; cut <= whole.length; cut += 1) {
      assert.deepEqual(await read([whole.slice(0, cut), whole.slice(cut)]), expected, `cut at ${cut}`);
    }
  });

  it('end with no event out of half of one', async () => {
    assert.deepEqual(await read(['data: whole\n\ndata: ha']), [{ data: 'whole' }]);
  });
});

describe('the files', () => {
  const names = ['index.html', ...readdirSync(new URL('dashboard/', FOLDER)).map((name) => `dashboard/${name}`)];
  const read = (name) => readFileSync(new URL(name, FOLDER), 'utf8');

  it('are under one policy, whoever serves them', () => {
    const [, header] = /Content-Security-Policy: (.*)/.exec(read('_headers'));
    const [, meta] = /http-equiv="Content-Security-Policy" content="(.*)"/.exec(read('index.html'));
    // The one part that a browser takes from a header alone.
    assert.equal(header.replace(" frame-ancestors 'none';", ''), meta);
    assert.match(header, /^default-src 'none'; script-src 'self'; style-src 'self'; /);
    assert.doesNotMatch(header, /unsafe|https?:|\*/);
  });

  it('hold nothing that the policy forbids, and no way from text to markup', () => {
    for (const name of names) {
      const text = read(name);
      assert.doesNotMatch(text, / style="| on\w+="|<style|<script(?! type="module" src="\/dashboard\/)/, name);
      if (name.endsWith('.js')) assert.doesNotMatch(text, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function/, name);
    }
  });

  it('name no other host', () => {
    for (const name of names) {
      const hosts = [...read(name).matchAll(/(?:https?:)?\/\/[a-z][\w.-]+\.\w+/g)].map(([url]) => url);
      assert.deepEqual(hosts.filter((url) => url !== 'http://www.w3.org'), [], name);
    }
  });

  it('are small', (t) => {
    const size = (compress) => names.reduce((all, name) => all + compress(readFileSync(new URL(name, FOLDER))).length, 0);
    const [gzip, brotli] = [size(gzipSync), size(brotliCompressSync)];
    t.diagnostic(`${names.length} files, ${gzip} bytes gzipped, ${brotli} with Brotli`);
    assert.ok(gzip < 40_000 && brotli < 35_000);
  });
});
