// Where isolates leave word for each other: a KV namespace, or Durable Objects. Both have `get`, `put` and `lease`,
// which give promises; one that is rejected with `true` was refused because too much was written.

/** KV keeps what a location has read for so long at least. */
const CACHE_S = 30;

/** The records as texts in a KV namespace. */
export class Namespace {
  #kv;

  constructor(kv) {
    this.#kv = kv;
  }

  get(key) {
    return answered(async () => textOf(await this.#kv.get(key, { type: 'text', cacheTtl: CACHE_S })));
  }

  put(key, text) {
    return answered(() => this.#kv.put(key, text));
  }
}

/** The records in Durable Objects, one for each endpoint. */
export class Objects {
  #objects;

  constructor(objects) {
    this.#objects = objects;
  }

  get(key) {
    return this.#ask({ key });
  }

  put(key, text) {
    return this.#ask({ key, text });
  }

  lease(key, ms) {
    return this.#ask({ key, ms });
  }

  /** A key is `breaker:v1:{endpoint}` or `breaker:v1:{endpoint}:{entry}`. */
  #ask(question) {
    return answered(async () => {
      const object = this.#objects.get(this.#objects.idFromName(question.key.split(':')[2]));
      const response = await object.fetch(`https://breakers/?${new URLSearchParams(question)}`);
      const text = await response.text();
      if (response.ok) return response.status === 204 ? undefined : text;
      throw new Error(`the object answered ${response.status}`);
    });
  }
}

/** The Durable Object of one endpoint: it keeps the texts, and grants leases, one holder at a time. */
export class Ledger {
  #records;
  /** Until when each is held. In memory only: they are short, and one too many does little. */
  #leases = new Map();

  constructor(state) {
    this.#records = state.storage.kv;
  }

  /** What a request brings, and what stands there now; both or neither. */
  brought(request) {
    const { key, text } = read(request);
    return text === undefined ? [] : [text, this.#records.get(key)];
  }

  /** The answer to a request; `merged` is what shall stand there from now on. */
  answer(request, merged) {
    const { key, ms } = read(request);
    if (ms !== undefined) return new Response(this.#grant(key, Number(ms)) ? 'granted' : '');
    if (merged !== undefined) this.#records.put(key, merged);
    const text = merged ?? this.#records.get(key);
    return text === undefined ? new Response(null, { status: 204 }) : new Response(text);
  }

  #grant(key, ms) {
    const now = Date.now();
    if (this.#leases.get(key) > now) return false;
    this.#leases.set(key, now + ms);
    return true;
  }
}

const read = (request) => Object.fromEntries(new URL(request.url).searchParams);

async function answered(ask) {
  try {
    return await ask();
  } catch (error) {
    throw /\b429\b|too many requests/i.test(`${error}`);
  }
}

function textOf(value) {
  if (typeof value === 'string') return value;
  if (value === null || value === undefined) return undefined;
  throw new Error('not a text');
}
