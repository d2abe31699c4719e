// What strangers and clients send on purpose: shapes of requests that two servers may take for different things, headers
// that want to be more than one, bodies that want to be more than they are. Requests go out by hand, byte by byte.
//
// workerd itself refuses most of it before a Worker sees it. What it lets through is held here, too, so that a newer
// version that lets through more is noticed. Cloudflare's edge, in front of it, is stricter still.

import assert from 'node:assert/strict';
import http from 'node:http';
import net from 'node:net';
import { after, before, beforeEach, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, sha256, startGateway, STAYS_CLOSED } from './gateway.mjs';

const KEY = 'sk-client-security';
const CHAT = '/v1/chat/completions';
/** Longer than any answer here takes; where nothing is answered, so long is waited. */
const SILENCE_MS = 3000;

let vllm;
let evil;
let gateway;
before(async () => {
  vllm = await startVllm();
  evil = await startEvil();
  gateway = await startGateway({
    endpoints: [...endpointsOf({ vllm, evil }), { ...endpointsOf({ shy: vllm })[0], media: 'data' }],
    models: [
      { name: 'm', targets: [{ endpoint: 'vllm' }] },
      { name: 'evil', targets: [{ endpoint: 'evil' }] },
      { name: 'shy', targets: [{ endpoint: 'shy' }] },
      { name: 'mixed', targets: [{ endpoint: 'shy' }, { endpoint: 'vllm' }] },
      { name: '*', targets: [{ endpoint: 'vllm' }] },
    ],
    policies: { default: { breaker: STAYS_CLOSED, max_attempts: 1, max_request_bytes: 2_000_000 } },
    clients: [{ name: 'web', keys_sha256: [sha256(KEY)] }],
  });
});
after(async () => {
  await gateway.close();
  await Promise.all([vllm.close(), evil.close()]);
  assert.deepEqual(gateway.troubles, []);
});
beforeEach(() => vllm.reset());

/** An endpoint gone bad: it answers as the header `x-session-id` says. */
async function startEvil() {
  const answers = {
    bomb: (response) => bomb(response, 'text/event-stream', `data: ${'x'.repeat(100)}`),
    'json-bomb': (response) => bomb(response, 'application/json', `{"x":"${' '.repeat(100)}`, 500),
    redirect: (response) => response.writeHead(307, { location: `${vllm.url}${CHAT}` }).end(),
    headers: (response) => {
      const hop = { 'keep-alive': 'timeout=5', 'proxy-authenticate': 'Basic', te: 'trailers', upgrade: 'h2c' };
      response.writeHead(200, {
        ...hop, 'content-type': 'application/json', 'set-cookie': ['a=1', 'b=2'], 'access-control-allow-origin': '*',
        'access-control-allow-credentials': 'true', 'clear-site-data': '"*"', refresh: '0; url=http://evil.example/',
        'x-request-id': 'forged', 'x-fairlead-endpoint': 'forged', 'cache-control': 'no-store',
      }).end(WHOLE);
    },
  };
  const server = http.createServer((request, response) => {
    request.resume().on('end', () => answers[request.headers['x-session-id']](response));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => { server.closeAllConnections(); return new Promise((resolve) => server.close(resolve)); },
  };
}

const WHOLE = JSON.stringify({
  id: 'x', object: 'chat.completion', choices: [{ index: 0, message: { role: 'assistant', content: 'Hi' }, finish_reason: 'stop' }],
});

/** 200 MB in 200 kB. */
function bomb(response, type, start, status = 200) {
  const bytes = gzipSync(Buffer.concat([Buffer.from(start), Buffer.alloc(200_000_000, 'x')]));
  response.writeHead(status, { 'content-type': type, 'content-encoding': 'gzip' }).end(bytes);
}

const BODY = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'Hi' }] });
const CHUNKED = `${BODY.length.toString(16)}\r\n${BODY}\r\n0\r\n\r\n`;
const LENGTH = `content-length: ${BODY.length}`;
const TE = 'transfer-encoding: chunked';
const head = (fields, start = `POST ${CHAT} HTTP/1.1`) =>
  `${[start, 'host: gateway', `authorization: Bearer ${KEY}`, ...fields].join('\r\n')}\r\n\r\n`;

/** All that comes back on a connection of its own, to its end or until nothing is to be expected. */
function send(bytes, ms = SILENCE_MS) {
  return new Promise((resolve) => {
    const chunks = [];
    const socket = net.connect(gateway.port, '127.0.0.1');
    const timer = setTimeout(() => socket.destroy(), ms);
    socket.on('error', () => {});
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('close', () => {
      clearTimeout(timer);
      const text = Buffer.concat(chunks).toString('latin1');
      const statuses = [...text.matchAll(/^HTTP\/1\.1 (\d{3})/gm)].map(([, status]) => Number(status));
      resolve({ text, statuses });
    });
    socket.write(Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes, 'latin1'));
  });
}

describe('a request that two servers could take for different ones', () => {
  /** One behind another on a connection, where the first has said that it is the last. */
  const close = 'connection: close';
  const refused = {
    'two lengths that differ': head([LENGTH, 'content-length: 5', close]) + BODY,
    'a list of lengths': head([`${LENGTH}, ${BODY.length}`, close]) + BODY,
    'a length with a sign': head([`content-length: +${BODY.length}`, close]) + BODY,
    'a length below nothing': head(['content-length: -1', close]) + BODY,
    'a length in hexadecimal': head([`content-length: 0x${BODY.length.toString(16)}`, close]) + BODY,
    'a length beyond all bounds': head(['content-length: 99999999999999999999999', close]) + BODY,
    'a blank before the colon': head([LENGTH.replace(':', ' :'), close]) + BODY,
    'an encoding that nobody knows': head(['transfer-encoding: xchunked', close]) + CHUNKED,
    'chunks inside of something else': head(['transfer-encoding: chunked, identity', close]) + CHUNKED,
    'two encodings': head([TE, 'transfer-encoding: identity', close]) + CHUNKED,
    'a folded line': head(['x-a: b\r\n c', LENGTH, close]) + BODY,
    'a folded encoding': head(['transfer-encoding:\r\n chunked', close]) + CHUNKED,
    'a bare CR in a header': head(['x-a: b\rx-c: d', LENGTH, close]) + BODY,
    'a NUL in a header': head(['x-a: b\0c', LENGTH, close]) + BODY,
    'chunks in HTTP/1.0': head([TE], `POST ${CHAT} HTTP/1.0`) + CHUNKED,
    'a version that there is not': head([LENGTH], `POST ${CHAT} HTTP/9.9`) + BODY,
    'no host': head([LENGTH, close]).replace('host: gateway\r\n', '') + BODY,
    'a chunk of a length below nothing': head([TE, close]) + CHUNKED.replace(/^/, '-'),
    'a chunk of a length with a prefix': head([TE, close]) + CHUNKED.replace(/^/, '0x'),
    'a chunk beyond all bounds': head([TE, close]) + CHUNKED.replace(/^\w+/, 'ffffffffffffffffff'),
    'a chunk with more behind it': head([TE, close]) + CHUNKED.replace('\r\n0', 'XX0'),
    'a chunk whose line ends in LF': head([TE, close]) + CHUNKED.replace('\r\n', ';a=b\n'),
  };
  for (const [name, bytes] of Object.entries(refused)) {
    it(`${name} is refused`, async () => {
      const { statuses } = await send(bytes);
      assert.ok(statuses.length <= 1 && statuses.every((status) => [400, 499, 501].includes(status)), `${statuses}`);
      assert.equal(vllm.requests.length, 0);
    });
  }

  /** Their framing is unambiguous where chunks rule (RFC 9112, 6.3); an endpoint gets a framing of the gateway's own. */
  const taken = {
    'a length beside chunks': head(['content-length: 5', TE, close]) + CHUNKED,
    'the same length twice': head([LENGTH, LENGTH, close]) + BODY,
    'a chunk with an extension': head([TE, close]) + CHUNKED.replace('\r\n', ';a=b\r\n'),
    'trailers': head([TE, close]) + CHUNKED.replace(/\r\n\r\n$/, '\r\nauthorization: Bearer x\r\ncontent-length: 3\r\n\r\n'),
    'lines that end in LF': head([LENGTH, close]).replaceAll('\r\n', '\n') + BODY,
  };
  for (const [name, bytes] of Object.entries(taken)) {
    it(`${name} is one request`, async () => {
      const { statuses } = await send(bytes);
      assert.deepEqual([statuses, vllm.requests.length], [[200], 1]);
      const [{ headers, body }] = vllm.requests;
      assert.deepEqual([headers['content-length'], headers['transfer-encoding']], [String(BODY.length), undefined]);
      assert.equal(body.toString(), BODY);
    });
  }

  it('what stands behind a length is no part of its request, and another only with a key of its own', async () => {
    const second = head([LENGTH, close]).replace(KEY, 'sk-nobody') + BODY;
    for (const first of [head([LENGTH]) + BODY, head(['content-length: 0', TE]) + CHUNKED]) {
      vllm.reset();
      const { statuses } = await send(first + second);
      assert.equal(vllm.requests.length, 1);
      assert.ok(statuses.length < 2 || statuses[1] === 401, `${statuses}`);
    }
  });

  it('a body that is shorter than announced is never taken for whole', async () => {
    const { statuses } = await send(head([`content-length: ${BODY.length + 50}`, close]) + BODY, 1000);
    assert.deepEqual([statuses, vllm.requests.length], [[], 0]);
  });

  it('a body that is longer than announced is cut, and the rest is no request', async () => {
    const { statuses } = await send(head(['content-length: 5']) + BODY, 1000);
    assert.ok(statuses.every((status) => status === 400), `${statuses}`);
    assert.equal(vllm.requests.length, 0);
  });

  it('methods and upgrades that no route has', async () => {
    for (const [start, expected] of [
      [`TRACE ${CHAT}`, 405], [`PUT ${CHAT}`, 405], [`DELETE ${CHAT}`, 405], [`FOO ${CHAT}`, 501], [`post ${CHAT}`, 501],
      ['OPTIONS *', 404],
    ]) {
      const { statuses } = await send(head([close], `${start} HTTP/1.1`));
      assert.deepEqual(statuses, [expected], start);
    }
    const upgrade = ['upgrade: websocket', 'connection: upgrade', 'sec-websocket-version: 13', 'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=='];
    for (const path of [CHAT, '/v1/models', '/v1/realtime']) {
      const { statuses } = await send(head(upgrade, `GET ${path} HTTP/1.1`), 1000);
      assert.ok(!statuses.includes(101), `${path}: ${statuses}`);
    }
    assert.equal(vllm.requests.length, 0);
  });

  it('whoever asks first whether to go on is answered', async () => {
    const { statuses } = await send(head([LENGTH, 'expect: 100-continue', close]) + BODY);
    assert.deepEqual(statuses, [100, 200]);
  });
});

describe('header fields', () => {
  const IDS = ['a b', 'a"b', 'a\\nb', '{"x":1}', 'é', '<script>', 'x'.repeat(64_000), '../x', 'a,b'];
  for (const id of IDS) {
    it(`an id like ${JSON.stringify(id.slice(0, 12))} goes nowhere`, async () => {
      const { text, statuses } = await send(head([`x-request-id: ${id}`, LENGTH, 'connection: close']) + BODY);
      assert.deepEqual(statuses, [200]);
      const own = /^x-request-id: (.*)\r$/m.exec(text)[1];
      assert.match(own, /^[0-9a-f]{32}$/);
      assert.equal(vllm.requests[0].headers['x-request-id'], `${own}-1`);
    });
  }

  it('many are none too many, and too long ones are refused before anybody reads them', async () => {
    const many = Array.from({ length: 2000 }, (_, at) => `x-${at}: ${at}`);
    assert.deepEqual((await send(head([...many, LENGTH, 'connection: close']) + BODY)).statuses, [200]);
    assert.ok(Object.keys(vllm.requests[0].headers).every((name) => !/^x-\d/.test(name)));
    assert.deepEqual((await send(head([`x-a: ${'a'.repeat(1_000_000)}`, LENGTH]) + BODY)).statuses, [431]);
    assert.deepEqual((await send(head([], `GET /${'a'.repeat(100_000)} HTTP/1.1`))).statuses, [414]);
  });

  it('two keys are none', async () => {
    const { statuses } = await send(head([`authorization: Bearer ${KEY}`, LENGTH, 'connection: close']) + BODY);
    assert.deepEqual([statuses, vllm.requests.length], [[401], 0]);
  });

  it('of an endpoint gone bad: no cookie, no CORS, nothing of a connection, and only names that are on the list', async () => {
    const { response } = await ask({ model: 'evil', messages: [] }, { 'x-session-id': 'headers' });
    assert.deepEqual(
      [...response.headers.keys()].sort(),
      ['cache-control', 'content-length', 'content-type', 'server-timing', 'x-fairlead-attempts', 'x-fairlead-endpoint', 'x-request-id'],
    );
    assert.equal(response.headers.get('x-fairlead-endpoint'), 'evil');
    assert.notEqual(response.headers.get('x-request-id'), 'forged');
  });
});

async function ask(body, headers) {
  const response = await gateway.fetch(CHAT, { body, headers: { authorization: `Bearer ${KEY}`, ...headers } });
  const text = await response.text();
  return { response, text, status: response.status, error: text.startsWith('{') ? JSON.parse(text).error : undefined };
}

describe('bodies', () => {
  const raw = (bytes, fields = []) =>
    send(Buffer.concat([Buffer.from(head([`content-length: ${bytes.length}`, 'connection: close', ...fields])), bytes]), 15_000);
  const refused = {
    'lists in lists, never closed': Buffer.from('['.repeat(100_000)),
    'objects in objects, never closed': Buffer.from('{"a":'.repeat(100_000)),
    'a field twice': Buffer.from('{"model":"m","model":"evil","messages":[]}'),
    'a field twice, once in disguise': Buffer.from('{"model":"m","mod\\u0065l":"evil","messages":[]}'),
    'no UTF-8': Buffer.from([...Buffer.from('{"model":"m","x":"'), 0xff, ...Buffer.from('"}')]),
    'a NUL': Buffer.from('{"model":"m\0","messages":[]}'),
    'a byte order mark': Buffer.from('\ufeff{"model":"m","messages":[]}'),
    'UTF-16': Buffer.from('{"model":"m","messages":[]}', 'utf16le'),
    'a number beyond all bounds': Buffer.from('{"model":"m","n":1e999,"messages":[]}'),
    'nothing': Buffer.alloc(0),
  };
  for (const [name, bytes] of Object.entries(refused)) {
    it(`${name}: 400`, async () => {
      const { statuses, text } = await raw(bytes);
      assert.deepEqual([statuses, vllm.requests.length], [[400], 0]);
      assert.match(text, /"code":"invalid_request"/);
    });
  }

  it('lists in lists and long numbers go on as they are: they cost nothing', async () => {
    for (const inside of ['['.repeat(100_000) + ']'.repeat(100_000), '9'.repeat(1_000_000)]) {
      vllm.reset();
      const { statuses } = await raw(Buffer.from(`{"model":"m","messages":[],"x":${inside}}`));
      assert.deepEqual([statuses, vllm.requests.length], [[200], 1]);
    }
  });

  it('a compressed one is refused as it is, and nothing is unpacked', async () => {
    for (const coding of ['gzip', 'br', 'deflate', 'zstd', 'gzip, identity']) {
      const { statuses, text } = await raw(gzipSync(Buffer.alloc(50_000_000)), [`content-encoding: ${coding}`]);
      assert.deepEqual(statuses, [400], coding);
      assert.match(text, /"param":"content-encoding"/);
    }
    assert.equal(vllm.requests.length, 0);
  });

  it('one over the limit is refused, whatever it says of its length', async () => {
    const big = JSON.stringify({ model: 'm', x: 'x'.repeat(3_000_000) });
    assert.deepEqual((await raw(Buffer.from(big))).statuses, [413]);
    const chunked = `${big.length.toString(16)}\r\n${big}\r\n0\r\n\r\n`;
    for (const fields of [[TE], ['content-length: 5', TE]]) {
      assert.deepEqual((await send(head([...fields, 'connection: close']) + chunked, 15_000)).statuses, [413]);
    }
    assert.equal(vllm.requests.length, 0);
  });

  it('one that never ends is waited for no longer than its call', async () => {
    const fields = ['x-fairlead-deadline-ms: 1000', 'connection: close'];
    for (const begun of [head([...fields, LENGTH]) + BODY.slice(0, 9), `${head([...fields, TE])}5\r\n{"mod\r\n`]) {
      const { statuses, text } = await send(begun, 15_000);
      assert.deepEqual(statuses, [504]);
      assert.match(text, /"code":"deadline_exceeded"/);
    }
    assert.equal(vllm.requests.length, 0);
  });

  it('what stands in a name of a model is no line of a header, a log or an event', async () => {
    const model = 'm\r\nx-evil: 1\r\n\r\ndata: evil\n\n{"event":"call_ended"}\u0000\u001b[2J\u2028';
    const { status, response } = await ask({ model, messages: [] });
    assert.deepEqual([status, response.headers.get('x-evil')], [200, null]);
    for (const line of gateway.printed) assert.ok(!/[\r\n\0\u001b]/.test(line) && !line.includes('x-evil'), line);
    const entries = gateway.logs.filter(({ event }) => event === 'call_ended').map((line) => line.model);
    assert.ok(entries.every((name) => ['m', 'evil', 'shy', 'mixed', '*', '', undefined].includes(name)), `${entries}`);
  });

  it('of a name that is not known, an error has no control characters, and not all of it', async () => {
    const shut = await startGateway({ open: true, endpoints: endpointsOf({ vllm }), models: [{ name: 'm', targets: [{ endpoint: 'vllm' }] }] });
    const response = await shut.fetch(CHAT, { body: { model: `x\r\n\u001b[2J${'y'.repeat(5000)}`, messages: [] } });
    const { error } = await response.json();
    assert.equal(response.status, 404);
    assert.ok(error.message.length < 300 && !/[\u0000-\u001f]/.test(error.message), error.message);
    await shut.close();
    assert.deepEqual(shut.troubles, []);
  });
});

describe('an endpoint gone bad', () => {
  it('a redirect is not followed, and not passed on', async () => {
    const { status, error, response } = await ask({ model: 'evil', messages: [] }, { 'x-session-id': 'redirect' });
    assert.deepEqual([status, error.code, response.headers.get('location')], [502, 'upstream_invalid', null]);
    assert.equal(vllm.requests.length, 0);
  });

  it('a stream that unpacks to one event without end is given up', async () => {
    const { text } = await ask({ model: 'evil', messages: [], stream: true }, { 'x-session-id': 'bomb' });
    assert.match(text, /"code":"upstream_invalid"/);
    assert.ok(text.length < 10_000);
  });

  it('an explanation that unpacks without end is not read to it', async () => {
    const { status, text } = await ask({ model: 'evil', messages: [] }, { 'x-session-id': 'json-bomb' });
    assert.equal(status, 502);
    assert.ok(text.length < 10_000);
  });
});

describe('addresses that would make an endpoint fetch', () => {
  const image = (url) => [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }] }];
  const INSIDE = 'http://169.254.169.254/latest/meta-data/';

  it('are refused where no endpoint fetches, with a cure', async () => {
    for (const body of [
      { messages: image(INSIDE) }, { messages: image('FILE:///etc/passwd') }, { messages: image(' data:,') },
      { messages: [{ role: 'user', content: [{ type: 'video_url', video_url: INSIDE }] }] },
    ]) {
      const { status, error } = await ask({ model: 'shy', ...body });
      assert.deepEqual([status, error.code, error.param], [400, 'invalid_request', 'messages']);
      assert.match(error.message, /data:image\/png;base64/);
      assert.ok(!error.message.includes('169.254'));
    }
    assert.equal(vllm.requests.length, 0);
  });

  it('go to an endpoint that takes them, past one that does not', async () => {
    const { status, response } = await ask({ model: 'mixed', messages: image(INSIDE) });
    assert.deepEqual([status, response.headers.get('x-fairlead-endpoint'), response.headers.get('x-fairlead-attempts')], [200, 'vllm', '1']);
  });

  it('data URLs go everywhere', async () => {
    const { status, response } = await ask({ model: 'mixed', messages: image('data:image/png;base64,AAAA') });
    assert.deepEqual([status, response.headers.get('x-fairlead-endpoint')], [200, 'shy']);
  });
});
