// What a page is told about a request that fails.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { failureOf, globals, Network, page, tick } from './face.mjs';

const URL_ = 'https://gateway.example.com/v1/chat/completions';
const INIT = { method: 'POST', headers: { authorization: 'Bearer key' }, body: '{}' };
const DEAD = new TypeError('Failed to fetch');

/** A network on which `answer` says what becomes of each request. */
function network(t, answer, { own } = {}) {
  const requests = [];
  const fetch = async (url, init) => {
    requests.push({ url, ...init });
    return answer(init, requests.length);
  };
  globals(t, { fetch: own ? () => assert.fail('the global one') : fetch });
  return { network: new Network(own ? fetch : undefined), requests };
}
const opaque = { type: 'opaque' };
const isProbe = ({ mode }) => mode === 'no-cors';
/** The second question: the same request as a GET, to be read. */
const isReading = ({ mode }) => mode === 'cors';

describe('a request that a page sends', () => {
  it('is answered', async (t) => {
    page(t);
    const response = new Response('');
    assert.equal(await network(t, () => response).network.fetch(URL_, INIT), response);
  });

  it('was blocked where the server answers, but not for this page', async (t) => {
    page(t);
    const { network: net, requests } = network(t, (init) => (isProbe(init) ? opaque : Promise.reject(DEAD)));
    assert.equal(await failureOf(net.fetch(URL_, INIT)), 'blocked');
    const [, probe, reading] = requests;
    assert.deepEqual(
      [probe.url, probe.method, probe.headers, probe.body, probe.credentials, probe.referrerPolicy], [URL_, undefined, undefined, undefined, 'omit', 'no-referrer'],
    );
    assert.deepEqual([reading.url, reading.method, reading.headers, reading.body, reading.redirect], [URL_, undefined, INIT.headers, undefined, 'manual']);
    assert.equal(await failureOf(net.fetch(URL_, INIT)), 'blocked');
    assert.equal(requests.length, 4, 'asked once');
  });

  it('failed where its connection broke and the server would let this page read', async (t) => {
    page(t);
    const { network: net, requests } = network(t, (init) => (isProbe(init) ? opaque : isReading(init) ? new Response('', { status: 405 }) : Promise.reject(DEAD)));
    assert.equal(await failureOf(net.fetch(URL_, INIT)), DEAD);
    assert.equal(await failureOf(net.fetch(URL_, INIT)), DEAD);
    assert.equal(requests.length, 4, 'asked once');
  });

  it('is let through again where the server has been put right', async (t) => {
    page(t);
    let isRight = false;
    const { network: net } = network(t, (init) => (isProbe(init) ? opaque : isRight ? new Response('') : Promise.reject(DEAD)));
    assert.equal(await failureOf(net.fetch(URL_, INIT)), 'blocked');
    isRight = true;
    await net.fetch(URL_, INIT);
    isRight = false;
    assert.equal(await failureOf(net.fetch(URL_, INIT)), DEAD);
  });

  it('was blocked for a minute; then the server may have died', async (t) => {
    page(t);
    t.mock.timers.enable({ apis: ['Date', 'setTimeout'] });
    let isThere = true;
    const { network: net, requests } = network(t, (init) => (isProbe(init) && isThere ? opaque : Promise.reject(DEAD)));
    assert.equal(await failureOf(net.fetch(URL_, INIT)), 'blocked');
    isThere = false;
    t.mock.timers.setTime(59_999);
    assert.equal(await failureOf(net.fetch(URL_, INIT)), 'blocked');
    assert.equal(requests.filter(isProbe).length, 1);
    t.mock.timers.setTime(60_000);
    assert.equal(await failureOf(net.fetch(URL_, INIT)), DEAD);
    isThere = true;
    assert.equal(await failureOf(net.fetch(URL_, INIT)), 'blocked');
    assert.equal(requests.filter(isProbe).length, 3);
  });

  it('failed where nobody answers', async (t) => {
    page(t);
    const { network: net, requests } = network(t, () => Promise.reject(DEAD));
    assert.equal(await failureOf(net.fetch(URL_, INIT)), DEAD);
    assert.equal(requests.length, 2);
  });

  it('is looked into once by several', async (t) => {
    page(t);
    const { network: net, requests } = network(t, (init) => (isProbe(init) ? tick().then(() => opaque) : Promise.reject(DEAD)));
    const failures = await Promise.all([1, 2, 3].map(() => failureOf(net.fetch(URL_, INIT))));
    assert.deepEqual([failures, requests.filter(isProbe).length], [['blocked', 'blocked', 'blocked'], 1]);
  });

  it('failed, where this page has read an answer from there before', async (t) => {
    page(t);
    const { network: net, requests } = network(t, (_, count) => (count === 1 ? new Response('') : Promise.reject(DEAD)));
    await net.fetch(URL_, INIT);
    assert.equal(await failureOf(net.fetch(URL_, INIT)), DEAD);
    assert.equal(requests.length, 2);
  });

  it('failed, at the page’s own origin', async (t) => {
    page(t, { href: 'https://gateway.example.com/app' });
    const { network: net, requests } = network(t, () => Promise.reject(DEAD));
    assert.equal(await failureOf(net.fetch(URL_, INIT)), DEAD);
    assert.equal(requests.length, 1);
  });

  it('is blocked without a question where it mixes content', async (t) => {
    page(t);
    const { network: net, requests } = network(t, () => Promise.reject(DEAD));
    assert.equal(await failureOf(net.fetch('http://10.0.0.1:8000/v1/x', INIT)), 'blocked');
    assert.equal(requests.length, 1);
    assert.equal(await failureOf(net.fetch('http://localhost:8000/v1/x', INIT)), DEAD);
  });

  it('was left by the caller', async (t) => {
    page(t);
    const { network: net, requests } = network(t, () => Promise.reject(DEAD));
    assert.equal(await failureOf(net.fetch(URL_, { ...INIT, signal: AbortSignal.abort() })), DEAD);
    assert.equal(requests.length, 1);
  });

  it('gives a server that only listens three seconds', async (t) => {
    page(t);
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { network: net } = network(t, (init) => (isProbe(init)
      ? new Promise((_, reject) => init.signal.addEventListener('abort', () => reject(init.signal.reason)))
      : Promise.reject(DEAD)));
    const call = failureOf(net.fetch(URL_, INIT));
    await tick();
    t.mock.timers.tick(3000);
    assert.equal(await call, DEAD);
  });

  it('goes through the caller’s own fetch, and is not looked into there', async (t) => {
    page(t);
    const { network: net, requests } = network(t, () => Promise.reject(DEAD), { own: true });
    assert.equal(await failureOf(net.fetch(URL_, INIT)), DEAD);
    assert.equal(requests.length, 1);
  });
});

describe('a device that is offline', () => {
  it('is waited for', async (t) => {
    const { navigator, fire, listeners } = page(t, { onLine: false });
    const { network: net, requests } = network(t, () => new Response(''));
    const call = net.fetch(URL_, INIT);
    await tick();
    assert.equal(requests.length, 0);
    navigator.onLine = true;
    fire('online');
    assert.equal((await call).status, 200);
    assert.deepEqual(listeners(), {});
  });

  it('for ten seconds', async (t) => {
    const { listeners } = page(t, { onLine: false });
    t.mock.timers.enable({ apis: ['setTimeout'] });
    const { network: net, requests } = network(t, () => new Response(''));
    const call = failureOf(net.fetch(URL_, INIT));
    t.mock.timers.tick(10_000);
    assert.equal(await call, 'offline');
    assert.deepEqual([requests.length, listeners()], [0, {}]);
  });

  it('no longer than the caller', async (t) => {
    const { listeners } = page(t, { onLine: false });
    const { network: net } = network(t, () => new Response(''));
    const controller = new AbortController();
    const call = failureOf(net.fetch(URL_, { ...INIT, signal: controller.signal }));
    controller.abort('bye');
    assert.equal(await call, 'bye');
    assert.deepEqual(listeners(), {});
  });

  it('does without it where the server is on this machine', async (t) => {
    page(t, { onLine: false });
    const local = 'http://localhost:8787/v1/chat/completions';
    const response = new Response('');
    const { network: net, requests } = network(t, (init) => (isProbe(init) ? opaque : response));
    assert.equal(await net.fetch(local, INIT), response);
    assert.deepEqual(requests.map(({ method }) => method), [undefined, 'POST']);
  });

  it('is waited for at this machine, too, where nothing there answers', async (t) => {
    const { navigator, fire } = page(t, { onLine: false });
    const response = new Response('');
    const { network: net, requests } = network(t, () => (navigator.onLine ? response : Promise.reject(DEAD)));
    const answer = net.fetch('http://127.0.0.1:8787/v1/chat/completions', INIT);
    await tick();
    assert.deepEqual(requests.map(({ mode }) => mode), ['no-cors']);
    navigator.onLine = true;
    fire('online');
    assert.equal(await answer, response);
  });

  it('may become so while a request runs', async (t) => {
    const { navigator } = page(t);
    const { network: net } = network(t, () => {
      navigator.onLine = false;
      throw DEAD;
    });
    assert.equal(await failureOf(net.fetch(URL_, INIT)), 'offline');
  });
});

it('outside of a browser a failure is what it is', async (t) => {
  const { network: net, requests } = network(t, () => Promise.reject(DEAD));
  assert.equal(await failureOf(net.fetch(URL_, INIT)), DEAD);
  assert.equal(requests.length, 1);
});
