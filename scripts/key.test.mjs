import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from './process.mjs';

function key(args = [], input = '') {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'scripts', 'key.mjs'), ...args], {
    encoding: 'utf8', input,
  });
  return { status, stdout, stderr };
}

const sha256 = (text) => createHash('sha256').update(text).digest('hex');

test('a key is made, with its hash and a client that has it', () => {
  const { status, stdout } = key(['mobile app']);
  assert.equal(status, 0);
  const made = stdout.match(/^ {2}(fl-[\w-]{43})$/m)?.[1];
  assert.match(stdout, new RegExp(`^  ${sha256(made)}$`, 'm'));
  const client = JSON.parse(stdout.match(/^ {2}(\{.*\})$/m)[1]);
  assert.deepEqual(client, { name: 'mobile app', keys_sha256: [sha256(made)] });
  assert.equal(stdout.split(made).length, 2, 'the key is shown once');
  assert.match(key().stdout, /"name":"web"/);
  assert.notEqual(key().stdout, stdout);
});

test('the hash of a key that there is, and nothing else', () => {
  for (const input of ['sk-old', 'sk-old\n', 'sk-old\r\n']) {
    assert.deepEqual(key(['--hash'], input), { status: 0, stdout: `${sha256('sk-old')}\n`, stderr: '' });
  }
});

test('what cannot be meant is said to be so', () => {
  for (const [args, message] of [[['--hash'], /no key/], [['a', 'b'], /One client/], [['--hsh'], /--hsh/]]) {
    const { status, stdout, stderr } = key(args);
    assert.match(stderr, message);
    assert.deepEqual([status, stdout], [1, '']);
  }
});
