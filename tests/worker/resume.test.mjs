// `resume: "continue"` in workerd: a stream that breaks behind any of its events, in any way, comes to its client as if
// it had not.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { strict } from '../strict.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { CHAT, COMPLETIONS, Calls, PATIENT, PROMPT, answers, each } from './calls.mjs';
import { endpointsOf, startGateway } from './gateway.mjs';

const USAGE = { stream_options: { include_usage: true } };
const RUNNING = { stream_options: { include_usage: true, continuous_usage_stats: true } };

const UNICODE = 'Zürich, 東京 👩‍🚀🪢 עברית "नमस्ते" \u2028\\ ﬁn\u0301 🏴‍☠️.';

const ANSWERS = {
  prose: { text: DEFAULT_TEXT },
  unicode: { text: UNICODE, body: USAGE, usage: true },
  'white space': { text: '\n\n  a \n\tb\u00a0\u3000 c\r\n\r\n d  \n ', body: USAGE, usage: true },
  'counts all along': { text: 'The line\n\nruns true.', body: RUNNING, usage: 'running' },
  'counts all along up to a limit': {
    text: 'The line\n\nruns true.', body: { ...RUNNING, max_tokens: 4 }, usage: 'running',
  },
  'a limit that is reached': { text: DEFAULT_TEXT, body: { ...USAGE, max_tokens: 12 }, usage: true },
  'a limit that is not': { text: 'The line\n\nruns true.', body: { max_tokens: 100 } },
};

/** Faults that strike wherever they are told to, and those that strike behind role and content only. */
const ANYWHERE = ['cut', 'cut-reset'];
const AMONG_CONTENT = ['stall', 'error-mid-stream', 'end-without-finish', 'abort'];

let vllm;
let gateway;
let calls;
before(async () => {
  vllm = await startVllm({ defaults: { trims: true, prompt: PROMPT } });
  const policy = { ...PATIENT, resume: 'continue' };
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ first: vllm, second: vllm }),
    models: [
      { name: 'alone', targets: [{ endpoint: 'first' }] },
      { name: 'pair', targets: [{ endpoint: 'first' }, { endpoint: 'second' }] },
    ],
    policies: { default: policy, hasty: { ...policy, idle_ms: 1000, first_token_ms: 2000 } },
  });
  calls = new Calls(gateway, vllm);
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});

const choiceOf = ({ choices: [choice] }) => choice;
const textOf = (chunks) => chunks.map(choiceOf).map((choice) => choice?.delta?.content ?? choice?.text ?? '').join('');
const upTo = (count) => Array.from({ length: count + 1 }, (_, at) => at);

/** Behind how many events a fault can strike such a stream. */
function places(fault, { chunks, finishReason }) {
  // The last is the [DONE].
  if (ANYWHERE.includes(fault)) return upTo(chunks.length);
  const before = chunks.findIndex((chunk) => choiceOf(chunk).finish_reason);
  // Where there is a limit, the last token and the finish are one event; of an `abort` it keeps the token.
  return upTo(fault === 'abort' && finishReason === 'length' ? before + 1 : before);
}

/** What the client has of this stream when it breaks. */
function shownOf(fault, afterEvents, { chunks }) {
  const shown = chunks.slice(0, afterEvents);
  return {
    text: textOf(shown),
    hasFinished: fault !== 'abort' && shown.some((chunk) => choiceOf(chunk)?.finish_reason),
    hasUsage: shown.some(({ choices }) => choices.length === 0),
  };
}

async function assertSame(path, { text, body, usage = false }, fault, afterEvents, model, whole) {
  const shown = shownOf(fault, afterEvents, whole);
  const policy = fault === 'stall' ? 'hasty' : undefined;
  const sim = answers(text, { fault, afterEvents });
  const call = await calls.stream(path, { model, ...body, sim }, { policy });
  assert.equal(call.end.outcome, 'ok', call.text);

  // The model had said all that it may, or the end alone was lost: there is nothing left to ask for.
  const hasAll = !shown.hasFinished && whole.finishReason === 'length' && shown.text === whole.text;
  const isUnknown = usage && (hasAll || (shown.hasFinished && !shown.hasUsage));
  const unknown = usage === 'running' ? 'running, then unknown' : 'unknown';
  const stream = strict(call.text, { usage: isUnknown ? unknown : usage });
  const judged = ({ text: said, finishReason, stopReason }) => ({ said, finishReason, stopReason });
  assert.deepEqual(judged(stream), judged(whole));
  if (!isUnknown) assert.deepEqual(stream.usage, whole.usage);
  assert.equal(stream.id, stream.chunks.at(-1).id);

  const isBlank = path === CHAT && shown.text.trimEnd() === '';
  const goesOn = shown.text !== '' && !shown.hasFinished && !hasAll;
  const way = isBlank ? 'verify' : 'continue';
  assert.deepEqual(call.ways, goesOn ? [isBlank ? `${way}, white_space` : way] : []);
  const comments = stream.comments.filter((comment) => comment.startsWith('resumed'));
  assert.deepEqual(comments, goesOn ? [`resumed by ${way}, attempt 2`] : []);
  const isCounted = usage === 'running' && (path === COMPLETIONS || shown.text === shown.text.trimEnd());
  const counts = goesOn && !isBlank && !isCounted && (path === COMPLETIONS || body);
  assert.equal(call.requests.length - call.attempts.length, counts ? 1 : 0);
  assert.equal(call.end.endpoint, model === 'alone' || shown.hasFinished || hasAll ? 'first' : 'second');
}

describe('a stream that breaks is the same stream', { concurrency: 2 }, () => {
  for (const path of [CHAT, COMPLETIONS]) {
    for (const [name, answer] of Object.entries(ANSWERS)) {
      for (const fault of [...ANYWHERE, ...AMONG_CONTENT]) {
        it(`${path}: ${name}, by ${fault}`, async () => {
          const told = await calls.stream(path, { model: 'alone', ...answer.body, sim: answers(answer.text) });
          const whole = strict(told.text, { usage: answer.usage });
          assert.ok(answer.text.startsWith(whole.text) && whole.chunks.length > 4);
          const breaks = places(fault, whole).flatMap((at) => [['alone', at], ['pair', at]]);
          await each(breaks, async ([model, afterEvents]) => {
            try {
              await assertSame(path, answer, fault, afterEvents, model, whole);
            } catch (error) {
              throw new Error(`${model}, behind ${afterEvents} events`, { cause: error });
            }
          }, fault === 'stall' ? breaks.length : undefined);
        });
      }
    }
  }
});
