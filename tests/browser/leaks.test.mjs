// 200 streams, as many at a time as HTTP/1.1 allows a page, of all kinds of ends: behind them the page has what it had
// before.

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, startGateway, STAYS_CLOSED } from '../worker/gateway.mjs';
import { startPages } from './pages.mjs';

const STREAMS = 200;
const AT_A_TIME = 6;
/** What compilers and caches may still put aside; a stream that stayed would be several kilobytes, 200 of them more. */
const HEAP_MARGIN = 150_000;

let vllm;
let pages;
let gateway;
before(async () => {
  [vllm, pages] = await Promise.all([startVllm(), startPages()]);
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ vllm }),
    models: [{ name: '*', targets: [{ endpoint: 'vllm' }] }],
    policies: { default: { breaker: STAYS_CLOSED, budget: { capacity: 1_000_000 }, backoff: { base_ms: 1 } } },
    cors: { origins: [pages.origin] },
  });
});
after(async () => {
  await pages.close();
  await gateway?.close();
  await vllm.close();
  assert.deepEqual(pages.troubles, []);
});

/** What the page holds when everything that can go has gone. */
async function held(devtools) {
  // Twice: the first lets finalizers run, whose objects go with the second.
  for (let at = 0; at < 2; at += 1) await devtools.send('HeapProfiler.collectGarbage');
  const { metrics } = await devtools.send('Performance.getMetrics');
  const { JSEventListeners, Nodes } = Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
  const { usedSize, backingStorageSize } = await devtools.send('Runtime.getHeapUsage');
  return { listeners: JSEventListeners, nodes: Nodes, heap: usedSize, buffers: backingStorageSize };
}

const kinds = {
  'that come whole': [{}],
  'that end in every way': [
    {}, { sim: { fault: 'cut' } }, { sim: { fault: 'error-mid-stream' } }, { sim: { fault: 'http-422' } },
    { sim: { tokens: 500, tokenMs: 2 }, leave: 'abort' }, { sim: { tokens: 500, tokenMs: 2 }, leave: 'break' },
  ],
};
for (const [name, wishes] of Object.entries(kinds)) {
  it(`${STREAMS} streams ${name}`, async () => {
    const page = await pages.open();
    const devtools = await page.context().newCDPSession(page);
    await devtools.send('Performance.enable');
    await page.evaluate((baseURL) => {
      globalThis.ai = new fairlead.Fairlead({
        baseURL, apiKey: 'any', logLevel: 'off', policies: { default: { breaker: { enabled: false } } },
      });
      /** One stream; gives its text, or the code of its error. */
      const one = async ({ sim, leave }) => {
        const controller = new AbortController();
        let text = '';
        try {
          const body = { model: 'qwen', messages: [], stream: true, sim };
          for await (const chunk of await ai.chat.completions.create(body, { signal: controller.signal })) {
            text += chunk.choices[0]?.delta.content ?? '';
            if (text && leave === 'break') return 'left';
            if (text && leave === 'abort') controller.abort();
          }
          return text;
        } catch (error) {
          return error.code;
        }
      };
      globalThis.many = async (count, wishes, lanes) => {
        const ends = new Set();
        let at = 0;
        const lane = async () => {
          while (at < count) {
            const wish = wishes[at % wishes.length];
            at += 1;
            ends.add(await one(wish));
          }
        };
        await Promise.all(Array.from({ length: lanes }, lane));
        return [...ends];
      };
    }, `${gateway.url}/v1`);
    const many = (count) => page.evaluate((given) => many(...given), [count, wishes, AT_A_TIME]);

    await many(10 * AT_A_TIME); // the wasm, its memory, compiled code
    const before = await held(devtools);
    const ends = await many(STREAMS);
    const after = await held(devtools);

    if (wishes.length === 1) assert.deepEqual(ends, [DEFAULT_TEXT]);
    const grown = Object.fromEntries(Object.keys(before).map((what) => [what, after[what] - before[what]]));
    console.log(`${STREAMS} streams ${name}: ${JSON.stringify(before)}, and then ${JSON.stringify(grown)} more`);
    assert.deepEqual([grown.listeners, grown.nodes], [0, 0]);
    assert.ok(grown.heap < HEAP_MARGIN, `${grown.heap} bytes of heap stayed`);
    assert.ok(grown.buffers < HEAP_MARGIN, `${grown.buffers} bytes of buffers stayed`);
    // Nor does the endpoint still work for anybody.
    await vllm.until(() => vllm.requests.every(({ inFlight }) => !inFlight));
    await page.close();
  });
}
