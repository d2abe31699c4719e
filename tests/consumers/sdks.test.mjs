// Other people's SDKs on `ai.fetch`: what they stream is what the endpoint said, also where its first answers fail, or
// break off and go on; and on a gateway that lets streams go on.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, startGateway } from '../worker/gateway.mjs';
import { startProjects } from './project.mjs';

const PROLOGUE = `
  import { Fairlead } from 'fairlead';
  const [, , baseURL, policy] = process.argv;
  const { fetch } = new Fairlead({ baseURL, apiKey: 'key', policies: { default: JSON.parse(policy ?? '{}') } });
  let text = '';
`;
/** The SDK alone. */
const WITHOUT = `
  const [, , baseURL] = process.argv;
  const { fetch } = globalThis;
  let text = '';
`;
const EPILOGUE = 'console.log(JSON.stringify(text));';

const SDKS = {
  'the AI SDK': {
    needs: ['ai', '@ai-sdk/openai-compatible'],
    code: `
      import { streamText } from 'ai';
      import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
      const { chatModel } = createOpenAICompatible({ name: 'fairlead', baseURL, apiKey: 'key', fetch });
      const { textStream } = streamText({
        model: chatModel('qwen'), prompt: 'Hi', maxRetries: 0, onError({ error }) { throw error; },
      });
      for await (const part of textStream) text += part;
    `,
  },
  'LangChain.js': {
    needs: ['@langchain/core', '@langchain/openai'],
    code: `
      import { ChatOpenAI } from '@langchain/openai';
      const model = new ChatOpenAI({ model: 'qwen', apiKey: 'key', maxRetries: 0, configuration: { baseURL, fetch } });
      for await (const chunk of await model.stream('Hi')) text += chunk.content;
    `,
  },
};

let vllm;
let gateway;
let projects;
before(async () => {
  [vllm, projects] = await Promise.all([startVllm({ apiKey: 'key' }), startProjects()]);
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ vllm }).map((endpoint) => ({ ...endpoint, api_key_secret: 'KEY' })),
    models: [{ name: '*', targets: [{ endpoint: 'vllm' }] }],
    policies: { default: { resume: 'continue', backoff: { base_ms: 1 } } },
  }, { secrets: { KEY: 'key' } });
  for (const { needs } of Object.values(SDKS)) await Promise.all(needs.map((name) => projects.lend(name)));
});
after(async () => {
  await projects?.close();
  await gateway?.close();
  await vllm.close();
});

for (const [name, { code }] of Object.entries(SDKS)) {
  describe(name, () => {
    /** What the SDK has streamed, in a project of its own. */
    async function stream(prologue, ...words) {
      // No imports but at the top: a module hoists them.
      const folder = await projects.create('sdk', { 'index.mjs': `${prologue}${code}${EPILOGUE}` });
      const { stdout } = await projects.run(process.execPath, ['index.mjs', ...words], { cwd: folder });
      return JSON.parse(stdout);
    }
    const asked = () => vllm.requests.filter(({ path }) => path === '/v1/chat/completions').length;

    const faults = { 'a chat': [], 'a chat whose connection is reset': ['reset'], 'a chat behind a 503': ['http-503'] };
    for (const [what, script] of Object.entries(faults)) {
      it(`streams ${what}`, async () => {
        vllm.reset();
        vllm.script(...script);
        assert.equal(await stream(PROLOGUE, `${vllm.url}/v1`), DEFAULT_TEXT);
        assert.equal(vllm.requests.length, script.length + 1);
      });
    }

    it('streams a chat that breaks in its middle, twice', async () => {
      const cuts = [{ fault: 'cut', afterEvents: 5 }, { fault: 'cut', afterEvents: 9 }];
      vllm.reset();
      vllm.script(...cuts);
      assert.equal(await stream(PROLOGUE, `${vllm.url}/v1`, JSON.stringify({ resume: 'verify', backoff: { baseMs: 1 } })), DEFAULT_TEXT);
      assert.equal(asked(), 3);
    });

    it('streams one that breaks behind a gateway, twice', async () => {
      const cuts = [{ fault: 'cut', afterEvents: 5 }, { fault: 'cut', afterEvents: 4 }];
      vllm.reset();
      vllm.script(...cuts);
      assert.equal(await stream(WITHOUT, `${gateway.url}/v1`), DEFAULT_TEXT);
      assert.equal(asked(), 3);
      assert.deepEqual(gateway.troubles, []);
    });
  });
}
