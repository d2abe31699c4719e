// The simulated RunPod as a command: node tests/upstream/runpod-main.mjs --port 8002 --cold-start-ms 3000

import { parseArgs } from 'node:util';
import { startRunpod } from './runpod.mjs';

const USAGE = `Usage: node tests/upstream/runpod-main.mjs [options]

  --port N             8002; 0 takes any
  --host NAME          127.0.0.1
  --endpoint ID        demo, the endpoint's id
  --handler NAME       worker-vllm; see runpod/README.md
  --api-key KEY        rpa_simulated
  --cold-start-ms N    3000, from a job without a worker to its start
  --idle-ms N          30000, how long a worker stays without a job
  --token-ms N         40, the time between two tokens
  --fault OP=NAME      what happens to every request of this operation, may be repeated
`;

// A demo runs for days and nobody reads its records.
const KEEP = 100;

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '8002' },
    host: { type: 'string', default: '127.0.0.1' },
    endpoint: { type: 'string', default: 'demo' },
    handler: { type: 'string', default: 'worker-vllm' },
    'api-key': { type: 'string', default: 'rpa_simulated' },
    'cold-start-ms': { type: 'string', default: '3000' },
    'idle-ms': { type: 'string', default: '30000' },
    'token-ms': { type: 'string', default: '40' },
    fault: { type: 'string', multiple: true, default: [] },
    help: { type: 'boolean', short: 'h', default: false },
  },
});

if (values.help) {
  process.stdout.write(USAGE);
} else {
  const server = await startRunpod({
    port: Number(values.port),
    host: values.host,
    apiKey: values['api-key'],
    keepRequests: KEEP,
    keepJobs: KEEP,
    endpoints: {
      [values.endpoint]: {
        handler: values.handler,
        coldStartMs: Number(values['cold-start-ms']),
        idleMs: Number(values['idle-ms']),
        vllm: { tokenMs: Number(values['token-ms']), keepRequests: KEEP },
      },
    },
  });
  for (const fault of values.fault) server.endpoint().faults.always(...fault.split('='));
  process.stdout.write(`simulated RunPod at ${server.baseUrl()}, key ${server.apiKey}\n`);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => server.close());
}
