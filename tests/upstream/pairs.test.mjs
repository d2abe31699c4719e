// The recorded pairs of whole and streamed answers are what the simulated vLLM says.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { it } from 'node:test';
import { pairs } from './pairs.mjs';

const FOLDER = new URL('../fixtures/assembly/', import.meta.url);

it('gives the answers that the core puts together in its tests; else: node tests/upstream/pairs.mjs', async () => {
  const made = await pairs();
  assert.deepEqual(readdirSync(FOLDER).sort(), made.map(([name]) => name).sort());
  for (const [name, text] of made) assert.equal(readFileSync(new URL(name, FOLDER), 'utf8'), text, name);
});
