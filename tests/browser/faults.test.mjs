// Each fault of the simulated vLLM as a page sees it: by its error class, through the gateway and without one.
//
// A page that asks an endpoint itself sees less than a server would. What CORS does not name (Retry-After,
// x-should-retry) is hidden from it, the 401 of vLLM is withheld altogether, and Chromium takes no more than 256 KiB of
// headers.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { HASTY, MAX_ATTEMPTS, NOT_STREAMED, PATIENT, STREAMED, STREAMED_EARLY } from '../outcomes.mjs';
import { optionsOf } from '../sdk/options.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, startGateway } from '../worker/gateway.mjs';
import { startPages } from './pages.mjs';

/** The class of each code, and of each status that an endpoint answers with by itself. */
const CLASSES = {
  upstream_timeout: 'TimeoutError',
  deadline_exceeded: 'TimeoutError',
  upstream_unreachable: 'ConnectionError',
  upstream_invalid: 'UpstreamError',
  upstream_rejected_key: 'UpstreamError',
  upstream_overloaded: 'OverloadedError',
  stream_interrupted: 'StreamInterruptedError',
  400: 'InvalidRequestError',
  404: 'NotFoundError',
  409: 'InvalidRequestError',
  422: 'InvalidRequestError',
};

/** Where a page without a gateway fares otherwise. */
const WITHOUT_GATEWAY = {
  // An origin whose answers the page has read before: nothing tells this from a connection that breaks.
  'http-401': { code: 'upstream_unreachable', attempts: MAX_ATTEMPTS },
  'huge-headers': { kind: 'failed', code: 'upstream_unreachable' },
  // What arrives together with the error may be lost to it.
  cut: { sim: { tokenMs: 30 } },
  'cut-reset': { sim: { tokenMs: 30 } },
  'short-body': { mayBreak: true },
  'should-retry-false': { attempts: MAX_ATTEMPTS },
  'should-retry-true': { attempts: 1 },
};

let vllm;
let pages;
let gateway;
let page;
before(async () => {
  [vllm, pages] = await Promise.all([startVllm(), startPages()]);
  const config = {
    endpoints: endpointsOf({ vllm }),
    models: [{ name: '*', targets: [{ endpoint: 'vllm' }] }],
    policies: { default: PATIENT, hasty: HASTY },
  };
  gateway = await startGateway({ ...config, open: true, cors: { origins: [pages.origin] } });
  page = await pages.open();
  await page.evaluate(([through, directly]) => {
    globalThis.clients = { through: new fairlead.Fairlead(through), directly: new fairlead.Fairlead(directly) };
  }, [
    {
      baseURL: `${gateway.url}/v1`, apiKey: 'any', logLevel: 'off',
      policies: { default: { breaker: { enabled: false } } },
    },
    { ...optionsOf(config), logLevel: 'off' },
  ]);
});
after(async () => {
  await pages.close();
  await gateway?.close();
  await vllm.close();
  assert.deepEqual([pages.troubles, gateway.troubles], [[], []]);
});

let calls = 0;

async function ask(client, stream, fault, { sim, policy }) {
  calls += 1;
  const call = `call-${calls}`;
  const told = await page.evaluate(([name, body, options]) => outcome(clients[name], body, options), [
    client, { model: 'qwen', stream, sim: { fault, ...sim }, user: call }, { policy },
  ]);
  return { ...told, seen: vllm.requests.filter(({ body }) => body.includes(`"user":"${call}"`)) };
}

function assertOutcome({ text, error, seen }, fault, expected) {
  const { kind, code, status, param, attempts, mayBreak } = expected;
  if (kind === 'whole') {
    if (mayBreak && error) return assert.equal(error.code, 'stream_interrupted');
    assert.equal(error, undefined);
    if (fault === 'huge-event') assert.ok(text.length > 1024 * 1024);
    else assert.equal(text, fault === 'malformed' ? DEFAULT_TEXT.replace(' guides', '') : DEFAULT_TEXT);
    return undefined;
  }
  assert.ok(error, `it came whole: ${text.slice(0, 40)}`);
  assert.equal(error.name, CLASSES[code ?? status]);
  assert.deepEqual(error.classes, [error.name, 'FairleadError'].sort());
  if (code) assert.equal(error.code, code);
  if (kind === 'passedOn') assert.equal(error.status, status);
  else if (param !== 'any') assert.equal(error.param ?? null, param ?? null);
  if (attempts) assert.deepEqual([error.attempts, seen.length], [attempts, attempts]);
  if (kind === 'broken') {
    assert.ok(text.startsWith('A'));
    assert.equal(error.partial.text, text);
  } else {
    assert.equal(text, '');
  }
  return undefined;
}

/** Chromium itself asks again where a connection that it had kept breaks, or says 408: no choice of the core's. */
const REPEATED = ['reset', 'close', 'http-408'];

function suite(what, stream, table) {
  describe(`${what}, through the gateway`, { concurrency: 4 }, () => {
    for (const [fault, expected] of Object.entries(table)) {
      it(`${fault}: ${expected.name}`, async () => {
        // Whatever the gateway has tried in vain, the page does not try again.
        assertOutcome(await ask('through', stream, fault, expected), fault, expected);
      });
    }
  });

  describe(`${what}, without a gateway`, { concurrency: 4 }, () => {
    for (const [fault, each] of Object.entries(table)) {
      const expected = { ...each, ...WITHOUT_GATEWAY[fault] };
      expected.sim = { ...WITHOUT_GATEWAY[fault]?.sim, ...each.sim };
      if (REPEATED.includes(fault)) expected.attempts = undefined;
      it(`${fault}: ${expected.name}`, async () => {
        assertOutcome(await ask('directly', stream, fault, expected), fault, expected);
      });
    }
  });
}

suite('a stream under each fault', true, STREAMED);
suite('a stream under each fault before its content', true, STREAMED_EARLY);
suite('an answer that does not stream under each fault', false, NOT_STREAMED);
