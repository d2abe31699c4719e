import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const reporter = fileURLToPath(new URL('outcomes.mjs', import.meta.url));

test('a skip of any kind is reported by its name', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fairlead-outcomes-'));
  writeFileSync(join(folder, 'some.test.mjs'), `
    import { describe, test } from 'node:test';
    test('passes', () => {});
    test('fails', () => { throw new Error('as it should'); });
    test.skip('is skipped', () => {});
    test('skips itself', (t) => t.skip());
    test('is to do, and fails', { todo: true }, () => { throw new Error('as it may'); });
    describe('a suite', () => { test('passes inside', () => {}); });
    describe('a skipped suite', { skip: 'no browser' }, () => { test('is never seen', () => {}); });
  `);
  const { NODE_TEST_CONTEXT, ...env } = process.env; // else it would report to the run that this test is part of
  const { stdout } = spawnSync(process.execPath, ['--test', `--test-reporter=${reporter}`, '*.test.mjs'], {
    cwd: folder, encoding: 'utf8', env,
  });
  rmSync(folder, { recursive: true });
  assert.deepEqual(stdout.trim().split('\n').map((line) => JSON.parse(line)), [
    { name: 'passes', outcome: 'passed' },
    { name: 'fails', outcome: 'failed' },
    { name: 'is skipped', outcome: 'skipped' },
    { name: 'skips itself', outcome: 'skipped' },
    { name: 'is to do, and fails', outcome: 'skipped' },
    { name: 'passes inside', outcome: 'passed' },
    { name: 'a skipped suite', outcome: 'skipped' },
  ]);
});
