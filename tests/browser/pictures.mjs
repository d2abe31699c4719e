// `node tests/browser/pictures.mjs`: the pictures of docs/dashboard.md, of a gateway at work, in health and in an outage.
// `node tests/browser/pictures.mjs FOLDER` puts all of them into a folder, in light and dark, on a desk and on a phone.

import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway, STATE } from '../worker/gateway.mjs';
import { startPages } from './pages.mjs';

const repository = fileURLToPath(new URL('../../', import.meta.url));
const ASSETS = { type: 'disk', path: join(repository, 'worker', 'dashboard') };
const ADMIN_KEY = 'sk-admin-0123456789';
const KEYS = { web: 'sk-web-0123456789', batch: 'sk-batch-0123456789' };
const VLLM = { firstTokenMs: 120, tokenMs: 6, slowTail: { every: 6, firstTokenMs: 700 } };
const PROMPT = { messages: [{ role: 'user', content: 'What is a fairlead?' }] };

const DESK = { viewport: { width: 1280, height: 1000 } };
const PHONE = { viewport: { width: 375, height: 812 }, deviceScaleFactor: 1.5, isMobile: true, hasTouch: true };
const LOOKS = [['light', DESK, 'desk'], ['dark', DESK, 'desk'], ['light', PHONE, 'phone'], ['dark', PHONE, 'phone']];
/** Those that the page has. */
const FOR_DOCS = ['health-desk-light', 'outage-desk-dark', 'outage-phone-light'];
const CALL = 'outage-desk-light';

const [folder = join(repository, 'docs')] = process.argv.slice(2);
const isForDocs = process.argv.length === 2;
mkdirSync(folder, { recursive: true });

const cold = { handler: 'worker-vllm', coldStartMs: 2500, idleMs: 1, vllm: VLLM };
const [a100, spare, runpod, pages] = await Promise.all([
  startVllm(VLLM), startVllm(VLLM), startRunpod({ endpoints: { burst: cold } }), startPages(),
]);
/** Open for as long as the pictures take. */
const breaker = { open_ms: 60_000 };
const gateway = await startGateway({
  endpoints: [
    ...endpointsOf({ a100, spare }).map((endpoint) => ({ ...endpoint, max_concurrency: 16 })),
    { name: 'burst', provider: 'runpod', base_url: runpod.baseUrl('burst'), api_key_secret: 'RUNPOD_KEY', max_execution_ms: 60_000 },
  ],
  models: [
    { name: 'qwen', targets: [{ endpoint: 'a100' }, { endpoint: 'spare' }] },
    { name: 'llama', policy: 'batch', targets: [{ endpoint: 'a100' }] },
    { name: 'overflow', policy: 'batch', targets: [{ endpoint: 'burst' }] },
  ],
  policies: { default: { first_token_ms: 10_000, deadline_ms: 60_000, breaker }, batch: { first_token_ms: 20_000, deadline_ms: 120_000, breaker } },
  clients: Object.entries(KEYS).map(([name, key]) => ({ name, keys_sha256: [sha256(key)] })),
  admin_key_secret: 'ADMIN_KEY',
}, { secrets: { ADMIN_KEY, RUNPOD_KEY: 'rpa_simulated' }, env: { ASSETS, STATE } });

/** The id of a call that took two attempts. */
let failedOver;

try {
  await work(90, ['qwen', 'qwen', 'llama', 'overflow', 'qwen', 'llama']);
  await shoot('health');
  a100.fault = 'reset';
  await work(32, ['qwen', 'qwen', 'llama', 'qwen', 'overflow', 'llama']);
  await shoot('outage');
} finally {
  await pages.close();
  await gateway.close();
  await Promise.all([a100, spare, runpod].map((server) => server.close()));
}

/** So many calls, some at a time, each for the next of these models. */
async function work(calls, models) {
  let next = 0;
  const worker = async () => {
    while (next < calls) {
      const at = next;
      next += 1;
      const client = at % 4 === 3 ? 'batch' : 'web';
      const response = await gateway.fetch('/v1/chat/completions', {
        body: { ...PROMPT, model: models[at % models.length], stream: client === 'web', ...(client === 'web' && { stream_options: { include_usage: true } }) },
        headers: { authorization: `Bearer ${KEYS[client]}` },
      });
      await response.text();
      if (response.headers.get('x-fairlead-attempts') === '2') failedOver ??= response.headers.get('x-request-id');
    }
  };
  await Promise.all(Array.from({ length: 6 }, worker));
  await (await gateway.fetch('/v1/models', { headers: { authorization: 'Bearer wrong' } })).text();
}

async function shoot(state) {
  for (const [colorScheme, options, device] of LOOKS) {
    const name = `${state}-${device}-${colorScheme}`;
    if (isForDocs && ![...FOR_DOCS, CALL].includes(name)) continue;
    const context = await pages.context({ ...options, colorScheme, reducedMotion: 'reduce' });
    const page = await context.newPage();
    await page.goto(`${gateway.url}/#key=${ADMIN_KEY}`);
    await page.locator('.fold').first().waitFor();
    // So that there is a past to draw.
    await work(4, ['qwen', 'llama']); // few, as the last 50 calls are shown
    await sleep(4500);
    if (state === 'outage') {
      await page.locator('#find').fill(failedOver);
      await page.locator('.fold').click();
      await page.locator('.opened').waitFor();
      if (device === 'desk' && !(isForDocs && name === CALL)) await page.locator('#find').fill('');
    }
    await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
    const path = join(folder, `dashboard-${name === CALL && isForDocs ? 'call' : name}.png`);
    if (name === CALL && isForDocs) await page.locator('#calls').screenshot({ path });
    else await page.screenshot({ path, fullPage: !isForDocs });
    console.log(path, statSync(path).size);
    await context.close();
  }
}
