// An answer that broke off is gone on with, wherever it did: text and tokens are those of the one that did not break.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, afterEach, before, describe, it } from 'node:test';
import { strict } from '../strict.mjs';
import { eventsIn, exchange } from './raw-client.mjs';
import { startVllm } from './vllm.mjs';

const MESSAGES = [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'What is a fairlead?' }];
const CHAT = { model: 'taught', messages: MESSAGES, stream: true, stream_options: { include_usage: true } };
const PROMPT = 'The quick';
const COMPLETION = {
  model: 'taught', prompt: PROMPT, max_tokens: 1000, stream: true, stream_options: { include_usage: true },
};
const COMPLETIONS = { path: '/v1/completions' };

const TEXTS = {
  prose: 'A fairlead guides a line and keeps it from chafing. Whatever the sea does, the line runs true.',
  scripts: '流式传输在边缘节点上必须完整:每个字符都要到达。🛟 Ünïcödé👩‍🚀 wörds',
  blanks: 'One.\n\nTwo:\n\n\t- three  \n\t-  four \r\n\r\n\u00a0five\u2003\u2003six \n',
};
// What a client holds back before it asks for more: a template may take it away.
const trimmed = (text) => text.replace(/[\s\x1c-\x1f\x85]+$/, '');

let server;
const started = [];
const start = async (options) => {
  const other = await startVllm({ maxMs: 20, ...options });
  started.push(other);
  return other;
};
before(async () => { server = await startVllm({ maxMs: 20 }); });
after(() => server.close());
afterEach(async () => {
  server.reset();
  await Promise.all(started.splice(0).map((each) => each.close()));
});

const jsonOf = ({ payload }) => JSON.parse(payload.toString());
const ask = async (body, { from = server, ...more } = {}) => exchange(from, { body, ...more });
const stream = async (body, more) => strict((await ask(body, more)).payload, { usage: true });
const count = async (text, from) =>
  jsonOf(await ask({ model: 'taught', prompt: text, add_special_tokens: false }, { from, path: '/tokenize' })).count;

/** The text of a stream that broke, as far as its events are whole. */
function textOf({ payload }) {
  return eventsIn(payload).map((event) => event.slice('data: '.length)).filter((data) => data.endsWith('}'))
    .flatMap((data) => JSON.parse(data).choices ?? [])
    .map(({ text, delta }) => text ?? delta.content ?? '').join('');
}

const continued = (partial, more) => ({
  ...CHAT,
  messages: [...MESSAGES, { role: 'assistant', content: partial }],
  continue_final_message: true,
  add_generation_prompt: false,
  ...more,
});

const extended = (partial, more) => ({ ...COMPLETION, prompt: PROMPT + partial, ...more });

/** The text before each event of content, and the whole at last. */
function beginnings({ chunks }) {
  let text = '';
  const all = [text];
  for (const { choices: [choice] } of chunks) {
    const piece = choice?.text ?? choice?.delta.content;
    if (piece) all.push(text += piece);
  }
  return all;
}

describe('at every event\'s end', () => {
  for (const [name, text] of Object.entries(TEXTS)) {
    for (const options of [{}, { trims: true }, { tokensPerEvent: [1, 3, 2] }, { stepping: 3 }]) {
      it(`a chat goes on: ${name} ${JSON.stringify(options)}`, async () => {
        const from = await start({ defaults: { text, ...options } });
        const whole = await stream(CHAT, { from });
        assert.equal(whole.text, text);
        const { prompt_tokens: prompt, completion_tokens: tokens } = whole.usage;
        for (const partial of beginnings(whole)) {
          const sent = trimmed(partial);
          const known = await count(sent, from);
          const rest = await stream(continued(sent), { from });
          assert.equal(sent + rest.text, text);
          assert.notEqual(rest.id, whole.id);
          assert.equal(rest.usage.prompt_tokens - known, prompt);
          // Tokens of one length are cut anew where the white space was.
          if (!options.stepping || sent === partial) assert.equal(known + rest.usage.completion_tokens, tokens);
          const untrimmed = await stream(continued(partial), { from });
          assert.equal((options.trims ? sent : partial) + untrimmed.text, text);
        }
      });
    }

    it(`a completion goes on: ${name}`, async () => {
      const from = await start({ defaults: { text, prompt: PROMPT } });
      const whole = await stream(COMPLETION, { from, ...COMPLETIONS });
      assert.equal(whole.text, text);
      for (const partial of beginnings(whole)) {
        const known = await count(partial, from);
        const rest = await stream(extended(partial), { from, ...COMPLETIONS });
        assert.equal(partial + rest.text, text);
        assert.equal(rest.usage.prompt_tokens - known, whole.usage.prompt_tokens);
        assert.equal(known + rest.usage.completion_tokens, whole.usage.completion_tokens);
      }
    });
  }

  it('max_tokens counts what is new', async () => {
    for (const limit of [1, 2, 7, 18, 19, 20, 21, 1000]) {
      const whole = await stream({ ...CHAT, max_tokens: limit });
      for (const partial of beginnings(whole).slice(0, -1)) {
        const known = await count(partial);
        const rest = await stream(continued(partial, { max_tokens: limit - known }));
        assert.equal(partial + rest.text, whole.text);
        assert.equal(rest.finishReason, whole.finishReason);
        assert.equal(known + rest.usage.completion_tokens, whole.usage.completion_tokens);
      }
    }
  });

  const breaks = ['cut', 'cut-reset', 'stall', 'error-mid-stream', 'end-without-finish', 'abort', 'empty-deltas'];
  for (const fault of breaks) {
    it(`${fault} can be put there, again and again`, async () => {
      const steps = beginnings(await stream(CHAT));
      for (let afterEvents = 1; afterEvents <= steps.length; afterEvents += 1) {
        const broken = (events) => ({ fault, afterEvents: events, everyMs: 5 });
        server.script(broken(afterEvents), broken(3), broken(2), 'ok');
        const first = textOf(await ask(CHAT));
        assert.equal(first, steps[afterEvents - 1]);
        const second = first + textOf(await ask(continued(first)));
        assert.equal(second, steps[Math.min(afterEvents + 1, steps.length - 1)]);
        const third = second + textOf(await ask(continued(second)));
        assert.equal(third, steps[Math.min(afterEvents + 2, steps.length - 1)]);
        assert.equal(third + (await stream(continued(third))).text, TEXTS.prose);
      }
    });
  }

  it('an abort says so behind as many events', async () => {
    for (const [body, path, role] of [[CHAT, '/v1/chat/completions', 1], [COMPLETION, '/v1/completions', 0]]) {
      const steps = beginnings(await stream(body, { path }));
      for (let afterEvents = role; afterEvents < steps.length + role; afterEvents += 1) {
        const { text, finishReason, usage } = await stream({ ...body, sim: { fault: 'abort', afterEvents } }, { path });
        assert.deepEqual([text, finishReason], [steps[afterEvents - role], 'abort']);
        assert.equal(usage.completion_tokens, afterEvents - role);
      }
    }
    const sim = { fault: 'abort', afterEvents: 3, tokensPerEvent: 2 };
    assert.equal((await stream({ ...CHAT, sim })).text, 'A fairlead guides a');
  });
});

describe('a chat that is continued', () => {
  it('has the events of the capture, key for key', async () => {
    const raw = readFileSync(new URL('../fixtures/vllm-0.32/chat_continue.http', import.meta.url));
    const typed = (_, value) => {
      if (value === null) return 'null';
      return typeof value === 'object' ? value : typeof value;
    };
    const keysOf = (payload) => eventsIn(payload).map((event) =>
      (event === 'data: [DONE]' ? event : JSON.stringify(JSON.parse(event.slice('data: '.length), typed))));
    const { payload } = await ask(continued('A fairlead', { stream_options: undefined, max_tokens: 12 }));
    assert.deepEqual(keysOf(payload), keysOf(raw.subarray(raw.indexOf('\r\n\r\n') + 4)));
  });

  it('speaks in the role of its last message, and only adds to it', async () => {
    const messages = [{ role: 'user', content: 'A fairlead' }];
    const body = { model: 'taught', messages, continue_final_message: true, add_generation_prompt: false };
    const [{ message }] = jsonOf(await ask(body)).choices;
    assert.equal(message.role, 'user');
    assert.equal(`A fairlead${message.content}`, TEXTS.prose);
    assert.match(eventsIn((await ask({ ...body, stream: true })).payload)[0], /"delta":{"role":"user","content":""}/);
  });

  it('may have its text in parts', async () => {
    const parts = [{ type: 'text', text: 'A fairlead' }, { type: 'text', text: ' guides' }];
    assert.equal(`A fairlead guides${(await stream(continued(parts))).text}`, TEXTS.prose);
  });

  it('says something else behind what it never said, and always the same', async () => {
    const texts = [];
    for (const partial of ['A fairleads', 'a fairlead', `${TEXTS.prose} `, 'A fairleads']) {
      texts.push((await stream(continued(partial))).text);
    }
    for (const text of texts) assert.match(text, /^\| another answer, [0-9a-f]{8}, whose/);
    assert.equal(new Set(texts).size, 3);
    assert.equal(texts[0], texts[3]);
  });

  it('begins its JSON anew', async () => {
    const { text } = await stream(continued('{"a":', { response_format: { type: 'json_object' } }));
    assert.deepEqual(JSON.parse(text), { a: 'line' });
  });

  it('is refused where both kinds of prompt are asked for, where none is said, and without a text', async () => {
    const both = await ask(continued('A', { add_generation_prompt: true }));
    assert.equal(both.status, 400);
    assert.match(jsonOf(both).error.message, /^1 validation error:\n.*Cannot set both `continue_final_message` and/);
    const unsaid = await ask(continued('A', { add_generation_prompt: undefined }));
    assert.deepEqual([unsaid.status, jsonOf(unsaid).error.type], [400, 'BadRequestError']);
    assert.match(jsonOf(unsaid).error.message, /add_generation_prompt are not compatible/);
    for (const content of [null, undefined, [], [{ type: 'image_url' }]]) {
      const nothing = await ask(continued(content));
      assert.equal(nothing.status, 400);
      assert.match(jsonOf(nothing).error.message, /could not find any text to continue/);
    }
  });

  it('has at least one token left', async () => {
    const { status, payload } = await ask(continued('A', { max_tokens: 0 }));
    assert.equal(status, 400);
    assert.match(payload.toString(), /max_tokens must be at least 1, got 0/);
  });

  it('is refused by an endpoint that cannot, or misunderstood by one that does not know it', async () => {
    server.fault = { continues: false };
    const refused = await ask(continued('A'));
    assert.deepEqual([refused.status, jsonOf(refused).error.param], [400, 'body.continue_final_message']);
    assert.match(jsonOf(refused).error.message, /^1 validation error:\n.*Extra inputs are not permitted/);
    assert.equal((await stream(CHAT)).text, TEXTS.prose);
    server.fault = { continues: 'ignored' };
    assert.equal((await stream(continued('A'))).text, TEXTS.prose);
  });

  it('has in its events what only vLLM puts there, but of a server that is none', async () => {
    const marks = /"(prompt_token_ids|token_ids|stop_reason)":/;
    for (const [body, path] of [[continued('A'), '/v1/chat/completions'], [extended(' A'), '/v1/completions']]) {
      const told = async (sim) => eventsIn((await ask({ ...body, sim }, { path })).payload).slice(0, -2);
      for (const event of await told({})) assert.match(event, marks);
      for (const event of await told({ continues: 'ignored' })) assert.doesNotMatch(event, marks);
    }
  });
});

describe('a completion whose prompt is extended', () => {
  it('goes on behind the longest end that begins the answer, unless its prompt is told', async () => {
    const sim = { text: 'ab ab ab' };
    const say = async (prompt, more) =>
      (await stream({ ...COMPLETION, prompt, sim: { ...sim, ...more } }, COMPLETIONS)).text;
    assert.equal(await say('x'), 'ab ab ab');
    assert.equal(await say('x ab'), ' ab ab');
    assert.equal(await say('x ab ab'), ' ab');
    assert.equal(await say('x ab ab', { prompt: 'x ab ' }), ' ab ab');
    assert.equal(await say('x ab', { prompt: 'x ab' }), 'ab ab ab');
    assert.match(await say('x abba', { prompt: 'x ' }), /^\| another answer/);
    assert.equal(await say('another prompt', { prompt: 'x ' }), 'ab ab ab');
  });

  it('goes on for each prompt of a list', async () => {
    const { choices } = jsonOf(await ask({
      model: 'taught', prompt: ['x', 'y A fairlead'], max_tokens: 2, sim: { prompt: 'y ' },
    }, COMPLETIONS));
    assert.equal(choices[0].text, 'A fairlead');
    assert.match(choices[1].text, /^\| another/, 'every choice but the first begins with its index');
  });
});

describe('another answer', () => {
  it('is the same up to the character, and not there', async () => {
    for (const text of Object.values(TEXTS)) {
      const characters = [...text];
      for (let differsAt = 0; differsAt <= characters.length; differsAt += 1) {
        const { text: other } = await stream({ ...CHAT, sim: { text, differsAt } });
        const same = characters.slice(0, differsAt).join('');
        assert.ok(other.startsWith(same));
        assert.notEqual([...other][differsAt], characters[differsAt]);
        assert.ok([...other].length > differsAt);
      }
    }
  });

  it('has other tokens, and other events', async () => {
    const stepsOf = async (sim) => beginnings(await stream({ ...CHAT, sim })).slice(1);
    const whole = [...TEXTS.scripts];
    const stepping = await stepsOf({ text: TEXTS.scripts, stepping: 4 });
    assert.deepEqual(stepping, stepping.map((_, at) => whole.slice(0, 4 * (at + 1)).join('')));
    const one = await stepsOf({});
    assert.deepEqual(await stepsOf({ tokensPerEvent: 4 }), [...one.filter((_, at) => at % 4 === 3), one.at(-1)]);
    assert.deepEqual((await stepsOf({ tokensPerEvent: [1, 4] })).slice(0, 4), [one[0], one[4], one[5], one[9]]);
    const { usage } = await stream({ ...CHAT, sim: { tokensPerEvent: 3 } });
    assert.deepEqual(usage, (await stream(CHAT)).usage);
  });

  it('keeps thoughts, tool calls, logprobs and token ids with several tokens in an event', async () => {
    const sim = { tokensPerEvent: 4 };
    const thinking = { chat_template_kwargs: { enable_thinking: true } };
    const { reasoning, text } = await stream({ ...CHAT, ...thinking, sim });
    assert.deepEqual([reasoning, text], ['The user asks about lines. Think of the boat first.', TEXTS.prose]);
    const tool = { type: 'function', function: { name: 'f', parameters: { properties: { a: { type: 'integer' } } } } };
    const [call] = (await stream({ ...CHAT, tools: [tool], sim })).toolCalls;
    assert.deepEqual(JSON.parse(call.function.arguments), { a: 3 });
    const { chunks } = await stream({ ...CHAT, logprobs: true, return_token_ids: true, max_tokens: 8, sim });
    const [, { choices: [choice] }] = chunks;
    assert.equal(choice.logprobs.content.map(({ token }) => token).join(''), choice.delta.content);
    assert.deepEqual([choice.logprobs.content.length, choice.token_ids.length], [4, 4]);
  });
});

describe('/tokenize', () => {
  const tokenize = (body, from) => ask(body, { from, path: '/tokenize' });

  it('counts messages as a chat does', async () => {
    for (const trims of [false, true]) {
      const from = await start({ defaults: { trims } });
      for (const body of [CHAT, continued('A fairlead\n\n')]) {
        const { usage } = await stream(body, { from });
        assert.equal(jsonOf(await tokenize(body, from)).count, usage.prompt_tokens);
      }
    }
    assert.equal((await tokenize({ model: 'taught' })).status, 400);
    assert.equal((await tokenize(continued('A', { add_generation_prompt: true }))).status, 400);
  });

  it('uses up no entry of a script, and no attempt of a call', async () => {
    server.script({ fault: 'stall', afterEvents: 3 }, 'http-503');
    server.fault = 'http-500';
    await ask(CHAT);
    assert.equal(await count('A fairlead'), 2);
    assert.equal((await ask(CHAT)).status, 503);
    assert.equal((await ask(CHAT)).status, 500);
    assert.equal(await count('A fairlead'), 2);
    server.reset();

    const as = (id) => ({ headers: { 'x-request-id': id } });
    const sim = ['http-503', 'http-502'];
    assert.equal((await ask({ ...CHAT, sim }, as('call-1'))).status, 503);
    assert.equal((await ask({ model: 'sim-cut', prompt: 'x' }, { ...as('call-2'), path: '/tokenize' })).status, 200);
    assert.equal((await ask({ ...CHAT, sim }, as('call-3'))).status, 502);
  });

  it('fails where it is told to, and only there', async () => {
    server.tokenizer = 'http-500';
    assert.equal((await tokenize({ prompt: 'x' })).status, 500);
    assert.equal((await ask(CHAT)).status, 200);
    server.tokenizer = { tokenizes: false };
    const gone = await tokenize({ prompt: 'x' });
    assert.deepEqual([gone.status, jsonOf(gone)], [404, { detail: 'Not Found' }]);
    server.tokenizer = 'hang';
    assert.equal((await tokenize({ prompt: 'x' })).status, null);
    assert.throws(() => { server.tokenizer = 'typo'; }, /no fault named typo/);
    server.reset();
    assert.equal((await tokenize({ prompt: 'x' })).status, 200);
    assert.equal((await tokenize({ prompt: 'x', sim: 'http-502' })).status, 502);
    const without = await start({ defaults: { tokenizes: false } });
    assert.equal((await tokenize({ prompt: 'x' }, without)).status, 404);
    assert.equal((await ask(CHAT, { from: without })).status, 200);
  });
});

describe('a server', () => {
  it('has defaults for what no entry says', async () => {
    const from = await start({ defaults: { text: 'One two three', tokensPerEvent: 2 } });
    assert.equal((await stream(CHAT, { from })).text, 'One two three');
    assert.equal((await stream({ ...CHAT, sim: { text: 'Four' } }, { from })).text, 'Four');
    from.script({ text: 'Five' });
    assert.equal((await stream(CHAT, { from })).text, 'Five');
    await assert.rejects(startVllm({ defaults: { fault: 'cut' } }), /defaults have no fault/);
  });

  it('has a standing entry without a fault, which keeps no request from asking for one', async () => {
    for (const entry of [{ text: 'One' }, { fault: 'ok', text: 'One' }]) {
      server.fault = entry;
      assert.equal((await stream(CHAT)).text, 'One');
      assert.equal((await ask({ ...CHAT, sim: 'http-503' })).status, 503);
    }
  });

  it('begins each so-many-th answer late', async () => {
    const from = await start({ slowTail: { every: 3, firstTokenMs: 60 } });
    const late = [];
    for (let n = 1; n <= 6; n += 1) {
      await count('x', from);
      await ask(undefined, { from, method: 'GET', path: '/v1/models' });
      late.push((await ask(CHAT, { from })).ms >= 55);
    }
    assert.deepEqual(late, [false, false, true, false, false, true]);
  });
});
