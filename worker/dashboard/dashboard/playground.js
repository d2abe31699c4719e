// The playground: one chat as a client would have it, and what the gateway did for it.

import { callView } from './calls.js';
import { h, show } from './dom.js';
import { askModels, openChat, Refusal } from './gateway.js';
import { bytes, count, duration, many } from './numbers.js';
import { eventsOf } from './sse.js';

/** What a client may want to know of an answer, in the order in which it is shown. */
const FIELDS = ['x-request-id', 'x-fairlead-endpoint', 'x-fairlead-attempts', 'x-fairlead-truncated', 'server-timing', 'retry-after', 'x-should-retry'];
/** The timeline comes with the status of the isolate that had the call, which may be another one. */
const TIMELINE_MS = 15_000;

export class Playground {
  #form = document.getElementById('chat');
  #send = document.getElementById('send');
  #stop = document.getElementById('stop');
  #output = document.getElementById('output');
  #status = document.getElementById('chat-status');
  #seen;
  #adminKey;
  #onEnd;
  /** The key with which the models were asked for last. */
  #listedFor;
  /** The chat that is shown; another takes its place. */
  #chat;

  /** @param {{ seen: import('./seen.js').Seen, adminKey: () => string, onEnd: () => void }} page */
  constructor({ seen, adminKey, onEnd }) {
    [this.#seen, this.#adminKey, this.#onEnd] = [seen, adminKey, onEnd];
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#run();
    });
    this.#stop.addEventListener('click', () => this.#chat?.abort.abort());
    // Not before somebody is past the key: without one it may be a request that the gateway refuses, and counts.
    this.#form.addEventListener('focusin', ({ target }) => target !== this.#form.elements.clientKey && this.#listModels());
  }

  /** What may be asked for; where the key does not do, a name can still be typed. */
  async #listModels() {
    const { clientKey, model } = this.#form.elements;
    const hint = document.getElementById('models-hint');
    if (clientKey.value === this.#listedFor) return;
    this.#listedFor = clientKey.value;
    try {
      const names = await askModels(clientKey.value);
      show(document.getElementById('model-names'), names.map((name) => h('option', { value: name })));
      // Not its value: somebody may be typing there.
      model.placeholder = names[0] ?? '';
      hint.textContent = names.length > 0 ? `${many(names.length, 'model')} in the list; the first where you name none.` : 'None is listed: type a name.';
    } catch (error) {
      hint.textContent = error.code === 'invalid_api_key' ? 'The list takes a client’s key.' : `No list: ${error.message}`;
    }
  }

  /** Shows what is known now: the timeline comes later than the answer. */
  render() {
    const chat = this.#chat;
    if (!chat) return;
    const call = chat.requestId && this.#seen.call(chat.requestId);
    if (call) chat.call = call;
    show(this.#output,
      chat.notes.length > 0 && h('ol', { class: 'notes' }, chat.notes.map((note) => h('li', null, note))),
      h('pre', { class: 'answer', tabindex: 0, 'aria-label': 'The answer' }, chat.text || (chat.isRunning ? '…' : '')),
      chat.error && h('div', { class: 'error', role: 'alert' }, h('b', null, chat.error.title), h('pre', null, chat.error.body)),
      h('dl', { class: 'facts' },
        fact('First token', chat.firstMs !== undefined && duration(chat.firstMs)),
        fact('In all', chat.endMs !== undefined && duration(chat.endMs)),
        fact('Tokens', chat.usage && `${count(chat.usage.prompt_tokens)} in, ${count(chat.usage.completion_tokens)} out`),
        fact('Speed', speedOf(chat)),
        fact('Came', chat.bytes > 0 && `${bytes(chat.bytes)} of text`),
        fact('Ended with', chat.finish),
        chat.fields.map(([name, value]) => fact(name, h('code', null, value)))),
      !chat.isRunning && this.#timeline(chat));
  }

  #timeline(chat) {
    if (chat.call) return h('div', null, h('h3', null, 'What the gateway did'), callView(chat.call));
    if (!chat.requestId) return null;
    if (!this.#adminKey()) return h('p', { class: 'soft' }, 'Its timeline is shown to who has the admin key.');
    return h('p', { class: 'soft' }, performance.now() - chat.endedAt < TIMELINE_MS
      ? 'Its timeline comes with the next status…'
      : 'Its timeline has not come: another isolate had the call. It will appear when that one answers here.');
  }

  async #run() {
    this.#chat?.abort.abort();
    const chat = {
      abort: new AbortController(), began: performance.now(), isRunning: true, text: '', notes: [], fields: [], bytes: 0,
    };
    this.#chat = chat;
    this.#buttons();
    this.#say('Asked; waiting for the first token.');
    this.render();
    try {
      await this.#carryOut(chat);
    } catch (error) {
      this.#fail(chat, error);
    }
    chat.isRunning = false;
    chat.endedAt = performance.now();
    chat.endMs = chat.endedAt - chat.began;
    if (chat !== this.#chat) return;
    this.#buttons();
    this.#say(chat.error ? `Failed after ${duration(chat.endMs)}: ${chat.error.title}` : `Ended after ${duration(chat.endMs)}.`);
    this.render();
    this.#onEnd();
  }

  async #carryOut(chat) {
    const { clientKey, model, prompt, maxTokens, policy, fault } = this.#form.elements;
    const body = {
      model: model.value || model.placeholder,
      messages: [{ role: 'user', content: prompt.value }],
      stream: true,
      stream_options: { include_usage: true },
      ...(maxTokens.value && { max_tokens: Number(maxTokens.value) }),
    };
    const headers = {
      ...(policy.value && { 'x-fairlead-policy': policy.value }),
      ...(fault.value && { 'x-fairlead-fault': fault.value, 'x-fairlead-admin-key': this.#adminKey() }),
    };
    const response = await openChat(clientKey.value, body, headers, chat.abort.signal);
    keepFields(chat, response);
    for await (const event of eventsOf(response.body)) {
      if (event.comment !== undefined) note(chat, event.comment);
      else this.#take(chat, event.data);
      if (chat === this.#chat) this.#renderSoon();
    }
    if (!chat.isDone && !chat.error) chat.error = { title: 'The stream ended without [DONE].', body: 'What came of it is not the whole answer.' };
  }

  #take(chat, data) {
    if (data === '[DONE]') {
      chat.isDone = true;
      return;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) {
      chat.error = { title: `${chunk.error.code ?? chunk.error.type ?? 'error'}: ${chunk.error.message}`, body: JSON.stringify(chunk, null, 2) };
      return;
    }
    const [choice] = chunk.choices ?? [];
    const text = choice?.delta?.content ?? choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? '';
    if (text !== '' && chat.firstMs === undefined) {
      chat.firstMs = performance.now() - chat.began;
      this.#say(`The first token came after ${duration(chat.firstMs)}.`);
    }
    chat.text += text;
    chat.bytes += new TextEncoder().encode(text).length;
    chat.finish = choice?.finish_reason ?? chat.finish;
    chat.usage = chunk.usage ?? chat.usage;
  }

  #fail(chat, error) {
    if (chat.abort.signal.aborted) {
      note(chat, `stopped by you after ${duration(performance.now() - chat.began)}`);
    } else if (error instanceof Refusal) {
      keepFields(chat, error.response);
      chat.error = { title: `${error.status} ${error.code}: ${error.message}`, body: pretty(error.body) };
    } else {
      chat.error = { title: 'The connection failed.', body: String(error.message) };
    }
  }

  /** Tokens may come faster than anybody reads. */
  #renderSoon() {
    if (this.#chat.isToBeDrawn) return;
    const chat = this.#chat;
    chat.isToBeDrawn = true;
    requestAnimationFrame(() => {
      chat.isToBeDrawn = false;
      this.render();
    });
  }

  #buttons() {
    const { isRunning } = this.#chat;
    const hadFocus = document.activeElement === this.#stop || document.activeElement === this.#send;
    this.#send.disabled = isRunning;
    this.#stop.disabled = !isRunning;
    // A button that cannot be pressed any more would take the keyboard's place in the page with it.
    if (hadFocus) (isRunning ? this.#stop : this.#send).focus();
  }

  #say(text) {
    this.#status.textContent = text;
  }
}

function fact(name, value) {
  return value !== undefined && value !== false && value !== null && h('div', null, h('dt', null, name), h('dd', null, value));
}

function keepFields(chat, { headers, status }) {
  chat.requestId = headers.get('x-request-id');
  chat.fields = [['status', String(status)], ...FIELDS.map((name) => [name, headers.get(name)]).filter(([, value]) => value !== null)];
}

/** A comment of the gateway. One that only counts on takes the place of the one before. */
function note(chat, text) {
  if (text === '') return;
  const kind = (words) => words.replace(/\d+/g, '');
  if (chat.notes.length > 0 && kind(chat.notes.at(-1)) === kind(text)) chat.notes.pop();
  chat.notes.push(text);
}

function speedOf({ usage, firstMs, endMs }) {
  const ms = endMs - firstMs;
  return usage?.completion_tokens > 1 && ms > 0 && `${((1000 * (usage.completion_tokens - 1)) / ms).toFixed(1)} tokens/s`;
}

function pretty(body) {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}
