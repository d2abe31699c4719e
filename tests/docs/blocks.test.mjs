// Each block of code of each page is run, or checked as far as it can be: by what its info string says it is.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { root } from '../../scripts/process.mjs';
import { ELSEWHERE, KINDS, assertKnown, commandsOf } from './kinds.mjs';
import { blocksOf, PAGES } from './pages.mjs';
import { ensureOpenai } from './python.mjs';
import { startStand } from './stand.mjs';

const python = await ensureOpenai();

describe('the blocks of', () => {
  let stand;
  before(async () => {
    stand = await startStand();
  });
  after(() => stand?.close());

  for (const page of PAGES) {
    describe(page, () => {
      before(() => stand.renew());
      let printed;
      for (const block of blocksOf(page)) {
        const { kind, heading, line } = block;
        const skip = kind === 'python' && python === null && 'needs Python 3.10 and PyPI';
        it(skip ? 'an example in Python' : `${heading}, line ${line}: ${kind || 'no kind'}`, { skip }, async () => {
          if (Object.hasOwn(ELSEWHERE, kind)) return assertElsewhere(block);
          assert.ok(Object.hasOwn(KINDS, kind), `a block of the kind "${kind}", which docs/README.md does not know`);
          const said = await KINDS[kind](block, stand, printed, python);
          printed = kind === 'sh gateway' ? said : undefined;
        });
      }
    });
  }
});

/** The test that is said to run it is there, and reads this page. */
function assertElsewhere({ page, kind }) {
  const { test, pages } = ELSEWHERE[kind];
  assert.ok(pages.includes(page), `"${kind}" is not for ${page}`);
  assert.ok(existsSync(join(root, test)));
  if (test.endsWith('.test.mjs')) assert.ok(readFileSync(join(root, test), 'utf8').includes(page.split('/').at(-1)), `${test} reads no ${page}`);
}

describe('of commands that are not run', () => {
  it('one that wrangler does not know is found', () => {
    const known = (line) => commandsOf(line).forEach(assertKnown);
    known('npx wrangler secret put VLLM_API_KEY --env staging # the key');
    known('npm run check && npx wrangler secret put X');
    assert.throws(() => known('npx wrangler secret push X'), /takes less than secret push/);
    assert.throws(() => known('npx wrangler secret put X --force'), /has no --force/);
    assert.throws(() => known('npm run chekc'), /no npm run chekc/);
    assert.throws(() => known('wget x'), /wget is no command/);
  });
});

describe('docs/README.md', () => {
  it('tells of each kind', () => {
    const text = readFileSync(join(root, 'docs', 'README.md'), 'utf8');
    const told = [...text.matchAll(/^\| `([^`]+)`/gm)].map(([, kind]) => kind);
    assert.deepEqual(told.sort(), [...Object.keys(KINDS), ...Object.keys(ELSEWHERE)].sort());
  });
});
