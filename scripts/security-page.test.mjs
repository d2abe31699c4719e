// The tests that docs/security.md names are there, under the names that it gives.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from './process.mjs';

const FILE = /`((?:tests|src|scripts)\/[\w./-]+\.(?:rs|mjs))`((?: "[^"]+",?)*)/g;

test('every test that the threat model names exists', () => {
  const page = readFileSync(join(root, 'docs', 'security.md'), 'utf8');
  const named = [...page.matchAll(FILE)];
  assert.ok(named.length > 20);
  for (const [, file, names] of named) {
    assert.ok(existsSync(join(root, file)), file);
    const text = readFileSync(join(root, file), 'utf8');
    for (const [, name] of names.matchAll(/"([^"]+)"/g)) assert.ok(text.includes(name), `${file} has no test "${name}"`);
  }
});

test('every threat has something that holds it, and a test', () => {
  const page = readFileSync(join(root, 'docs', 'security.md'), 'utf8');
  const rows = page.split('\n').filter((line) => line.startsWith('| ') && !line.startsWith('| threat'));
  assert.ok(rows.length > 15);
  for (const row of rows) {
    const [, threat, holds, shown] = row.split(' | ').map((cell) => cell.replaceAll('|', '').trim()).reduce((cells, cell) => [...cells, cell], ['']);
    assert.ok(threat && holds && /`(tests|src|scripts)\//.test(shown ?? ''), row);
  }
});
