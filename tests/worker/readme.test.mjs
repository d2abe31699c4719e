// What the README shows, done.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { FAULTS } from '../upstream/faults.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway, STATE } from './gateway.mjs';

const repository = new URL('../../', import.meta.url);
const readme = readFileSync(new URL('README.md', repository), 'utf8');

/** The blocks of code in one language. */
const blocks = (language) => [...readme.matchAll(new RegExp(`^\`\`\`${language}(?: \\w+)?\\n([^]*?)^\`\`\`$`, 'gm'))].map(([, code]) => code);

/** A gateway as `npm start` serves it, at work on `use`. */
async function withDemo(use) {
  const vllm = await startVllm({ models: ['fairlead-demo'] });
  const models = [{ name: 'demo', targets: [{ endpoint: 'demo-a', model: 'fairlead-demo' }] }];
  const gateway = await startGateway({ open: true, endpoints: endpointsOf({ 'demo-a': vllm }), models });
  try {
    return await use(gateway);
  } finally {
    await gateway.close();
    await vllm.close();
  }
}

describe('the README', () => {
  test('has a curl line that streams a whole chat', async () => {
    const line = blocks('sh').find((code) => code.startsWith('curl'));
    const [, path] = line.match(/http:\/\/127\.0\.0\.1:8787(\S+)/);
    const [, body] = line.match(/-d '(.*)'/);
    const answer = await withDemo(async (gateway) => {
      const response = await gateway.fetch(path, { body, headers: { 'content-type': 'application/json' } });
      return response.text();
    });
    assert.match(answer, /"finish_reason":"stop"[^]*data: \[DONE\]\n\n$/);
  });

  test('has curl lines for an operator, and shows what they answer', async () => {
    const vllm = await startVllm();
    const gateway = await startGateway({
      open: true,
      endpoints: endpointsOf({ a100: vllm }),
      models: [{ name: 'qwen', targets: [{ endpoint: 'a100' }] }],
      admin_key_secret: 'ADMIN_KEY',
    }, { secrets: { ADMIN_KEY: 'the-key' }, env: { STATE } });
    const curl = async (line) => {
      const [, path] = line.match(/example\.com(\S+)/);
      const [, body] = line.match(/-d '(.*)'/) ?? [];
      const response = await gateway.fetch(path, { body, headers: { authorization: 'Bearer the-key' } });
      assert.equal(response.status, 200, line);
      return response.json();
    };
    const lines = blocks('sh').join('').split('\n').filter((line) => /^curl .*\/(status|breakers)/.test(line));
    const shown = blocks('json').map((text) => JSON.parse(text)).find((json) => json.now_ms);
    try {
      const [status, ...orders] = lines;
      const fields = (json) => Object.entries(json ?? {}).flatMap(([name, value]) =>
        [name, ...(typeof value === 'object' && name !== 'stored' ? fields(value) : [])]);
      assert.deepEqual(fields(await curl(status)), fields(shown));
      for (const [at, state] of ['isolated', 'closed'].entries()) {
        assert.deepEqual(await curl(orders[at]), { state, stored: true });
      }
      // A record in the store has the fields of the one that is shown.
      const { stored } = (await curl(status)).endpoints[0];
      assert.deepEqual(Object.keys(stored), Object.keys(shown.endpoints[0].breakers[0].stored));
    } finally {
      await gateway.close();
      await vllm.close();
    }
  });

  test('has a curl line that runs a job', async () => {
    const line = blocks('sh').find((code) => code.includes('/runpod/'));
    const [, path] = line.match(/example\.com(\S+)/);
    const [, body] = line.match(/-d '(.*)'/);
    const runpod = await startRunpod({ endpoints: { burst: { handler: 'echo', warm: 1 } } });
    const endpoint = { name: 'burst', provider: 'runpod', base_url: runpod.baseUrl('burst'), api_key_secret: 'KEY', native: true };
    const gateway = await startGateway({
      clients: [{ name: 'web', keys_sha256: [sha256('the-key')], runpod: ['burst'] }],
      endpoints: [endpoint],
      models: [{ name: '*', targets: [{ endpoint: 'burst' }] }],
    }, { secrets: { KEY: runpod.apiKey } });
    try {
      const headers = { 'content-type': 'application/json', authorization: 'Bearer the-key' };
      const response = await gateway.fetch(path, { body, headers });
      assert.deepEqual((await response.json()).output, JSON.parse(body).input);
    } finally {
      await gateway.close();
      await runpod.close();
    }
  });

  test('names faults that there are', () => {
    const named = [...readme.matchAll(/`"sim": "([^"]+)"`/g)].map(([, fault]) => fault);
    assert.ok(named.length > 1);
    for (const fault of named) assert.ok(fault in FAULTS, fault);
  });

  test("has a program for OpenAI's client that prints an answer", async () => {
    const [program] = blocks('js');
    const said = await withDemo(async (gateway) => {
      const { default: OpenAI } = await import('openai');
      let text = '';
      const process = { stdout: { write: (piece) => { text += piece; } } };
      const body = program.replace(/^import .*\n/m, '').replace('http://127.0.0.1:8787', gateway.url);
      const AsyncFunction = (async () => {}).constructor;
      await new AsyncFunction('OpenAI', 'process', body)(OpenAI, process);
      return text;
    });
    assert.match(said, /^A fairlead guides a line/);
  });

  test('has a CONFIG without a mistake', () => {
    const [config] = blocks('json');
    const input = JSON.stringify({ CONFIG: config });
    const said = execFileSync('cargo', ['run', '--quiet', '--package', 'fairlead-core', '--example', 'check'], {
      cwd: fileURLToPath(repository), input, encoding: 'utf8',
    });
    assert.equal(said, '', 'neither mistakes nor warnings');
  });

  test('has a line that hashes a key as CONFIG wants it', () => {
    const line = blocks('sh').find((code) => code.includes('sha256sum'));
    const [hash] = execFileSync('sh', ['-c', line], { encoding: 'utf8' }).split(' ');
    assert.equal(hash, sha256('the-key'));
  });

  test('has a row for each field of a policy, an endpoint and an error', () => {
    const source = (file) => readFileSync(new URL(`src/${file}`, repository), 'utf8');
    const fields = (name) => {
      const [, body] = source('config.rs').match(new RegExp(`pub struct ${name} \\{\\n([^]*?)\\n {4}\\}`));
      return [...body.matchAll(/^ +(?:r#)?(\w+):/gm)].map(([, field]) => field);
    };
    const rows = new Set([...readme.matchAll(/^\| `\.?([\w.]+)(?:\[\])?` \|/gm)].map(([, field]) => field));
    const codes = [...source('error.rs').matchAll(/^ {4}\w+ = "(\w+)", \d+/gm)].map(([, code]) => code);
    const wanted = [...fields('PolicyConfig'), ...fields('EndpointConfig'), ...codes];
    assert.ok(wanted.length > 50);
    assert.deepEqual(wanted.filter((field) => !rows.has(field)), []);
  });

  test('has beside it a page with all that stands in the way of resuming', () => {
    const page = readFileSync(new URL('docs/resume.md', repository), 'utf8');
    const files = ['resume.rs', 'call/resume.rs', 'call/attempt.rs', 'stream/transcript.rs'];
    const source = files.map((file) => readFileSync(new URL(`src/${file}`, repository), 'utf8')).join('');
    const said = /(?:Err|ok_or|doubt = Some|tear|then_some)\("(\w+)"\)|\{ "(\w+)" \}/g;
    const listed = /\(\s*"(\w+)",\s*(?:!chat|ask\.|set\(|is\(|kind|limit|\[)/g;
    const found = [said, listed].flatMap((words) => [...source.matchAll(words)]);
    const reasons = new Set(found.map(([, word, other]) => word ?? other));
    // It is told of every failure, and no matter of resuming.
    reasons.delete('nobody_left');
    assert.ok(reasons.size > 18, [...reasons].join());
    const [section] = page.match(/^## What stands in the way\n[^]*?(?=^## )/m);
    const rows = [...section.matchAll(/^\| (`[^|]*) \|/gm)].flatMap(([, cell]) => [...cell.matchAll(/`(\w+)`/g)])
      .map(([, word]) => word).filter((word) => !['why', 'then'].includes(word));
    assert.deepEqual(rows.toSorted(), [...reasons].toSorted());
  });

  test('and how vLLM is known, and how long a refusal and a count last', () => {
    const page = readFileSync(new URL('docs/resume.md', repository), 'utf8');
    const source = (file) => readFileSync(new URL(`src/${file}`, repository), 'utf8');
    const [, marks] = source('splice.rs').match(/fn is_of_vllm\([^]*?matches!\(name, ([^)]*)\)/);
    for (const [, mark] of marks.matchAll(/"(\w+)"/g)) assert.ok(page.includes(`\`${mark}\``), mark);
    assert.match(source('fleet.rs'), /REFUSED_MS: u64 = 3_600_000;/);
    assert.match(page, /not asked like that again for an hour/);
    assert.match(source('call/resume.rs'), /COUNT_MS: u64 = 2000;[^]*COUNT_MS\.min\(now\.until\(self\.deadline\) \/ 4\)/);
    assert.match(page, /longer than two seconds or a quarter of the time that is left/);
  });

  test('tells each policy default as it is', () => {
    const source = readFileSync(new URL('src/policy.rs', repository), 'utf8');
    const numbers = (text) => text.replaceAll('_', '');
    const defaults = numbers(source.match(/impl Default for Policy \{([^]*?)\n\}/)[1]);
    const [section] = readme.match(/^## Policies\n[^]*?(?=^## )/m);
    const rows = [...section.matchAll(/^\| `(\w+)` \| (\d+) \|/gm)];
    assert.ok(rows.length > 8);
    for (const [, field, value] of rows) {
      assert.ok(defaults.includes(`${numbers(field)}: ${value},`), `${field} is not ${value}`);
    }
  });
});
