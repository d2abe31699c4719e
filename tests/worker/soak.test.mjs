// The soak's short form: each request is accounted for once, by its client, in the log and in /metrics, and no secret is
// told. Whether memory stays flat only the long form can tell: `npm run soak`.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { memoryOf } from '../soak/memory.mjs';
import { soak } from '../soak/soak.mjs';

const REQUESTS = 2000;

test('every request is accounted for exactly once, whatever goes wrong, and no secret is told', async () => {
  const { sent, counted, seen, troubles } = await soak({ requests: REQUESTS, batches: 4 });
  assert.deepEqual(troubles, []);
  assert.equal(counted, sent);
  assert.ok(sent >= REQUESTS);
  // Chance reaches everything that clients know.
  for (const outcome of ['ok', 'invalid_api_key', 'model_not_found', 'forbidden', 'invalid_request', 'rate_limited', 'left']) {
    assert.ok(seen.get(outcome) > 0, `${outcome} in ${JSON.stringify([...seen])}`);
  }
});

test('memory that grows is told from memory that breathes', () => {
  const batches = (bytes) => Array.from({ length: 100 }, (_, at) => ({ heap: bytes(at), wasm: 1e6, bytes: 1e8 }));
  const breath = (at) => 2e6 * Math.sin(at);
  assert.ok(memoryOf(batches((at) => (at < 10 ? at * 5e6 : 50e6) + breath(at))).isFlat);
  assert.ok(!memoryOf(batches((at) => 50e6 + at * 2e5 + breath(at))).isFlat);
});
