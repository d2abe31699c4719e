// Chats from a page through the gateway: what comes, when it comes, and that whoever leaves is seen to leave by the
// endpoint.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway } from '../worker/gateway.mjs';
import { startPages } from './pages.mjs';

const KEY = 'client-key';
/** Long enough to be left in the middle. */
const LONG = { tokens: 2000, tokenMs: 5 };
const SILENCE_MS = 300;

let vllm;
let pages;
let gateway;
let page;
before(async () => {
  [vllm, pages] = await Promise.all([startVllm({ apiKey: 'endpoint-key' }), startPages()]);
  gateway = await startGateway({
    endpoints: endpointsOf({ vllm }).map((endpoint) => ({ ...endpoint, api_key_secret: 'VLLM_API_KEY' })),
    models: [{ name: 'qwen', targets: [{ endpoint: 'vllm', model: 'served' }] }],
    // A client that leaves in silence is noticed by the next comment.
    policies: { default: { commit_after_ms: SILENCE_MS, keepalive_ms: SILENCE_MS } },
    clients: [{ name: 'page', keys_sha256: [sha256(KEY)] }],
    cors: { origins: [pages.origin] },
  }, { secrets: { VLLM_API_KEY: 'endpoint-key' } });
  page = await pages.open();
});
beforeEach(() => vllm.reset());
after(async () => {
  await pages.close();
  await gateway?.close();
  await vllm.close();
  assert.deepEqual([pages.troubles, gateway.troubles], [[], []]);
});

/** Runs in the page with the client's options and what else is given. */
const inPage = (run, more) => page.evaluate(run, { options: { baseURL: `${gateway.url}/v1`, apiKey: KEY }, ...more });

describe('a chat through the gateway', () => {
  it('streams', async () => {
    const { text, usage } = await inPage(async ({ options }) => {
      const ai = new fairlead.Fairlead(options);
      let text = '';
      let usage;
      const messages = [{ role: 'user', content: 'Hi' }];
      const body = { model: 'qwen', messages, stream: true, stream_options: { include_usage: true } };
      const stream = await ai.chat.completions.create(body);
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta.content ?? '';
        usage = chunk.usage ?? usage;
      }
      return { text, usage };
    });
    assert.equal(text, DEFAULT_TEXT);
    assert.ok(usage.completion_tokens > 0);
    assert.equal(vllm.requests.length, 1);
    assert.equal(vllm.requests[0].json.model, 'served');
  });

  it('comes whole', async () => {
    const { text } = await inPage(({ options }) => outcome(new fairlead.Fairlead(options), { model: 'qwen' }));
    assert.equal(text, DEFAULT_TEXT);
  });

  it('is shown as it comes, not at its end', async () => {
    const first = await inPage(async ({ options, sim }) => {
      const ai = new fairlead.Fairlead(options);
      const stream = await ai.chat.completions.create({ model: 'qwen', messages: [], stream: true, sim });
      globalThis.reading = stream[Symbol.asyncIterator]();
      return (await globalThis.reading.next()).done;
    }, { sim: { tokens: 200, tokenMs: 5 } });
    assert.equal(first, false);
    const [record] = vllm.requests;
    assert.equal(record.finishedAt, null, 'the endpoint had finished before the page was shown anything');
    await inPage(async () => {
      while (!(await globalThis.reading.next()).done);
    });
    await vllm.until(() => record.finishedAt);
  });

  it('may be asked for by a key that is wrong, and says so', async () => {
    const { error } = await inPage(({ options }) =>
      outcome(new fairlead.Fairlead({ ...options, apiKey: 'wrong' }), { model: 'qwen', stream: true }));
    assert.deepEqual([error.name, error.code, error.status], ['AuthenticationError', 'invalid_api_key', 401]);
    assert.equal(vllm.requests.length, 0);
  });

  it('runs on a hundred clients as on one', async () => {
    const texts = await inPage(({ options }) => Promise.all(Array.from({ length: 100 }, async () => {
      using ai = new fairlead.Fairlead(options);
      return (await outcome(ai, { model: 'qwen', stream: true })).text;
    })));
    assert.deepEqual(new Set(texts), new Set([DEFAULT_TEXT]));
  });
});

describe('the endpoint sees', () => {
  /** Leaves in the middle of a stream; `leave` runs in the page, where `stream`, `ai` and `controller` are. */
  async function left(leave) {
    const told = inPage(async ({ options, sim, source }) => {
      const ai = new fairlead.Fairlead(options);
      const controller = new AbortController();
      const body = { model: 'qwen', messages: [], stream: true, sim };
      const stream = await ai.chat.completions.create(body, { signal: controller.signal });
      const leave = (0, eval)(`(${source})`);
      let count = 0;
      try {
        for await (const chunk of stream) {
          count += chunk.choices[0]?.delta.content ? 1 : 0;
          if (count === 5 && leave({ ai, stream, controller })) break;
        }
        return { count };
      } catch (error) {
        return { count, ...tell(error) };
      }
    }, { sim: LONG, source: String(leave) });
    const record = await vllm.until(() => vllm.requests[0]);
    await vllm.until(() => record.closedByClientAt, 10_000);
    return { told: await told, record };
  }

  const ways = {
    'a signal that aborts': ({ controller }) => controller.abort(new Error('enough')),
    'stream.abort()': ({ stream }) => stream.abort(new Error('enough')),
    'the end of the client': ({ ai }) => ai[Symbol.dispose](),
  };
  for (const [name, leave] of Object.entries(ways)) {
    it(`${name}, and who reads gets an AbortError with what had come`, async () => {
      const { told, record } = await left(leave);
      assert.deepEqual([told.name, told.code, record.finishedAt], ['AbortError', 'aborted', null]);
      assert.ok(told.partial.text.length > 0);
      if (name !== 'the end of the client') assert.equal(told.cause, 'Error: enough');
    });
  }

  it('a loop that is left', async () => {
    const { told, record } = await left(() => true);
    assert.deepEqual([told, record.finishedAt], [{ count: 5 }, null]);
  });

  it('an abort before the first word', async () => {
    const told = inPage(async ({ options }) => {
      const ai = new fairlead.Fairlead(options);
      const controller = new AbortController();
      globalThis.leave = () => controller.abort();
      const body = { model: 'qwen', stream: true, sim: { fault: 'hang-after-headers' } };
      return outcome(ai, body, { signal: controller.signal });
    });
    const record = await vllm.until(() => vllm.requests[0]?.stalled && vllm.requests[0]);
    await inPage(() => globalThis.leave());
    assert.equal((await told).error.name, 'AbortError');
    await vllm.until(() => record.closedByClientAt);
  });

  it('a tab that is closed', async () => {
    const tab = await pages.open();
    await tab.evaluate(async ({ options, sim }) => {
      const ai = new fairlead.Fairlead(options);
      const stream = await ai.chat.completions.create({ model: 'qwen', messages: [], stream: true, sim });
      await stream[Symbol.asyncIterator]().next();
    }, { options: { baseURL: `${gateway.url}/v1`, apiKey: KEY }, sim: LONG });
    await tab.close();
    await vllm.until(() => vllm.requests[0].closedByClientAt);
  });
});

it('a client in `using` ends its calls with its block, and takes no more', async () => {
  const [inside, after] = await inPage(async ({ options, sim }) => {
    let kept;
    let call;
    {
      using ai = new fairlead.Fairlead(options);
      kept = ai;
      call = outcome(ai, { model: 'qwen', stream: true, sim });
    }
    return [(await call).error.name, (await outcome(kept, { model: 'qwen' })).error.name];
  }, { sim: LONG });
  assert.deepEqual([inside, after], ['AbortError', 'AbortError']);
});

it('a stream in `await using` is aborted with its block', async () => {
  await inPage(async ({ options, sim }) => {
    const ai = new fairlead.Fairlead(options);
    await using stream = await ai.chat.completions.create({ model: 'qwen', messages: [], stream: true, sim });
    globalThis.last = stream;
  }, { sim: LONG });
  await vllm.until(() => vllm.requests[0]?.closedByClientAt, 10_000);
});
