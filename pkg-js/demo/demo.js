// A chat on the npm package, with switches that break the simulated servers, and a picture of what becomes of a call.
// From the top: what can be broken, the two clients, the chat, the picture, the breakers.

import { Fairlead, FairleadError } from './fairlead/index.js';

/** Where everything listens: ports that were free when `npm start` ran. */
const setup = await (await fetch('setup.json')).json();

const $ = (id) => document.getElementById(id);
const text = 'A fairlead is a ring or a hook that guides a rope and keeps it from chafing. This one guides your calls: '
  + 'when a server resets, stalls or has no room, the call goes on at the next one, and what you read is one whole answer.';
/** So many events come before a fault in mid-stream, the role among them. */
const MIDDLE = 12;

/** For each attempt of a call, at each server. A browser may repeat one by itself. */
const once = (fault) => [fault, { text }, { text }, { text }];

/** `sim` tells the servers what to do. */
const FAULTS = {
  healthy: { label: 'nothing', sim: { text }, hint: 'Both servers are well. The first one answers.' },
  reset: {
    label: 'reset', sim: once('reset'),
    hint: 'Each server resets the connection once. The next is asked, then the first again.',
  },
  silence: {
    label: 'silence', sim: once('hang-after-headers'),
    hint: 'Each server takes the request once and says nothing. 1.5 s without a first token, and the next is asked.',
  },
  once: {
    label: '503 once', sim: once('http-503'),
    hint: 'Each server has no room once. The next is asked, then the first again, after a wait.',
  },
  always: {
    label: '503 always', sim: 'http-503',
    hint: 'Neither server has room. Three attempts, then an error. At the fourth such call the breakers open and nobody is asked for a while, even if you reload.',
  },
  stall: {
    label: 'stall', sim: once({ fault: 'stall', afterEvents: MIDDLE, text }),
    hint: 'At each server once, the stream falls silent in its middle. After 2 s it is given up; what has come is kept.',
  },
  cut: {
    label: 'cut', sim: once({ fault: 'cut', afterEvents: MIDDLE, text }),
    hint: 'At each server once, the connection breaks in mid-stream. That is never a short answer that looks whole.',
  },
  cold: {
    label: 'cold start', sim: { text }, model: 'demo-runpod', gatewayOnly: true,
    hint: 'A RunPod worker that starts first, in 3 s, and sleeps again after half a minute of rest. The first token is waited for.',
  },
};

/** What becomes of a stream that breaks. */
const BREAKS = {
  error: { hint: 'It ends in an error, which has what had come.' },
  resume: { hint: 'The next server goes on where it broke off. You see one answer, with a pause in it.' },
};

/** Shorter times than anybody would wait in earnest. */
const HASTY = { firstTokenMs: 1500, idleMs: 2000, breaker: { consecutive: 4, openMs: 8000, probeRatio: 1 } };

/** What the page can call. */
const PATHS = {
  gateway: {
    hint: 'The page makes one request. The gateway has the timers, retries and breakers.',
    options: { baseURL: setup.gateway, timeout: 30_000 },
    // In the CONFIG that `npm start` makes, with the same times as here.
    policies: { error: 'page', resume: 'page-resume' },
  },
  direct: {
    hint: 'No gateway: the same core runs in this page and goes from server to server. RunPod is left out: its key must not be in a page.',
    options: {
      endpoints: setup.servers.map(({ name, url }) => ({ name, provider: 'vllm', baseURL: url })),
      models: [{ name: 'demo', targets: setup.servers.map(({ name }) => ({ endpoint: name, model: setup.model })) }],
      timeout: 30_000,
      policies: { default: HASTY, resume: { ...HASTY, deadlineMs: 30_000, resume: 'continue' } },
    },
    policies: { resume: 'resume' },
  },
};

for (const path of Object.values(PATHS)) {
  let newest = 0;
  path.client = new Fairlead({
    ...path.options,
    onEvent(event) {
      if (event.call > newest) {
        newest = event.call;
        if (run?.path === path) run.call = newest;
      }
      if (run?.path === path && run.call === event.call) run.hear(event);
      lookAtBreakers();
    },
  });
}

// ---- The choices

const choices = $('choices');
function chosen() {
  const { path: { value: path }, fault: { value: fault }, break: { value: ifItBreaks } } = choices.elements;
  return { path: PATHS[path], fault: FAULTS[fault], policy: PATHS[path].policies[ifItBreaks], ifItBreaks: BREAKS[ifItBreaks] };
}

$('faults').append(...Object.entries(FAULTS).map(([name, { label }]) => {
  const input = make('input', { type: 'radio', name: 'fault', value: name, checked: name === 'healthy' });
  return make('label', {}, input, make('span', {}, label));
}));

function showChoices() {
  const isDirect = choices.elements.path.value === 'direct';
  for (const input of choices.elements.fault) input.disabled = isDirect && FAULTS[input.value].gatewayOnly === true;
  if (!choices.querySelector('[name=fault]:checked:enabled')) choices.elements.fault.value = 'healthy';
  const { path, fault, policy, ifItBreaks } = chosen();
  $('path-hint').textContent = path.hint;
  $('fault-hint').textContent = fault.hint;
  $('break-hint').textContent = ifItBreaks.hint;
  $('code').textContent = codeOf(path, fault, policy);
  lookAtBreakers();
}

/** As one would write it: names without quotes, and what holds nothing deeper on one line. */
const inCode = (value) => JSON.stringify(value, null, 2)
  .replace(/"(\w+)":/g, '$1:').replaceAll('"', "'")
  .replace(/\{[^{}[\]]*\}/g, (object) => object.replace(/\s+/g, ' '));
const codeOf = ({ options }, fault, policy) => `import { Fairlead } from 'fairlead';

const ai = new Fairlead(${inCode(options)});

const stream = await ai.chat.completions.create({
  model: '${fault.model ?? 'demo'}',
  stream: true,
  messages: [{ role: 'user', content: 'What is a fairlead?' }],
}${policy ? `, { policy: '${policy}' }` : ''});
for await (const event of stream.events()) {
  if (event.type === 'content') show(event.text);
}`;

// ---- The chat

const history = [];
/** The call whose picture is shown; one is under way at a time. */
let run;

async function send(content) {
  const { path, fault, policy } = chosen();
  history.push({ role: 'user', content });
  say('you', content);
  const answer = say('model', '');
  run = new Run(path, answer);
  const { signal } = run.stopper;
  try {
    const request = {
      model: fault.model ?? 'demo', messages: history, sim: fault.sim, stream: true, stream_options: { include_usage: true },
    };
    const { data: stream, response } = await path.client.chat.completions.create(request, { policy, signal }).withResponse();
    run.know(response);
    tell('Answering …');
    for await (const event of stream.events()) {
      if (event.type === 'content') run.token(event.text);
      else if (event.type === 'usage') run.facts.tokens = event.usage.completion_tokens;
    }
    run.end('ok');
  } catch (error) {
    run.end(signal.aborted ? 'stopped' : 'failed', error);
    if (!signal.aborted) answer.after(explain(error));
  }
  const said = run.words.data;
  // A partial answer stays in the talk, as it would in most applications.
  if (said) history.push({ role: 'assistant', content: said });
  else history.pop();
  showEnd();
}

function say(who, words) {
  const item = make('li', { className: who }, make('span', { className: 'who' }, who), make('p', {}, words));
  $('chat').append(item);
  showEnd();
  return item.lastChild;
}

function explain(error) {
  const [name, code] = error instanceof FairleadError ? [error.name, error.code] : [error.name, ''];
  return make('div', { className: 'error', role: 'alert' },
    make('strong', {}, name), ' ', make('code', {}, [code, error.param].filter(Boolean).join(' · ')),
    make('p', {}, ...withCode(error.message)));
}

const withCode = (message) => message.split('`').map((part, at) => (at % 2 ? make('code', {}, part) : part));

function showEnd() {
  $('chat').scrollTop = $('chat').scrollHeight;
}

// ---- The picture of a call

/** How long the axis can be, with the distance of its marks, in seconds. */
const SPANS = [[3, 1], [5, 1], [8, 2], [12, 2], [20, 5], [30, 5], [60, 10], [120, 20]];
/** What an attempt can fail of, in words; anything else stands for itself. */
const REASONS = {
  headers: 'no headers in time', first_token: 'no first token in time', idle: 'silent for too long', unreachable: 'connection lost',
  cut: 'cut off',
};
const ENDINGS = { ok: '✓ Done', failed: '✕ Failed', stopped: '■ Stopped' };

class Run {
  call;
  stopper = new AbortController();
  /** What is known of the call beside its text. */
  facts = {};
  words = new Text();
  #began = performance.now();
  #attempts = [];
  #unsaid = '';
  #firstToken;
  #tokens = 0;
  #drawing;
  #ending;

  constructor(path, answer) {
    this.path = path;
    answer.append(this.words);
    $('attempts').replaceChildren();
    $('facts').replaceChildren();
    $('send').setAttribute('aria-disabled', 'true');
    $('stop').setAttribute('aria-disabled', 'false');
    tell('Asking …');
    this.#stretch();
    this.#draw();
  }

  /** What the client tells of its own attempts. */
  hear(event) {
    const now = this.#now();
    const attempt = this.#attempts.at(-1);
    if (event.type === 'attempt_started') {
      attempt?.waitEnds(now);
      this.#attempts.push(new Attempt(event, now));
    } else if (event.type === 'resume_started') {
      this.#attempts.find(({ number }) => number === event.attempt)?.resumes(event);
    } else if (event.type === 'attempt_failed') {
      this.#attempts.find(({ number }) => number === event.attempt)?.fail(event, now);
    } else if (event.type === 'call_ended' && this.#attempts.length === 0) {
      $('attempts').append(make('li', {}, make('p', {}, 'Nobody was asked.')));
    }
  }

  /** The head of an answer, or an error, says who was asked. */
  know({ requestId, endpoint, attempts, headers, code, retryAfter }) {
    const timing = headers?.get('server-timing') ?? undefined;
    const known = Object.entries({ requestId, endpoint, attempts, timing, code, retryAfter }).filter(([, value]) => value !== undefined);
    Object.assign(this.facts, Object.fromEntries(known));
    if (this.path === PATHS.gateway) this.#attempts.at(-1)?.isBehind(this.facts);
  }

  token(words) {
    const now = this.#now();
    this.#firstToken ??= now;
    this.#tokens += 1;
    this.#unsaid += words;
    this.#attempts.at(-1)?.token(now);
    this.#drawing ??= requestAnimationFrame(() => this.#draw());
  }

  end(how, error) {
    const now = this.#now();
    this.#ending = how;
    if (error instanceof FairleadError) this.know(error);
    this.#attempts.at(-1)?.end(how, now);
    this.#draw();
    this.#tellFacts(now);
    $('send').setAttribute('aria-disabled', 'false');
    $('stop').setAttribute('aria-disabled', 'true');
    tell(`${ENDINGS[how]} after ${seconds(now)}`);
  }

  #now() {
    return performance.now() - this.#began;
  }

  /** At most once a frame, however many tokens came meanwhile. */
  #draw() {
    cancelAnimationFrame(this.#drawing);
    this.#drawing = undefined;
    if (this.#unsaid) {
      const box = $('chat');
      const wasAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
      this.words.appendData(this.#unsaid);
      this.#unsaid = '';
      if (wasAtEnd) showEnd();
    }
    this.#stretch();
    for (const attempt of this.#attempts) attempt.draw(this.#now());
    if (!this.#ending) this.#drawing = requestAnimationFrame(() => this.#draw());
  }

  /** Lengthens the axis when the call outgrows it. */
  #stretch() {
    const [span, step] = SPANS.find(([length]) => length * 1000 > this.#now()) ?? SPANS.at(-1);
    const axis = $('axis');
    if (this.span === span) return;
    this.span = span;
    $('timeline').style.setProperty('--span', span * 1000);
    $('timeline').style.setProperty('--step', `${(step / span) * 100}%`);
    axis.replaceChildren();
    for (let at = 0; at < span; at += step) {
      const mark = make('span', {}, at === 0 ? '0 s' : String(at));
      mark.style.setProperty('--from', at * 1000);
      axis.append(mark);
    }
    for (const ticks of $('attempts').querySelectorAll('svg')) ticks.setAttribute('viewBox', `0 0 ${span * 1000} 1`);
  }

  #tellFacts(now) {
    const { requestId, endpoint, code, retryAfter, tokens = this.#tokens, timing } = this.facts;
    // The head of a stream has gone out before it broke.
    const attempts = this.path === PATHS.direct ? this.#attempts.length : this.facts.attempts;
    const facts = {
      'First token': this.#firstToken === undefined ? 'none' : seconds(this.#firstToken),
      'Whole call': seconds(now),
      Tokens: tokens,
      Endpoint: endpoint,
      Attempts: attempts,
      Error: code,
      'Retry after': retryAfter && seconds(retryAfter),
      'Request id': requestId,
      // Its attempts are this page's own; all of them stand above.
      'Server-Timing': timing?.replace(/, attempts;desc="\d+"/, ''),
    };
    for (const [name, value] of Object.entries(facts)) {
      if (value !== undefined) $('facts').append(make('div', {}, make('dt', {}, name), make('dd', {}, String(value))));
    }
  }
}

/** A row: a line of words, and below it the bar, its tokens and the wait behind it. */
class Attempt {
  #to;
  #words = make('span', { className: 'words' }, 'waiting for the first token');
  #bar = make('i', { className: 'bar flying' });
  #ticks = drawn('path');
  #newTicks = '';
  #wait;
  #failure;
  #way;
  #tokens = 0;

  constructor({ attempt, endpoint }, now) {
    this.number = attempt;
    this.endpoint = endpoint;
    const svg = drawn('svg');
    svg.setAttribute('viewBox', `0 0 ${run.span * 1000} 1`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.append(this.#ticks);
    this.lane = make('div', { className: 'lane', ariaHidden: 'true' }, this.#bar, svg);
    place(this.#bar, now, now);
    this.name = make('b', {}, endpoint);
    const row = make('li', {}, make('p', {}, `${attempt} `, this.name, ' ', this.#words), this.lane);
    $('attempts').append(row);
  }

  token(now) {
    this.#tokens += 1;
    this.#newTicks += `M${now.toFixed(0)} 0v1`;
  }

  /** It is to go on behind a stream that broke. */
  resumes({ way }) {
    this.#way = { continue: 'from where it broke', verify: 'from the start, compared' }[way];
    this.#words.textContent = `goes on ${this.#way}`;
  }

  /** Who has answered the gateway. */
  isBehind({ endpoint, attempts, code }) {
    if (!endpoint) return;
    this.name.textContent = `${this.endpoint} → ${endpoint}`;
    // What the head of a stream says is of its beginning.
    this.behind = code ? `${attempts === 1 ? '1 attempt' : `${attempts} attempts`} there` : `begun at attempt ${attempts} there`;
    if (this.#failure) this.fail(this.#failure, this.#to);
  }

  fail(event, now) {
    const { reason, then, waitMs } = event;
    this.#close('failed', now);
    this.#failure = event;
    const next = { retry: 'again', failover: 'next', line: 'in line' }[then];
    const when = waitMs > 0 ? `in ${seconds(waitMs)}` : 'at once';
    const after = next ? `${next} ${when}` : (this.behind ?? `no retry: ${then.replaceAll('_', ' ')}`);
    this.#words.textContent = `✕\u00a0${REASONS[reason] ?? reason.replace('http_', 'HTTP ')}, ${after}`;
    if (!next || !waitMs) return;
    this.#wait = make('i', { className: 'wait' });
    place(this.#wait, now, now + waitMs);
    this.lane.append(this.#wait);
  }

  waitEnds(now) {
    this.#wait?.style.setProperty('--to', now);
  }

  end(how, now) {
    if (this.#to !== undefined) return;
    this.#close(how, now);
    const mark = { ok: '✓ answered', failed: '✕ failed', stopped: '■ stopped' }[how];
    this.#words.textContent = this.#count(mark);
  }

  #count(mark) {
    return [mark, this.#way, `${this.#tokens} tokens`, this.behind].filter(Boolean).join(', ');
  }

  #close(how, now) {
    this.#to = now;
    this.#bar.className = `bar ${how}`;
    this.#words.className = `words of-${how}`;
    this.#bar.style.setProperty('--to', now);
  }

  draw(now) {
    if (this.#to === undefined) {
      this.#bar.style.setProperty('--to', now);
      if (this.#newTicks) this.#words.textContent = this.#count('… answering');
    }
    if (!this.#newTicks) return;
    this.#ticks.setAttribute('d', (this.#ticks.getAttribute('d') ?? '') + this.#newTicks);
    this.#newTicks = '';
  }
}

// ---- The breakers

let isLooking = false;
let nextLook;

/** Shows what the client knows of its endpoints; while one is left alone, twice a second. */
async function lookAtBreakers() {
  if (isLooking) return;
  isLooking = true;
  clearTimeout(nextLook);
  const { client } = chosen().path;
  const { endpoints, nowMs } = await client.status().finally(() => { isLooking = false; });
  if (client !== chosen().path.client) return lookAtBreakers();
  const states = endpoints.map(({ name, breakers }) => ({ name, ...breakers.find(({ entry }) => entry === 'demo' || entry === '*') }));
  const items = states.map(({ name, state = 'closed', untilMs, inARow = 0 }) => {
    const left = untilMs === null || untilMs === undefined ? 0 : Math.max(0, untilMs - nowMs);
    const words = {
      closed: ['closed', 'closed, 1 failure'][inARow] ?? `closed, ${inARow} failures`,
      open: `open, not asked for ${Math.ceil(left / 1000)} s`,
      half_open: 'half open, the next call tries it',
      off: 'off',
    }[state];
    return make('li', { className: state }, make('b', {}, name), ` breaker ${words}`);
  });
  $('breakers').replaceChildren(...items);
  if (states.some(({ state }) => state === 'open')) nextLook = setTimeout(lookAtBreakers, 500);
}

// ---- Small things

function tell(words) {
  $('status').textContent = words;
}

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

function place(element, from, to) {
  element.style.setProperty('--from', from);
  element.style.setProperty('--to', to);
}

function make(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

const drawn = (name) => document.createElementNS('http://www.w3.org/2000/svg', name);

// ---- The beginning

const isBusy = () => $('send').getAttribute('aria-disabled') === 'true';

$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  if (isBusy()) return;
  const content = $('message').value.trim();
  if (content) send(content);
});
// The message stays, to be sent again at the next fault; who types replaces it.
$('message').addEventListener('focus', ({ target }) => target.select());
$('stop').addEventListener('click', () => run?.stopper.abort());
document.addEventListener('keydown', ({ key }) => {
  if (key === 'Escape') run?.stopper.abort();
});
choices.addEventListener('change', showChoices);
showChoices();
