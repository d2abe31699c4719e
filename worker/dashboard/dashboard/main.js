// The dashboard: asks the gateway how things are, shows it, and hands on what an operator orders. What is to be seen is
// made by the views; here is when, and what follows a click.

import { callsView } from './calls.js';
import { h, show } from './dom.js';
import { endpointsView, jobsView } from './endpoints.js';
import { findings, verdict } from './findings.js';
import { askStatus, order, Refusal } from './gateway.js';
import { keepKey, readKey } from './key.js';
import { modelsView } from './models.js';
import { clock, countdown, duration } from './numbers.js';
import { findingsView, gatewayView, isolateView, tilesView } from './overview.js';
import { Playground } from './playground.js';
import { Poll } from './poll.js';
import { Seen } from './seen.js';
import { STORES } from './words.js';

const place = (id) => document.getElementById(id);
const seen = new Seen();
const poll = new Poll(ask);
const playground = new Playground({ seen, adminKey: () => key, onEnd: () => poll.now({ evenPaused: true }) });
const wishes = { failuresOnly: false, text: '', all: false };
const opened = new Set();
let key = readKey();
/** Why there is no answer: since when, and what was said instead. */
let trouble;

setInterval(render, 1000); // what counts down
if (key) enter();
else askOpenly();

/** Without a key the gateway says whether there is one at all. */
async function askOpenly() {
  await askStatus('', { store: false }).catch(explainDoor);
}

function enter() {
  place('door').hidden = true;
  place('forget').hidden = false;
  place('pause').hidden = false;
  poll.start();
}

/** Back to the door; what was seen is not for whoever comes next. */
function leave() {
  poll.stop();
  key = '';
  keepKey('', false);
  seen.forget();
  opened.clear();
  trouble = undefined;
  place('door').hidden = false;
  place('forget').hidden = true;
  place('pause').hidden = true;
  place('notice').hidden = true;
  render();
}

async function ask({ store }) {
  const asked = key;
  try {
    const status = await askStatus(asked, { store });
    if (asked !== key) return;
    seen.take(status, Date.now(), store);
    trouble = undefined;
  } catch (error) {
    if (asked !== key) return;
    if (error instanceof Refusal && (error.status === 401 || error.status === 403)) {
      leave();
      explainDoor(error, asked);
      return;
    }
    trouble = { since: trouble?.since ?? Date.now(), error };
  }
  render();
}

/** Why one does not get in, in place of the form or beside it. */
function explainDoor(error, asked = '') {
  const hint = place('door-hint');
  const { status, code } = error;
  place('door-form').hidden = status === 403;
  if (status === 403) hint.textContent = error.message;
  else if (code === 'config_invalid') hint.textContent = `${error.message} Whoever has the admin key sees them here.`;
  else if (status === 401) hint.textContent = asked ? 'This is not the admin key.' : '';
  else hint.textContent = `The gateway does not answer: ${error.message}`;
  if (status === 401 && asked) place('admin-key').focus();
}

place('door-form').addEventListener('submit', (event) => {
  event.preventDefault();
  key = place('admin-key').value.trim();
  if (!key) return;
  keepKey(key, place('keep-key').checked);
  place('admin-key').value = '';
  place('door-hint').textContent = '';
  enter();
});

place('forget').addEventListener('click', () => {
  leave();
  place('admin-key').focus();
});
place('pause').addEventListener('click', () => {
  poll.pause(!poll.isPaused);
  render();
});
place('isolate').addEventListener('change', ({ target }) => {
  seen.choose(target.value);
  render();
});
place('failures-only').addEventListener('change', ({ target }) => {
  wishes.failuresOnly = target.checked;
  render();
});
place('find').addEventListener('input', ({ target }) => {
  wishes.text = target.value;
  render();
});

place('board').addEventListener('click', ({ target }) => {
  const button = target.closest('[data-act]');
  if (!button) return;
  const { act, call, endpoint } = button.dataset;
  if (act === 'fold') {
    if (!opened.delete(call)) opened.add(call);
    render();
  } else if (act === 'more') {
    wishes.all = true;
    render();
  } else {
    confirmOrder(act, endpoint);
  }
});

place('board').addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || opened.size === 0 || event.target.tagName === 'INPUT') return;
  const row = event.target.closest('tr')?.dataset.key?.replace(/ open$/, '');
  if (row && opened.delete(row)) {
    render();
    [...document.querySelectorAll('.fold')].find(({ dataset }) => dataset.call === row)?.focus();
  }
});

const ORDERS = {
  isolate: {
    title: (endpoint) => `Isolate ${endpoint}?`,
    text: 'No new call goes there until somebody closes it. Calls that are under way go on.',
    done: 'is isolated', state: 'isolated', button: 'Isolate',
  },
  close: {
    title: (endpoint) => `Close the breakers of ${endpoint}?`,
    text: 'It is asked again at once: an operator’s isolation ends, and what has tripped is forgotten.',
    done: 'is in service', state: 'closed', button: 'Close breakers',
  },
};

function confirmOrder(act, endpoint) {
  const { title, text, button } = ORDERS[act];
  place('confirm-title').textContent = title(endpoint);
  place('confirm-text').textContent = text;
  place('confirm-yes').textContent = button;
  place('confirm-yes').onclick = () => {
    place('confirm').close();
    carryOut(act, endpoint);
  };
  place('confirm').showModal();
}
place('confirm-no').addEventListener('click', () => place('confirm').close());

async function carryOut(act, endpoint) {
  const { done, state } = ORDERS[act];
  notice('Asking for it…');
  try {
    const { stored } = await order(key, endpoint, state);
    const kind = seen.isolate?.status.store.kind ?? 'none';
    const spread = STORES[kind]?.spread ?? '';
    const others = stored ? spread
      : kind === 'none' ? 'No store is bound, so that the others will not hear of it.' : 'The store did not take it: the others do not know. Ask again.';
    notice(`${endpoint} ${done}. The isolate that answered obeys at once. ${others}`, stored || kind === 'none' ? 'ok' : 'bad');
  } catch (error) {
    notice(`${endpoint} was left as it is: ${error.message}`, 'bad');
  }
  poll.now({ store: true, evenPaused: true });
}

function notice(text, kind = '') {
  place('notice').hidden = false;
  place('notice').className = `notice of-${kind}`;
  place('notice-text').textContent = text;
}
place('notice-close').addEventListener('click', () => {
  place('notice').hidden = true;
});

// What is being pressed must not move away: the news waits for the click.
let isPressed = false;
addEventListener('pointerdown', () => { isPressed = true; });
for (const end of ['pointerup', 'pointercancel']) {
  addEventListener(end, () => {
    isPressed = false;
    setTimeout(render);
  });
}

function render() {
  if (isPressed) return;
  const { isolate } = seen;
  place('board').hidden = !isolate;
  place('nav').hidden = !isolate;
  place('pause').textContent = poll.isPaused ? 'Go on' : 'Pause';
  showConnection();
  if (!isolate) {
    document.title = 'Fairlead';
    playground.render();
    return;
  }
  const now = Date.now() + isolate.ahead;
  const found = findings(seen, now);
  const { text } = verdict(found, isolate.status);
  document.title = `${found.length > 0 ? `(${found.length}) ` : ''}${text} – Fairlead`;
  show(place('verdict'), findingsView(found, isolate.status));
  show(place('speaking'), isolateView(seen, now));
  show(place('tiles'), tilesView(isolate));
  show(place('endpoint-list'), endpointsView(seen, now));
  place('jobs').hidden = isolate.status.endpoints.every(({ jobs }) => !jobs);
  show(place('job-list'), jobsView(isolate.status));
  show(place('model-list'), modelsView(isolate.status));
  show(place('call-list'), callsView(seen.calls, wishes, opened, now));
  show(place('gateway-list'), gatewayView(seen, now));
  showIsolates();
  playground.render();
}

/** Whether what is shown is of now. */
function showConnection() {
  const { isolate } = seen;
  const isOld = Boolean(trouble);
  document.body.classList.toggle('is-old', isOld && Boolean(isolate));
  const state = !key ? '' : isOld ? 'No answer' : poll.isPaused ? 'Paused' : isolate ? 'Live' : 'Asking…';
  place('connection').textContent = state;
  place('connection').className = `connection is-${isOld ? 'bad' : poll.isPaused ? 'warn' : 'ok'}`;
  place('trouble').hidden = !isOld;
  if (!isOld) return;
  const { since, error } = trouble;
  const mistakes = error.code === 'config_invalid' ? mistakesIn(error.message) : [];
  show(place('trouble'),
    h('p', null, h('b', null, error instanceof Refusal
      ? mistakes.length > 0 ? 'CONFIG has mistakes. Every call is refused until they are mended.' : `The gateway answers ${error.status} ${error.code}: ${error.message}`
      : 'The gateway does not answer.')),
    mistakes.length > 0 && h('ul', { class: 'mistakes' }, mistakes.map((mistake) => h('li', null, mistake))),
    h('p', { class: 'soft' }, `Since ${clock(since)} (${countdown(Date.now() - since)}). It is asked again every two seconds.`,
      isolate && ` What stands below is ${duration(Date.now() - isolate.at)} old.`));
}

/** Each begins with the path of a field. */
function mistakesIn(message) {
  return message.replace(/^CONFIG has mistakes\. /, '').split(/; (?=[\w.[\]"-]+: )/);
}

function showIsolates() {
  const select = place('isolate');
  const all = [...seen.isolates.values()];
  place('isolates').hidden = all.length < 2;
  show(select, all.map(({ id, status }) => h('option', { value: id, 'data-key': id }, status.isolate.colo ? `${id} (${status.isolate.colo})` : id)));
  if (select.value !== seen.shown) select.value = seen.shown;
}
