// One word stands in every secret there is: keys, addresses, prompts, answers, what clients send of themselves. It may
// stand in no line of the log, in nothing that is printed, in no error, no header of a response, no status, no metrics
// and no data point, whatever goes wrong. (What an endpoint answers its own caller goes to that caller as it is.)

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { NOT_STREAMED, STREAMED, STREAMED_EARLY } from '../outcomes.mjs';
import { startRunpod } from '../upstream/runpod.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { DATASET, pointsOf } from './dataset.mjs';
import { requestsOf, sha256, startGateway, STAYS_CLOSED } from './gateway.mjs';

const WORD = 'hushword';
const SECRETS = {
  VLLM_KEY: `sk-vllm-${WORD}`, RUNPOD_KEY: `rpa-${WORD}`, ADMIN_KEY: `admin-${WORD}`,
};
const CLIENT_KEY = `sk-client-${WORD}`;
const CHAT = '/v1/chat/completions';
const MESSAGES = [{ role: 'user', content: `Nobody may read this: ${WORD}` }];
/** What a client tells of itself, and no endpoint or log is told. */
const OWN = {
  authorization: `Bearer ${CLIENT_KEY}`, cookie: `session=${WORD}`, 'user-agent': WORD, referer: `https://${WORD}.example/`,
  'x-forwarded-for': WORD,
};

/** The way to the endpoint that has one, by a name that is a secret, too. */
const tunnel = (url) => `export default { fetch(request) {
  const { pathname, search } = new URL(request.url);
  return fetch(new Request('${url}' + pathname.replace('/${WORD}', '') + search, request), { redirect: 'manual' });
} }`;

let vllm;
let runpod;
let gateway;
/** What clients got: the headers of all, the bodies of errors of the gateway's own. */
const told = [];
before(async () => {
  vllm = await startVllm({ apiKey: SECRETS.VLLM_KEY, tokenMs: 1, maxMs: 4000 });
  runpod = await startRunpod({ apiKey: SECRETS.RUNPOD_KEY, endpoints: { llm: { handler: 'worker-vllm' }, raises: { handler: 'raise' } } });
  const policy = {
    breaker: STAYS_CLOSED, budget: { capacity: 1_000_000 }, backoff: { base_ms: 1, throttled_base_ms: 1, max_ms: 1 }, max_attempts: 2,
    deadline_ms: 4000, headers_ms: 500, first_token_ms: 700, idle_ms: 500, progress_ms: 900,
  };
  gateway = await startGateway({
    endpoints: [
      {
        name: 'vllm', provider: 'vllm', base_url: `http://${WORD}.internal/${WORD}/v1`, api_key_secret: 'VLLM_KEY',
        via: `TUNNEL_${WORD}`,
      },
      { name: 'gone', provider: 'vllm', base_url: `http://${WORD}.invalid:9/v1`, api_key_secret: 'VLLM_KEY' },
      ...['llm', 'raises'].map((name) => ({
        name, provider: 'runpod', base_url: runpod.baseUrl(name), api_key_secret: 'RUNPOD_KEY', native: true,
      })),
    ],
    models: ['vllm', 'gone', 'llm', 'raises'].map((endpoint) => ({ name: endpoint, targets: [{ endpoint }] })),
    policies: { default: policy, native: { ...policy, forward: 'native' }, inside: { ...policy, stream_internally: true } },
    clients: [{
      name: 'web', keys_sha256: [sha256(CLIENT_KEY)], policies: ['native', 'inside'], models: ['vllm', 'gone', 'llm', 'raises'],
      runpod: ['llm', 'raises'], max_n: 4,
    }],
    admin_key_secret: 'ADMIN_KEY', faults: true,
  }, {
    secrets: SECRETS,
    env: { [`TUNNEL_${WORD}`]: { type: 'worker', worker: 'tunnel' } },
    workers: { tunnel: tunnel(vllm.url) },
    prelude: DATASET,
  });
});
after(async () => {
  await gateway.close();
  await Promise.all([vllm.close(), runpod.close()]);
});

let count = 0;
async function ask(path, { body, headers, own = true, passes = false } = {}) {
  count += 1;
  const id = `secret-${count}`;
  const response = await gateway.fetch(path, { body, headers: { ...(own && OWN), 'x-request-id': id, ...headers } });
  const text = await response.text();
  told.push(JSON.stringify([...response.headers]));
  // An endpoint's own refusal, and an answer, are for the client who sent the word.
  const errors = response.ok ? text.split('\n').filter((line) => line.includes('"error"')) : [text];
  if (!passes) told.push(...errors.filter((error) => /"code":"[a-z_]+"/.test(error)));
  return { id, response, text };
}

const chat = (model, more, options) => ask(CHAT, { body: { model, messages: MESSAGES, ...more }, ...options });

describe('whatever an endpoint does', { concurrency: 8 }, () => {
  for (const [stream, table] of [[true, STREAMED], [true, STREAMED_EARLY], [false, NOT_STREAMED]]) {
    for (const [fault, { sim, kind }] of Object.entries(table)) {
      it(`${stream ? 'a stream under ' : ''}${fault}`, async () => {
        const entry = { fault, text: `An answer with ${WORD} in it, that goes on for some time`, message: WORD, ...sim };
        const { id } = await chat('vllm', { stream, sim: entry }, { passes: kind === 'passedOn' });
        await gateway.line({ request_id: id, event: 'call_ended' });
        assert.ok(requestsOf(vllm, id).length > 0, 'it was asked');
      });
    }
  }

  for (const policy of ['native', 'inside']) {
    for (const fault of ['cut', 'error-mid-stream', 'stall', 'malformed', 'html', 'http-500']) {
      it(`${fault} under the policy ${policy}`, async () => {
        await chat('vllm', { stream: policy === 'native', sim: { fault, message: WORD } }, { headers: { 'x-fairlead-policy': policy } });
      });
    }
  }

  for (const model of ['gone', 'llm', 'raises']) {
    for (const stream of [true, false]) {
      it(`${model}${stream ? ', streaming' : ''}`, () => chat(model, { stream, error: 'ValueError', message: `${WORD} in an exception` }));
    }
  }

  for (const operation of ['run', 'stream', 'status']) {
    for (const fault of ['http-401', 'http-500', 'html', 'malformed', 'lost', 'other-json']) {
      it(`${fault} of RunPod's ${operation}`, () =>
        chat('llm', { stream: operation === 'stream', sim_job: { faults: { [operation]: [fault, fault] } } }));
    }
  }

  for (const what of ['run', 'runsync', 'status/x', 'stream/x', 'cancel/x', 'retry/x', 'health']) {
    it(`a client's own job: ${what}`, async () => {
      const submits = what.startsWith('run');
      const input = { messages: MESSAGES, message: WORD };
      await ask(`/runpod/raises/${what}`, { body: submits ? { input } : undefined, passes: what === 'runsync' });
    });
  }
});

describe('whatever is refused', () => {
  const body = { model: 'vllm', messages: MESSAGES };
  const requests = {
    'no key': [CHAT, { body, own: false }],
    'a wrong key': [CHAT, { body, headers: { authorization: `Bearer ${WORD}` } }],
    'a key of another scheme': [CHAT, { body, headers: { authorization: `Basic ${WORD}` } }],
    'a path': [`/${WORD}?key=${WORD}`, {}],
    'a method': [`${CHAT}?key=${WORD}`, {}],
    'no JSON': [CHAT, { body: `{"model":"vllm",${WORD}` }],
    'a list': [CHAT, { body: JSON.stringify([WORD]) }],
    'a model that is no name': [CHAT, { body: { model: [WORD] } }],
    'a form without an end': ['/v1/audio/transcriptions', { body: WORD, headers: { 'content-type': `multipart/form-data; boundary=${WORD}` } }],
    'a compressed body': [CHAT, { body, headers: { 'content-encoding': WORD } }],
    'a deadline': [CHAT, { body, headers: { 'x-fairlead-deadline-ms': WORD } }],
    'too many choices': [CHAT, { body: { ...body, n: 9 } }],
    'a fault without a key': [CHAT, { body, headers: { 'x-fairlead-fault': WORD, 'x-fairlead-admin-key': WORD } }],
    'a fault that there is not': [CHAT, { body, headers: { 'x-fairlead-fault': WORD, 'x-fairlead-admin-key': SECRETS.ADMIN_KEY } }],
    'a job of nobody': ['/runpod/llm/status/x.00112233445566778899', {}],
    'a job without an input': ['/runpod/llm/run', { body: { x: WORD } }],
    'a route inside of a job': ['/runpod/llm/run', { body: { input: { openai_route: `/${WORD}` } } }],
    'status without the key': ['/status', { headers: { authorization: `Bearer ${WORD}` } }],
    'an order without sense': ['/breakers/vllm', { body: { state: WORD }, headers: { authorization: `Bearer ${SECRETS.ADMIN_KEY}` } }],
  };
  for (const [name, [path, options]] of Object.entries(requests)) {
    it(name, async () => {
      const { response } = await ask(path, options);
      assert.ok(response.status >= 400, `${response.status}`);
    });
  }

  it('a fault that is played', async () => {
    for (const fault of ['http-500', 'unreachable', 'cut=3']) {
      await chat('vllm', { stream: true }, { headers: { 'x-fairlead-fault': fault, 'x-fairlead-admin-key': SECRETS.ADMIN_KEY } });
    }
  });
});

describe('and then', () => {
  /** Each without what a client of ours calls itself. */
  const search = (where, texts) => {
    for (const text of texts) assert.ok(!text.includes(WORD), `${where}: ${text.slice(Math.max(0, text.indexOf(WORD) - 300), text.indexOf(WORD) + 60)}`);
  };

  it('the word has gone to the endpoints', () => {
    assert.ok(vllm.requests.some(({ body }) => body.includes(WORD)) && vllm.requests.some(({ headers }) => headers.authorization.includes(WORD)));
    assert.ok(vllm.requests.some(({ sent }) => sent.includes(WORD)));
    for (const { headers } of vllm.requests) {
      const { authorization, host, ...others } = headers;
      search('a header for an endpoint', [JSON.stringify(others)]);
      assert.equal(authorization, `Bearer ${SECRETS.VLLM_KEY}`);
    }
  });

  it('it stands in nothing that was printed, the log and the data points included', () => {
    assert.ok(gateway.logs.filter(({ event }) => event === 'call_ended').length > 100);
    search('printed', gateway.printed);
  });

  it('nor in a header of a response, nor in an error of the gateway', () => {
    assert.ok(told.length > 200);
    search('told', told);
  });

  for (const path of ['/status', '/status?store=no', '/metrics']) {
    it(`nor in ${path}`, async () => {
      const response = await gateway.fetch(path, { headers: { authorization: `Bearer ${SECRETS.ADMIN_KEY}` } });
      const text = await response.text();
      assert.equal(response.status, 200);
      assert.ok(text.includes('vllm'));
      search(path, [text, JSON.stringify([...response.headers])]);
    });
  }

  it('data points were written', () => {
    assert.ok(pointsOf(gateway).length > 100);
  });

  it('a CONFIG with mistakes tells no secrets either', async () => {
    const broken = await startGateway({
      endpoints: [{ name: 'vllm', provider: 'vllm', base_url: `ftp://${WORD}/`, api_key_secret: 'VLLM_KEY', colour: WORD }],
      models: [{ name: 'm', targets: [{ endpoint: WORD }] }], clients: [{ name: 'c', keys_sha256: [WORD] }], admin_key_secret: 'ADMIN_KEY',
    }, { secrets: SECRETS });
    const response = await broken.fetch('/v1/models', { headers: OWN });
    const text = await response.text();
    await broken.close();
    assert.equal(response.status, 500);
    search('an answer', [text, JSON.stringify([...response.headers])]);
    for (const key of [...Object.values(SECRETS), CLIENT_KEY]) search('printed', broken.printed.map((line) => line.replaceAll(`"${WORD}"`, '').replaceAll(`\`${WORD}\``, '')).filter((line) => line.includes(key)));
  });
});
