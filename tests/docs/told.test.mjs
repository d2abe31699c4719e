// What the pages tell in words and tables is what the code says.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { root } from '../../scripts/process.mjs';
import { FAULTS } from '../upstream/faults.mjs';

const read = (path) => readFileSync(join(root, path), 'utf8');
const source = (file) => read(`src/${file}`);
/** What stands below a heading, up to the next of its rank. */
const section = (text, heading) => text.match(new RegExp(`^(#+) ${heading}\\n[^]*?(?=^\\1 |$(?![^]))`, 'm'))[0];

describe('docs/errors.md', () => {
  const page = read('docs/errors.md');
  const codes = [...source('error.rs').matchAll(/^ {4}\w+ = "(\w+)", (\d+),/gm)].map(([, code, status]) => [code, status]);

  it('has a row for each code, with its status, in the order of the code', () => {
    const rows = [...page.matchAll(/^\| \[`(\w+)`\]\(#(\w+)\) \| (\d+) \|/gm)];
    assert.deepEqual(rows.map(([, code, , status]) => [code, status]), codes);
    for (const [, code, anchor] of rows) assert.equal(anchor, code);
  });

  it('has a section for each, which says what happened', () => {
    for (const [code] of codes) assert.match(section(page, `\`${code}\``), /\*\*What happened\*\* – /, code);
  });

  it('names each timer', () => {
    const timers = [...source('deadline.rs').matchAll(/^ +Self::\w+ => "(\w+)",$/gm)].map(([, name]) => name).filter((name) => !name.endsWith('_ms'));
    assert.ok(timers.length >= 5, timers.join());
    const text = section(page, '`upstream_timeout`');
    for (const timer of timers) assert.ok(text.includes(`\`${timer}\``), timer);
  });
});

describe('docs/resume.md', () => {
  const page = read('docs/resume.md');

  it('has all that stands in the way', () => {
    const text = ['resume.rs', 'call/resume.rs', 'call/attempt.rs', 'stream/transcript.rs'].map(source).join('');
    const said = /(?:Err|ok_or|doubt = Some|tear|then_some)\("(\w+)"\)|\{ "(\w+)" \}/g;
    const listed = /\(\s*"(\w+)",\s*(?:!chat|ask\.|set\(|is\(|kind|limit|\[)/g;
    const found = [said, listed].flatMap((words) => [...text.matchAll(words)]);
    const reasons = new Set(found.map(([, word, other]) => word ?? other));
    // It is told of every failure, and no matter of resuming.
    reasons.delete('nobody_left');
    assert.ok(reasons.size > 18, [...reasons].join());
    const rows = [...section(page, 'What stands in the way').matchAll(/^\| (`[^|]*) \|/gm)]
      .flatMap(([, cell]) => [...cell.matchAll(/`(\w+)`/g)])
      .map(([, word]) => word).filter((word) => !['why', 'then'].includes(word));
    assert.deepEqual(rows.toSorted(), [...reasons].toSorted());
  });

  it('says how vLLM is known, and how long a refusal and a count last', () => {
    const [, marks] = source('splice.rs').match(/fn is_of_vllm\([^]*?matches!\(name, ([^)]*)\)/);
    for (const [, mark] of marks.matchAll(/"(\w+)"/g)) assert.ok(page.includes(`\`${mark}\``), mark);
    assert.match(source('fleet.rs'), /REFUSED_MS: u64 = 3_600_000;/);
    assert.match(page, /not asked like that again for an hour/);
    assert.match(source('call/resume.rs'), /COUNT_MS: u64 = 2000;[^]*COUNT_MS\.min\(now\.until\(self\.deadline\) \/ 4\)/);
    assert.match(page, /longer than two seconds or a quarter of the time that is left/);
  });
});

describe('README.md', () => {
  const page = read('README.md');

  it('names faults that there are', () => {
    const named = [...page.matchAll(/`"sim": "([^"]+)"`/g)].map(([, fault]) => fault);
    assert.ok(named.length > 1);
    for (const fault of named) assert.ok(fault in FAULTS, fault);
  });

  it('has a row for each command, and no other', () => {
    const { scripts } = JSON.parse(read('package.json'));
    const rows = [...section(page, 'Commands').matchAll(/^\| `npm (?:run )?([\w:]+)[^`]*` \|/gm)].map(([, name]) => name);
    assert.deepEqual(rows.toSorted(), Object.keys(scripts).toSorted());
  });
});

describe('the figures of docs/deploy.md', () => {
  const page = read('docs/deploy.md');

  it('are those of the bench', () => {
    const results = read('bench/RESULTS.md');
    const columns = results.match(/^\|\s+\|\s+direct \|.*$/m)[0].split('|').map((cell) => cell.trim());
    const [paced] = results.split('**Streams of 300 events, one event every 4 ms').slice(1);
    const figure = (text, row, column) => Number(text.match(new RegExp(`^\\| ${row}.*$`, 'm'))[0].split('|')[columns.indexOf(column)].match(/[\d.]+/)[0]);
    const shown = (label) => Number(page.match(new RegExp(`^\\| ${label}[^|]*\\| ([\\d.]+) `, 'm'))[1]);
    assert.equal(shown('a call that does not stream'), Math.round(figure(results, 'CPU per request', 'fairlead') / 10) / 100);
    assert.equal(shown('each event of a stream'), Math.round(figure(paced, 'CPU per event', 'fairlead')));
    assert.equal(shown('each event under'), Math.round(figure(paced, 'CPU per event', 'fairlead native')));
  });
});
