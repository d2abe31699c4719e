// The same answers streamed and whole, for the core's tests of `Assembly`: tests/fixtures/assembly/*.txt, each with the
// whole answer in its first line and the stream behind it. `node tests/upstream/pairs.mjs` writes them anew.

import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { exchange } from './raw-client.mjs';
import { startVllm } from './vllm.mjs';

const FOLDER = new URL('../fixtures/assembly/', import.meta.url);

const TEXT = 'In "Zürich":\n\t🦀 \\ 5. Then more';
const tool = (name, properties) => ({ type: 'function', function: { name, parameters: { type: 'object', properties } } });
const WEATHER = tool('get_weather', { city: { type: 'string' }, days: { type: 'integer' } });
const CLOCK = tool('get_time', { zone: { type: 'string' } });
const SCHEMA = { type: 'object', properties: { city: { type: 'string' }, temp: { type: 'number' } } };

const CHAT = {
  plain: {},
  n3: { n: 3 },
  tools: { tools: [WEATHER, CLOCK] },
  tools_n2: { n: 2, tools: [WEATHER, CLOCK] },
  tool_forced: { tools: [WEATHER, CLOCK], tool_choice: { type: 'function', function: { name: 'get_time' } } },
  tool_cut: { tools: [WEATHER], max_tokens: 6 },
  logprobs: { logprobs: true, top_logprobs: 2 },
  reasoning: { chat_template_kwargs: { enable_thinking: true } },
  reasoning_old: { chat_template_kwargs: { enable_thinking: true }, sim: { text: TEXT, reasoning_content: true } },
  reasoning_cut: { chat_template_kwargs: { enable_thinking: true }, max_tokens: 4 },
  token_ids: { return_token_ids: true },
  token_ids_cut: { return_token_ids: true, max_tokens: 5 },
  stop: { stop: ['Then'] },
  json: { response_format: { type: 'json_schema', json_schema: { name: 'x', schema: SCHEMA } }, sim: {} },
  empty: { sim: { text: '' } },
};

const COMPLETIONS = {
  plain: {},
  stop: { stop: 'Then' },
  n2: { n: 2 },
  prompts: { prompt: ['The quick', 'brown fox'], n: 2 },
  logprobs: { logprobs: 1, prompt: ['The quick', 'brown fox'] },
  token_ids: { prompt: [[1, 2], [3]], return_token_ids: true },
  token_ids_cut: { prompt: [[1, 2], [3]], return_token_ids: true, max_tokens: 5 },
};

const REQUESTS = [
  ...Object.entries(CHAT).map(([name, more]) => [
    `chat_${name}`, '/v1/chat/completions', { messages: [{ role: 'user', content: 'Where?' }], ...more },
  ]),
  ...Object.entries(COMPLETIONS).map(([name, more]) => [
    `completions_${name}`, '/v1/completions', { prompt: 'The quick', ...more },
  ]),
];

/** Each pair as [name of its file, what is in it]. */
export async function pairs() {
  const server = await startVllm();
  try {
    const said = async (name, path, body) => {
      const headers = { 'x-request-id': name };
      const { status, payload } = await exchange(server, { path, headers, body });
      if (status !== 200) throw new Error(`${name}: ${status} ${payload}`);
      return payload.toString();
    };
    const made = [];
    for (const [name, path, fields] of REQUESTS) {
      const body = { model: 'm', sim: { text: TEXT }, ...fields };
      const whole = await said(name, path, body);
      const streamed = await said(name, path, { ...body, stream: true, stream_options: { include_usage: true } });
      made.push([`${name}.txt`, `${whole}\n${streamed}`]);
    }
    return made;
  } finally {
    await server.close();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  rmSync(FOLDER, { recursive: true, force: true });
  mkdirSync(FOLDER, { recursive: true });
  for (const [name, text] of await pairs()) writeFileSync(new URL(name, FOLDER), text);
}
