// Under a Content-Security-Policy that lets in nothing but the page's own scripts, and wasm.

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { startPages, STRICT_CSP } from './pages.mjs';

let vllm;
let pages;
before(async () => {
  [vllm, pages] = await Promise.all([startVllm(), startPages()]);
});
after(async () => {
  await pages.close();
  await vllm.close();
  assert.deepEqual(pages.troubles, []);
});

const options = () => ({ baseURL: `${vllm.url}/v1`, apiKey: 'any' });
const ask = (page) =>
  page.evaluate((given) => outcome(new fairlead.Fairlead(given), { model: 'qwen', stream: true }), options());

it('fairlead/slim compiles the wasm while it comes', async () => {
  const page = await pages.open({ entry: 'slim.js', csp: STRICT_CSP });
  const { text, streamed } = await page.evaluate(async (given) => {
    let streamed = 0;
    for (const name of ['compileStreaming', 'instantiateStreaming']) {
      const own = WebAssembly[name];
      WebAssembly[name] = (...args) => {
        streamed += 1;
        return own.apply(WebAssembly, args);
      };
    }
    await fairlead.init(fetch('/fairlead/core.wasm'));
    return { ...(await outcome(new fairlead.Fairlead(given), { model: 'qwen', stream: true })), streamed };
  }, options());
  assert.deepEqual([text, streamed], [DEFAULT_TEXT, 1]);
});

const sources = {
  'a URL': () => fairlead.init(new URL('/fairlead/core.wasm', location.href)),
  'a URL as text': () => fairlead.init('/fairlead/core.wasm'),
  'a Response': async () => fairlead.init(await fetch('/fairlead/core.wasm')),
  'bytes': async () => fairlead.init(await (await fetch('/fairlead/core.wasm')).arrayBuffer()),
  'a compiled module': async () => fairlead.init(await WebAssembly.compileStreaming(fetch('/fairlead/core.wasm'))),
};
for (const [name, init] of Object.entries(sources)) {
  it(`fairlead/slim takes ${name}`, async () => {
    const page = await pages.open({ entry: 'slim.js', csp: STRICT_CSP });
    await page.evaluate(init);
    assert.equal((await ask(page)).text, DEFAULT_TEXT);
  });
}

it('fairlead with the wasm inside runs, too', async () => {
  const page = await pages.open({ csp: STRICT_CSP });
  assert.equal((await ask(page)).text, DEFAULT_TEXT);
});

it('without a word for wasm the call fails, and its error says what the policy lacks', async () => {
  const page = await pages.open({ csp: STRICT_CSP.replace(" 'wasm-unsafe-eval'", '') });
  const { error } = await ask(page);
  assert.ok(error.classes.includes('FairleadError'));
  assert.match(error.message, /wasm-unsafe-eval|Content[- ]Security[- ]Policy/i);
  pages.troubles.splice(0, Infinity, ...pages.troubles.filter((trouble) => !/Content[- ]Security/i.test(trouble)));
});
