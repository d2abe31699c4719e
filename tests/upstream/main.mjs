// The simulated vLLM as a command: node tests/upstream/main.mjs --port 8001 --token-ms 20

import { parseArgs } from 'node:util';
import { startVllm } from './vllm.mjs';

const USAGE = `Usage: node tests/upstream/main.mjs [options]

  --port N             8001; 0 takes any
  --host NAME          127.0.0.1
  --model NAME         a model to serve, may be repeated; without it every name is served
  --api-key KEY        what /v1 asks for
  --token-ms N         20, the time between two tokens
  --first-token-ms N   0, the time before the first
  --fault NAME         what happens to every request; see README.md
`;

// A demo runs for days and nobody reads its records.
const KEEP_REQUESTS = 20;

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '8001' },
    host: { type: 'string', default: '127.0.0.1' },
    model: { type: 'string', multiple: true, default: [] },
    'api-key': { type: 'string' },
    'token-ms': { type: 'string', default: '20' },
    'first-token-ms': { type: 'string', default: '0' },
    fault: { type: 'string', default: 'ok' },
    help: { type: 'boolean', short: 'h', default: false },
  },
});

if (values.help) {
  process.stdout.write(USAGE);
} else {
  const server = await startVllm({
    port: Number(values.port),
    host: values.host,
    models: values.model,
    apiKey: values['api-key'],
    tokenMs: Number(values['token-ms']),
    firstTokenMs: Number(values['first-token-ms']),
    keepRequests: KEEP_REQUESTS,
  });
  server.fault = values.fault;
  process.stdout.write(`simulated vLLM at ${server.url}/v1\n`);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => server.close());
}
