// What the soak's memory is held against: the least Worker that there can be, which passes requests on, in the same
// workerd and measured alike. `node tests/soak/control.mjs [REQUESTS]` prints what workerd has for itself in MB, a figure
// for each twentieth.

import { Miniflare } from 'miniflare';
import { children, privateBytes } from '../../bench/proc.mjs';
import { startVllm } from '../upstream/vllm.mjs';

const requests = Number(process.argv[2] ?? 20_000);
const BATCHES = 20;
const AT_ONCE = 48;

process.env.MINIFLARE_WORKERD_V8_FLAGS = '--expose-gc';
const vllm = await startVllm({ keepRequests: 20 });
const source = `export default {
  fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname !== '/collect') return fetch(${JSON.stringify(vllm.url)} + pathname, request);
    gc();
    return new Response();
  },
}`;
const miniflare = new Miniflare({
  cf: false,
  telemetry: { enabled: false },
  enableDevRegistry: false,
  handleStructuredLogs: () => {},
  workers: [{
    config: {
      name: 'control',
      compatibilityDate: '2026-11-01',
      manifest: { mainModule: 'index.js', modulesRoot: '/', modules: { 'index.js': { type: 'esm', contents: source } } },
    },
    dev: { unsafeDirectSockets: [{ host: '127.0.0.1', port: 0 }] },
  }],
});
await miniflare.ready;
const { origin } = await miniflare.unsafeGetDirectURL('control');
const [pid] = children('workerd');

const body = JSON.stringify({ model: 'text', max_tokens: 12, messages: [{ role: 'user', content: 'What is a fairlead?' }] });
const init = { method: 'POST', body, headers: { 'content-type': 'application/json' } };
for (let batch = 0; batch < BATCHES; batch++) {
  let left = requests / BATCHES;
  const worker = async () => {
    while (left-- > 0) await (await fetch(`${origin}/v1/chat/completions`, init)).text();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  await (await fetch(`${origin}/collect`)).text();
  console.log((privateBytes(pid) / 1e6).toFixed(1));
}
await miniflare.dispose();
await vllm.close();
