// Other people's SDKs on `ai.fetch`: what they stream is what the endpoint said, also where its first answers fail.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { startProjects } from './project.mjs';

const PROLOGUE = `
  import { Fairlead } from 'fairlead';
  const baseURL = process.argv[2];
  const { fetch } = new Fairlead({ baseURL, apiKey: 'key' });
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
let projects;
before(async () => {
  [vllm, projects] = await Promise.all([startVllm({ apiKey: 'key' }), startProjects()]);
  for (const { needs } of Object.values(SDKS)) await Promise.all(needs.map((name) => projects.lend(name)));
});
after(async () => {
  await projects?.close();
  await vllm.close();
});

for (const [name, { code }] of Object.entries(SDKS)) {
  describe(name, () => {
    const faults = { 'a chat': [], 'a chat whose connection is reset': ['reset'], 'a chat behind a 503': ['http-503'] };
    for (const [what, script] of Object.entries(faults)) {
      it(`streams ${what}`, async () => {
        vllm.reset();
        vllm.script(...script);
        // No imports but at the top: a module hoists them.
        const folder = await projects.create('sdk', { 'index.mjs': `${PROLOGUE}${code}${EPILOGUE}` });
        const { stdout } = await projects.run(process.execPath, ['index.mjs', `${vllm.url}/v1`], { cwd: folder });
        assert.equal(JSON.parse(stdout), DEFAULT_TEXT);
        assert.equal(vllm.requests.length, script.length + 1);
      });
    }
  });
}
