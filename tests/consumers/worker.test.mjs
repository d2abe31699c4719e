// The packed package inside somebody's Cloudflare Worker: bundled by wrangler, run in workerd.

import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import { Miniflare } from 'miniflare';
import { bin } from '../../scripts/setup.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { startProjects } from './project.mjs';

const COMPATIBILITY_DATE = '2026-11-01';
const WORKER = `
  import { Fairlead } from 'fairlead';
  export default {
    async fetch(request, env) {
      const ai = new Fairlead({ baseURL: env.BASE_URL, apiKey: 'key' });
      const messages = [{ role: 'user', content: 'Hi' }];
      const stream = await ai.chat.completions.create({ model: 'qwen', messages, stream: true });
      let text = '';
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
      return new Response(text);
    },
  };
`;

let vllm;
let projects;
before(async () => {
  [vllm, projects] = await Promise.all([startVllm({ apiKey: 'key' }), startProjects()]);
});
after(async () => {
  await projects?.close();
  await vllm.close();
});

it('answers, request after request', async (t) => {
  const folder = await projects.create('worker', {
    'index.js': WORKER,
    'wrangler.json': { name: 'somebody-elses', main: 'index.js', compatibility_date: COMPATIBILITY_DATE },
  });
  await projects.run(bin('wrangler'), ['deploy', '--dry-run', '--outdir', 'out'], {
    cwd: folder, env: { WRANGLER_SEND_METRICS: 'false' },
  });
  const troubles = [];
  const miniflare = new Miniflare({
    cf: false,
    telemetry: { enabled: false },
    enableDevRegistry: false,
    handleStructuredLogs: ({ level, message }) => troubles.push(`${level}: ${message}`),
    workers: [{
      config: {
        name: 'somebody-elses', compatibilityDate: COMPATIBILITY_DATE, compatibilityFlags: [],
        manifest: { mainModule: 'index.js', modulesRoot: folder, modules: await modulesIn(join(folder, 'out')) },
        env: { BASE_URL: { type: 'text', value: `${vllm.url}/v1` } },
      },
    }],
  });
  t.after(() => miniflare.dispose());
  for (let at = 0; at < 3; at += 1) {
    const response = await miniflare.dispatchFetch('http://worker.example/');
    assert.equal(await response.text(), DEFAULT_TEXT);
  }
  assert.deepEqual(troubles, []);
});

async function modulesIn(folder) {
  const modules = {};
  for (const name of await readdir(folder)) {
    const type = { js: 'esm', wasm: 'wasm' }[name.split('.').at(-1)];
    const encoding = type === 'esm' ? 'utf8' : undefined;
    if (type) modules[name] = { type, contents: await readFile(join(folder, name), encoding) };
  }
  return modules;
}
