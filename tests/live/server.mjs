// The server that is asked: requests as bytes, and OpenAI's own client beside them.

import { parsed } from './findings.mjs';

/** No answer takes longer, not even one behind a cold start. */
const LONGEST_MS = 300_000;

export async function connect({ url, key, model }) {
  const { default: OpenAI } = await import('openai');
  const base = url.replace(/\/+$/, '');
  const client = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0, timeout: LONGEST_MS, logLevel: 'off' });
  return new Server(base, key, model, client);
}

class Server {
  #base;
  #key;

  constructor(base, key, model, client) {
    this.#base = base;
    this.#key = key;
    this.model = model;
    /** OpenAI's, for what is best asked as users ask it. */
    this.client = client;
  }

  get(path, more) {
    return this.#whole('GET', path, more);
  }

  /** The whole answer: { status, type, headers, text, json, ms }; `json` is undefined where it is none. */
  post(path, body, more) {
    return this.#whole('POST', path, { body, ...more });
  }

  /** A chat that is short, unless `more` says otherwise. */
  chat(prompt, more) {
    return this.post('/chat/completions', this.chatBody(prompt, more));
  }

  chatBody(prompt, more) {
    return { model: this.model, messages: [{ role: 'user', content: prompt }], max_tokens: 64, ...more };
  }

  /**
   * A stream, read to its end: { status, type, headers, events, flaw }, with `flaw` in words where its bytes are at
   * fault. What is no stream comes as from `post`.
   */
  async stream(path, body, more) {
    const startedAt = performance.now();
    const response = await this.open('POST', path, { body: { ...body, stream: true }, ...more });
    const answer = headOf(response);
    if (answer.status !== 200 || !isEventStream(answer)) return withBody(answer, await response.text(), startedAt);
    const events = [];
    let flaw;
    try {
      for await (const event of eventsOf(response.body)) {
        events.push({ ...event, json: parsed(event.data), ms: performance.now() - startedAt });
      }
    } catch (error) {
      const isText = error.code !== 'ERR_ENCODING_INVALID_ENCODED_DATA';
      flaw = isText ? 'a connection that breaks' : 'bytes that are no UTF-8';
    }
    return { ...answer, events, flaw };
  }

  /** The response itself, its body unread. */
  open(method, path, { body, key = this.#key, headers, signal } = {}) {
    const timeout = AbortSignal.timeout(LONGEST_MS);
    return fetch(`${this.#base}${path}`, {
      method,
      redirect: 'manual',
      headers: {
        authorization: `Bearer ${key}`,
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...headers,
      },
      body: body === undefined || typeof body === 'string' ? body : JSON.stringify(body),
      signal: signal ? AbortSignal.any([timeout, signal]) : timeout,
    });
  }

  /** The headers of the Messages API, for those who take its keys by name. */
  get anthropic() {
    return { 'x-api-key': this.#key, 'anthropic-version': '2023-06-01' };
  }

  async #whole(method, path, more) {
    const startedAt = performance.now();
    const response = await this.open(method, path, more);
    return withBody(headOf(response), await response.text(), startedAt);
  }
}

export const isEventStream = ({ type }) => /^text\/event-stream\b/.test(type);

const headOf = ({ status, headers }) => ({ status, headers, type: headers.get('content-type') ?? '' });

const withBody = (head, text, startedAt) => ({ ...head, text, json: parsed(text), ms: performance.now() - startedAt });

/** The events of a body as they come, by the rules of HTML's section 9.2.6. */
async function* eventsOf(body) {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let rest = '';
  let name = '';
  let data = [];
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true });
    // A CR at the end may be half of a CRLF.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
      if (field === 'event') name = value ?? '';
      if (field === 'data') data.push(value ?? '');
      if (line !== '') continue;
      if (data.length > 0) yield { name, data: data.join('\n') };
      name = '';
      data = [];
    }
  }
  decoder.decode();
}
