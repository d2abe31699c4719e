// What the package's README shows, and the root README's part on JavaScript: every example is compiled against the
// package's types, and run where Node can; every table says what the code says.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, beforeEach, describe, it } from 'node:test';
import { Stream } from '../../pkg-js/dist/node.js';
import { errorOf, FairleadError } from '../../pkg-js/ts/errors.ts';
import { CALL, CLIENT, snake } from '../../pkg-js/ts/schema.ts';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startWorkshop } from './workshop.mjs';

const repository = new URL('../../', import.meta.url);
const read = (path) => readFileSync(new URL(path, repository), 'utf8');
const ROOT = read('README.md');
const README = read('pkg-js/README.md');

/** What stands below a heading, without what stands below the next one of its rank. */
function section(text, heading) {
  const [all, marks] = text.match(new RegExp(`^(#+) ${heading}\\n[^]*`, 'm')) ?? assert.fail(`no section ${heading}`);
  const end = all.slice(marks.length).search(new RegExp(`^#{1,${marks.length}} `, 'm'));
  return end < 0 ? all : all.slice(0, end + marks.length);
}

/** Not examples: commands for a shell, and header fields. */
const PROSE = ['sh', 'text'];

/** Blocks of code, each under the name of the heading that it stands below, with a number from the second one on. */
function blocksOf(text) {
  const blocks = [];
  let heading = '';
  for (const [, title, language, code] of text.matchAll(/^#+ (.*)$|^```(\S*).*\n([^]*?)^```$/gm)) {
    if (title !== undefined) heading = title;
    else if (!PROSE.includes(language)) blocks.push({ heading, language, code });
  }
  return blocks.map((block, index) => {
    const at = blocks.slice(0, index).filter((other) => other.heading === block.heading).length;
    return { ...block, name: at === 0 ? block.heading : `${block.heading}, ${at + 1}` };
  });
}

/** The rows of all tables, without their heads, as lists of cells. */
const rowsOf = (text) => [...text.matchAll(/^\|.*\|\n\|-.*\n((?:\|.*\n)*)/gm)]
  .flatMap(([, body]) => body.trimEnd().split('\n'))
  .map((line) => line.slice(2, -2).split(' | '));
const plain = (cell) => cell.replaceAll('`', '');
const named = (cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name);

const LANGUAGES = ['ts', 'tsx', 'js', 'html'];
/** Packages that are not here: those examples are compiled only, and their like run in tests/consumers/sdks.test.mjs. */
const ELSEWHERE = /from '(ai|@ai-sdk\/openai-compatible|@langchain\/openai)'/;

const EXAMPLES = [...blocksOf(README), ...blocksOf(section(ROOT, 'Use from JavaScript'))];
const example = (name) => EXAMPLES.find((each) => each.name === name) ?? assert.fail(`no example ${name}`);

describe('examples', () => {
  let workshop;
  before(async () => {
    workshop = await startWorkshop();
  });
  beforeEach(() => workshop.reset());
  after(() => workshop?.close());

  it('are in languages that are compiled here', () => {
    assert.ok(EXAMPLES.length > 20);
    assert.deepEqual(EXAMPLES.filter(({ language }) => !LANGUAGES.includes(language)), []);
  });

  it('are compiled against the types of the package, strictly', async () => {
    // One that must not be.
    const code = "import { Fairlead } from 'fairlead';\nnew Fairlead({ baseUrl: 'x' });";
    const wrong = { name: 'wrong', language: 'ts', code };
    const complaints = await workshop.compile([...EXAMPLES, wrong]);
    assert.deepEqual(complaints.filter(({ name }) => name !== 'wrong'), []);
    assert.match(complaints[0]?.message ?? 'what is wrong went unseen', /baseUrl/);
  });

  /** Those whose run is not told by what they show. */
  const SPECIAL = {
    async 'Several endpoints'(block) {
      workshop.a100.script('reset');
      assert.deepEqual((await workshop.run(block)).shown, DEFAULT_TEXT);
      assert.deepEqual([workshop.a100.requests.length, workshop.spare.requests.length], [1, 1]);
      assert.equal(workshop.spare.requests[0].headers.authorization, 'Bearer key of spare');
    },
    async 'When a stream breaks'(block) {
      workshop.a100.script('cut');
      const { shown, said } = await workshop.run(block);
      assert.deepEqual([shown, said], [DEFAULT_TEXT, [['spare', 'continue']]]);
      const asked = ({ requests }) => requests.map(({ path }) => path);
      assert.deepEqual([asked(workshop.a100), asked(workshop.spare)], [['/v1/chat/completions'], ['/v1/chat/completions']]);
    },
    async Errors(block) {
      workshop.vllm.script('cut');
      const { shown, said } = await workshop.run(block);
      assert.ok(shown.length > 0 && DEFAULT_TEXT.startsWith(shown) && shown !== DEFAULT_TEXT);
      assert.deepEqual(said, [['stream_interrupted', true, shown]]);
    },
    async 'The breaker'(block) {
      const { said } = await workshop.run(block);
      assert.deepEqual(said, [['custom', [['gateway', ['closed']]]]]);
    },
    async 'What happens inside'(block) {
      const { ai } = await workshop.run(block, 'export { ai };');
      workshop.vllm.script('http-401');
      await assert.rejects(ai.chat.completions.create({ model: 'qwen', messages: [] }), { code: 'upstream_rejected_key' });
      assert.deepEqual(workshop.said.map(([first]) => first), [
        'gateway: upstream_rejected_key, then nobody_left in 0 ms', 'upstream_rejected_key',
      ]);
    },
    async 'Bundlers and platforms'(block) {
      const { ai } = await workshop.run(block, 'export { ai };');
      const answer = await ai.chat.completions.create({ model: 'qwen', messages: [] });
      assert.equal(answer.choices[0].message.content, DEFAULT_TEXT);
    },
    async 'A React hook'(block) {
      const { useAnswer } = await workshop.run(block);
      const { mount } = await workshop.import('react');
      const component = mount(useAnswer, [[{ role: 'user', content: 'Hi' }]]);
      await component.until(({ text }) => text === DEFAULT_TEXT);
      workshop.vllm.fault = 'stall';
      component.update([[{ role: 'user', content: 'Again' }]]);
      await component.until(({ text }) => text !== '' && text !== DEFAULT_TEXT);
      component.unmount();
      const record = workshop.vllm.requests.at(-1);
      await workshop.vllm.until(() => record.closedByClientAt);
      assert.equal(component.result.error, undefined);
      workshop.vllm.fault = 'http-401';
      const other = mount(useAnswer, [[]]);
      await other.until(({ error }) => error?.code === 'upstream_rejected_key');
      other.unmount();
    },
    async 'A Next route'(block) {
      const { POST } = await workshop.run(block);
      workshop.routes.set('/api/chat', POST);
      assert.equal((await workshop.run(example('A Next route, 2'))).shown, DEFAULT_TEXT);
      workshop.vllm.fault = 'http-401';
      await assert.rejects(workshop.run(example('A Next route, 2')), /refused the key that it was sent/);
    },
    // With the one before it.
    async 'A Next route, 2'() {},
    async 'A Worker'(block) {
      const { default: worker } = await workshop.run(block);
      const env = { GATEWAY_URL: `${workshop.gateway.url}/v1`, GATEWAY_KEY: 'any' };
      const response = await worker.fetch(new Request('https://worker.example.com/', { method: 'POST', body: 'Hi' }), env);
      assert.equal(await Stream.fromReadableStream(response.body).finalText(), DEFAULT_TEXT);
      assert.equal(workshop.vllm.requests[0].json.messages[0].content, 'Hi');
    },
  };

  for (const block of EXAMPLES.filter(({ code }) => !ELSEWHERE.test(code))) {
    it(`run: ${block.name}`, async () => {
      if (Object.hasOwn(SPECIAL, block.name)) return SPECIAL[block.name](block);
      const { shown } = await workshop.run(block);
      // Nothing but whole answers, and at least one.
      assert.match(shown, new RegExp(`^(${DEFAULT_TEXT})+$`));
    });
  }

  it('run: Streams, aborted', async () => {
    const block = EXAMPLES.find(({ code }) => code.includes("leave.abort('long enough')"));
    workshop.vllm.script({ fault: 'ok', tokens: 2000, tokenMs: 1 });
    await assert.rejects(workshop.run(block), { name: 'AbortError', cause: 'long enough' });
    const [record] = workshop.vllm.requests;
    await workshop.vllm.until(() => record.closedByClientAt);
  });
});

/** The defaults that the fields of an interface in options.ts are documented with, and all its fields. */
function documented(name) {
  const [, body] = read('pkg-js/ts/options.ts').match(new RegExp(`^export interface ${name} \\{\\n([^]*?)^\\}`, 'm'));
  const fields = {};
  for (const [, comment, field] of body.matchAll(/^ {2}(?:\/\*\*([^]*?)\*\/\n {2})?(\w+)\??: /gm)) {
    fields[field] = comment?.match(/@default (.*?)(?: ?\*\/|\n|$)/)?.[1].trim().replace(/,$/, '');
  }
  return fields;
}

const POLICY = CLIENT.fields.policies.values.fields;
const sorted = (names) => [...names].sort();

describe('the table of', () => {
  const options = section(README, 'Options').split(/^A call takes/m);

  it('options has each, with its default', () => {
    const rows = rowsOf(options[0]).map(([option, value]) => [plain(option), plain(value)]);
    assert.deepEqual(sorted(rows.map(([option]) => option)), sorted(Object.keys(CLIENT.fields)));
    const defaults = documented('FairleadOptions');
    for (const [option, value] of rows) assert.equal(value, defaults[option] ?? '–', option);
  });

  it('options has the fields of endpoints and models', () => {
    const row = (name) => named(rowsOf(options[0]).find(([option]) => plain(option) === name).at(-1));
    const { endpoints, models } = CLIENT.fields;
    const missing = (fields, names) => Object.keys(fields).filter((field) => !names.includes(field));
    assert.deepEqual(missing(endpoints.each.fields, row('endpoints')), []);
    assert.deepEqual(missing({ ...models.each.fields, ...models.each.fields.targets.each.fields }, row('models')), []);
  });

  it('options of a call has each', () => {
    assert.deepEqual(sorted(rowsOf(options[1]).map(([option]) => plain(option))), sorted(Object.keys(CALL.fields)));
  });

  describe('policies', () => {
    const text = section(README, 'Policies');
    const rows = new Map(rowsOf(text).map(([field, value]) => [plain(field), plain(value)]));
    /** In a sentence, as they have no effect here: each with its default in brackets, if it has one. */
    const [idle] = text.match(/^These are understood.*$/m);
    for (const [, field, value] of idle.matchAll(/`(\w+)`(?: \(([^)]+)\))?/g)) rows.set(field, value);
    const source = read('src/policy.rs').replaceAll('_', '');
    const core = [...source.matchAll(/impl Default for (?:Policy|BreakerPolicy) \{([^]*?)\n\}/g)].join('');
    const isTheCores = (field, value) => core.includes(`${snake(field).replaceAll('_', '')}: ${value}`);

    it('has each field', () => assert.deepEqual(sorted(rows.keys()), sorted(Object.keys(POLICY))));

    it('has the defaults', () => {
      const defaults = documented('PolicyOptions');
      for (const [field, value] of rows) {
        if (POLICY[field].fields) continue;
        assert.equal(value?.replace('–', '') || undefined, defaults[field]?.replace(/, or the option .*/, ''), field);
        if (/^\d+$/.test(value)) assert.ok(isTheCores(field, value), `${field} is not ${value} in the core`);
      }
    });

    for (const [field, name] of Object.entries({ backoff: 'BackoffOptions', breaker: 'BreakerOptions', budget: 'BudgetOptions' })) {
      it(`has the defaults of ${field}`, () => {
        const shown = new Function(`return ${rows.get(field)}`)();
        const defaults = Object.fromEntries(Object.entries(documented(name)).filter(([, value]) => value !== undefined));
        assert.deepEqual(Object.entries(shown).map(([key, value]) => [key, String(value)]), Object.entries(defaults));
        // The one that a page has of its own (`ts/config.ts`).
        const shared = Object.entries(shown).filter(([key, each]) => Number.isInteger(each) && key !== 'probeRatio');
        for (const [key, value] of shared) {
          assert.ok(isTheCores(key, value), `${field}.${key} is not ${value} in the core`);
        }
      });
    }
  });

  const [codes, fields] = section(README, 'Errors').split(/^Every one of them carries/m);

  it('errors has each code, with its class, its status, and whether to ask again', () => {
    const rows = rowsOf(codes).map((cells) => cells.slice(0, 4).map(plain));
    const known = [...read('pkg-js/ts/errors.ts').matchAll(/^ {2}(\w+): \[\d+, \w+, \w+\],$/gm)].map(([, code]) => code);
    assert.ok(known.length > 20);
    assert.deepEqual(sorted(rows.map(([code]) => code)), sorted([...known, 'aborted']));
    for (const [code, ...said] of rows.filter(([each]) => each !== 'aborted')) {
      const { name, status, retryable } = errorOf({ error: { message: 'm', code } }, {});
      assert.deepEqual(said, [name, String(status), retryable ? 'yes' : 'no'], code);
    }
    // The one that is no use to ask again for, as its row says.
    assert.equal(errorOf({ error: { code: 'upstream_unreachable', param: 'cors' } }, {}).retryable, false);
  });

  it('errors has what each of them carries', () => {
    const told = rowsOf(fields).flatMap(([names]) => named(names));
    const { name, message, stack, ...own } = Object.getOwnPropertyDescriptors(new FairleadError('m', { code: 'c', cause: 'c' }));
    assert.deepEqual(sorted(told), sorted(Object.keys(own)));
  });

  it('events has each, with its level', () => {
    const source = read('pkg-js/ts/events.ts');
    const types = [...source.matchAll(/readonly type: '(\w+)'/g)].map(([, type]) => type);
    const levels = new Map([...source.matchAll(/^ {2}(\w+): '(\w+)',$/gm)].map(([, type, level]) => [type, level]));
    const rows = rowsOf(section(README, 'What happens inside')).flatMap(([names, level]) => named(names).map((name) => [name, level]));
    assert.deepEqual(sorted(rows.map(([name]) => name)), sorted(types));
    for (const [name, level] of rows) assert.equal(level, levels.get(name) ?? 'debug', name);
  });

  it('a stream’s events has each, with its fields', () => {
    const [, union] = read('pkg-js/ts/tally.ts').match(/^export type StreamEvent =\n([^]*?)^type /m);
    const events = [...union.matchAll(/\{\s*type: '([^']+)';([^}]*)\}/g)]
      .map(([, type, rest]) => [type, [...rest.replace(/\/\*\*.*?\*\//g, '').matchAll(/(\w+):/g)].map(([, field]) => field)]);
    const rows = rowsOf(section(README, 'Streams')).map(([type, has]) => [plain(type), named(has)]);
    assert.deepEqual(rows, events);
  });
});

describe('links', () => {
  const slug = (title) => title.toLowerCase().replace(/[^\w\- ]/g, '').replaceAll(' ', '-');
  const anchors = (text) => new Set([...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) => slug(title)));
  const targets = (text, pattern) => [...text.matchAll(pattern)].map(([, anchor]) => anchor);

  it('of the package’s README lead somewhere, in it and in the root’s', () => {
    assert.deepEqual(targets(README, /\]\(#([^)]*)\)/g).filter((anchor) => !anchors(README).has(anchor)), []);
    assert.deepEqual(targets(README, /\]\(\.\.\/README\.md#([^)]*)\)/g).filter((anchor) => !anchors(ROOT).has(anchor)), []);
  });

  it('to what is said of resuming lead somewhere', () => {
    const page = anchors(read('docs/resume.md'));
    const found = [README, ROOT].flatMap((text) => targets(text, /\]\((?:\.\.\/)?docs\/resume\.md#([^)]*)\)/g));
    assert.ok(found.length > 2);
    assert.deepEqual(found.filter((anchor) => !page.has(anchor)), []);
  });

  it('of the root’s README lead somewhere in it', () => {
    assert.deepEqual(targets(ROOT, /\]\(#([^)]*)\)/g).filter((anchor) => !anchors(ROOT).has(anchor)), []);
  });
});
