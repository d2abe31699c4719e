// The `openai` SDK, bundled into a page, by itself and with `fetch: ai.fetch`. tests/sdk/openai.test.mjs has the same
// in Node, with more ways to fail.

import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from 'esbuild';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { startPages } from './pages.mjs';

/** The SDK's own, for what comes before the headers. */
const TIMEOUT_MS = 500;
const FAULTS = {
  'a reset': 'reset',
  'a 503 with Retry-After': { fault: 'http-503', retryAfter: 1 },
  'a stall behind the headers': 'hang-after-headers',
};

let vllm;
let pages;
let page;
let folder;
before(async () => {
  [vllm, pages, folder] = await Promise.all([
    // A browser repeats a request by itself where a connection that it had kept breaks: none is kept.
    startVllm({ keepAliveMs: 0 }), startPages(), mkdtemp(join(tmpdir(), 'fairlead-openai-')),
  ]);
  await build({
    stdin: { contents: "export { default } from 'openai';", resolveDir: import.meta.dirname },
    outfile: join(folder, 'openai.js'), bundle: true, format: 'esm', platform: 'browser', minify: true,
    logLevel: 'error',
  });
  pages.serve('bundle', folder);
  page = await pages.open();
  await page.evaluate(async ([baseURL, timeout]) => {
    const { default: OpenAI } = await import('/bundle/openai.js');
    const ai = new fairlead.Fairlead({
      baseURL, apiKey: 'key', logLevel: 'off',
      policies: { default: { idleMs: timeout, firstTokenMs: timeout, breaker: { enabled: false } } },
    });
    const common = { baseURL, apiKey: 'key', maxRetries: 0, dangerouslyAllowBrowser: true };
    globalThis.sdks = {
      alone: new OpenAI({ ...common, timeout }),
      onFairlead: new OpenAI({ ...common, fetch: ai.fetch, timeout: 20_000 }),
    };
    globalThis.stream = async (sdk, signal) => {
      let text = '';
      try {
        const body = { model: 'qwen', messages: [], stream: true };
        const chunks = await sdks[sdk].chat.completions.create(body, { signal });
        for await (const chunk of chunks) text += chunk.choices[0]?.delta.content ?? '';
        return text;
      } catch (error) {
        return `failed: ${error.message}`;
      }
    };
  }, [`${vllm.url}/v1`, TIMEOUT_MS]);
});
beforeEach(() => vllm.reset());
after(async () => {
  await pages.close();
  await vllm.close();
  await rm(folder, { recursive: true });
  assert.deepEqual(pages.troubles, []);
});

for (const [name, fault] of Object.entries(FAULTS)) {
  describe(name, () => {
    beforeEach(() => vllm.script(fault));

    it('is the end for the SDK by itself', async () => {
      const ended = page.evaluate(() => {
        globalThis.leaving = new AbortController();
        return stream('alone', leaving.signal);
      });
      if (fault !== 'hang-after-headers') return assert.match(await ended, /^failed: /);
      // Its timeout ends at the headers: what falls silent behind them is waited for without end.
      await vllm.until(() => vllm.requests.at(-1)?.stalled);
      assert.equal(await Promise.race([ended, sleep(3 * TIMEOUT_MS, 'silence')]), 'silence');
      await page.evaluate(() => leaving.abort());
      return ended;
    });

    it('is nothing on ai.fetch', async () => {
      assert.equal(await page.evaluate(() => stream('onFairlead')), DEFAULT_TEXT);
    });
  });
}
