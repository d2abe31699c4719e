// What people write compiles, and what is wrong does not.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { it } from 'node:test';
import { fileURLToPath } from 'node:url';

it('the types allow what is right and refuse what is wrong', () => {
  const at = (path) => fileURLToPath(new URL(path, import.meta.url));
  const { stdout, status } = spawnSync(process.execPath, [at('../../node_modules/typescript/bin/tsc'), '--project', at('types/tsconfig.json')], { encoding: 'utf8' });
  assert.deepEqual([stdout, status], ['', 0]);
});
