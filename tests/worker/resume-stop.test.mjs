// Streams with `stop` strings that break. vLLM holds back what such a string may have begun in, so its events end inside
// of tokens; what the client reads is the same text, wherever it breaks.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { strict } from '../strict.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { CHAT, COMPLETIONS, Calls, PATIENT, PROMPT, answers, each } from './calls.mjs';
import { endpointsOf, startGateway } from './gateway.mjs';

const TEXT = 'Ünï 🦀🦀 lines,\n\n\t"run" true  and true. <END> nobody';
const USAGE = { stream_options: { include_usage: true } };
/** What the request says of the text's end, what ends it, and whether its endpoint holds text back for that. */
const STOPS = {
  'none comes': { body: { stop: ['\u3000\u3000'] } },
  'one comes': { body: { stop: ['<END>', 'nowhere'] }, reason: '<END>' },
  'one comes, and is shown': {
    body: { stop: ['<END>'], include_stop_str_in_output: true }, reason: '<END>', shown: '<END>', holdsBack: false,
  },
  'one has often begun': { body: { stop: ['true  or', 'true.'] }, reason: 'true.' },
  'a single character': { body: { stop: '<' }, reason: '<', holdsBack: false },
  'a limit': { body: { stop: ['<END>'], max_tokens: 8 }, finish: 'length' },
};

let vllm;
let gateway;
let calls;
before(async () => {
  vllm = await startVllm({ defaults: { trims: true, prompt: PROMPT, text: TEXT } });
  gateway = await startGateway({
    open: true,
    endpoints: endpointsOf({ first: vllm, second: vllm }),
    models: [{ name: 'pair', targets: [{ endpoint: 'first' }, { endpoint: 'second' }] }],
    policies: { default: { ...PATIENT, resume: 'continue' } },
  });
  calls = new Calls(gateway, vllm);
});
after(async () => {
  await gateway.close();
  await vllm.close();
  assert.deepEqual(gateway.troubles, []);
});

describe('a stream with stop strings that breaks is the same stream', { concurrency: 2 }, () => {
  for (const path of [CHAT, COMPLETIONS]) {
    for (const [name, answer] of Object.entries(STOPS)) {
      it(`${path}: ${name}`, async () => {
        const { body, reason = null, shown = '', finish = 'stop', holdsBack = true } = answer;
        const asked = { model: 'pair', ...USAGE, ...body };
        const told = await calls.stream(path, { ...asked, sim: answers(TEXT) });
        const whole = strict(told.text, { usage: true });
        assert.deepEqual([whole.finishReason, whole.stopReason], [finish, reason]);
        if (reason !== null) assert.equal(whole.text, TEXT.slice(0, TEXT.indexOf(reason)) + shown);
        const end = whole.chunks.findIndex(({ choices: [choice] }) => choice.finish_reason);
        // Where the string is shown, vLLM tells the end with the last token of it.
        const places = Array.from({ length: shown ? end : end + 1 }, (_, at) => at);
        const breaks = places.flatMap((afterEvents) => ['cut', 'abort'].map((fault) => ({ fault, afterEvents })));
        const seen = new Set();
        await each(breaks, async (entry) => {
          const call = await calls.stream(path, { ...asked, sim: answers(TEXT, entry) });
          const at = JSON.stringify(entry);
          const unknown = call.end.attempts === 1 && call.followed.length === 1;
          const stream = strict(call.text, { usage: unknown ? 'unknown' : true });
          assert.equal(stream.text, whole.text, at);
          assert.deepEqual([stream.finishReason, stream.stopReason], [finish, reason], at);
          if (unknown) assert.equal(finish, 'length', at);
          else assert.deepEqual(stream.usage, whole.usage, at);
          call.ways.forEach((way) => seen.add(way));
          // What may be a part of a word is not given.
          if (holdsBack && call.ways[0] === 'continue') {
            const { messages, prompt } = call.attempts[1].json;
            const given = messages?.at(-1).content ?? prompt.slice(PROMPT.length);
            assert.ok(TEXT.startsWith(given) && /^\s/.test(TEXT.slice(given.length)), `${at}: ${given}`);
          }
        });
        assert.ok(seen.has('continue'), [...seen].join());
      });
    }
  }
});
