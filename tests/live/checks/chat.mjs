// Chats that do not stream.

import { isObject, offered, parsed, skip } from '../findings.mjs';

export const GREETING = 'Say hello in one short sentence.';
export const COUNTING = 'Count from 1 to 200 in digits, separated by blanks. Write nothing else.';
export const REPEATABLE = { temperature: 0, seed: 7 };
/** Reasoning models think before they say anything, and that counts. */
export const LONG = { max_tokens: 2000 };

const STAY = 'Where shall I stay in Switzerland, and for how many days? Choose for me.';
const SCHEMA = {
  type: 'object',
  properties: { city: { type: 'string' }, days: { type: 'integer' } },
  required: ['city', 'days'],
  additionalProperties: false,
};
export const TOOL_CALL = {
  tools: [{ type: 'function', function: { name: 'book_stay', description: 'Books a stay', parameters: SCHEMA } }],
  tool_choice: { type: 'function', function: { name: 'book_stay' } },
};
export const TOOL_PROMPT = STAY;

export const chat = [
  {
    name: 'chat: a whole answer',
    async run(server, findings) {
      const answer = await server.chat(GREETING);
      const completion = findings.answered(answer);
      findings.text('id', completion.id);
      findings.same('object', completion.object, 'chat.completion');
      findings.count('created', completion.created, 1);
      findings.text('model', completion.model);
      if (findings.list('choices', completion.choices, 1)) {
        const [{ index, message, finish_reason: reason }] = completion.choices;
        findings.same('choices[0].index', index, 0);
        findings.same('choices[0].message.role', message?.role, 'assistant');
        findings.text('choices[0].message.content', said(message));
        findings.oneOf('choices[0].finish_reason', reason, ['stop', 'length']);
      }
      usage(findings, completion.usage);
      findings.note(`${Math.round(answer.ms)} ms${servedBy(answer.headers)}`);
    },
  },
  {
    name: 'chat: several choices',
    async run(server, findings) {
      const answer = await server.chat(GREETING, { n: 2, temperature: 1 });
      offered(answer, [400]);
      const { choices } = findings.answered(answer);
      if (!findings.list('choices', choices, 2)) return;
      findings.same('choices[].index', choices.map(({ index }) => index).sort().join(), '0,1');
      for (const { message } of choices) findings.text('choices[].message.content', said(message));
    },
  },
  {
    name: 'chat: max_tokens ends it',
    async run(server, findings) {
      const { choices, usage: used } = findings.answered(await server.chat(COUNTING, { max_tokens: 5 }));
      findings.same('choices[0].finish_reason', choices?.[0]?.finish_reason, 'length');
      const tokens = used?.completion_tokens;
      findings.holds('usage.completion_tokens', tokens, 'from 1 to 5', tokens >= 1 && tokens <= 5);
    },
  },
  {
    name: 'chat: stop ends it, and is not said',
    async run(server, findings) {
      const whole = findings.answered(await server.chat(COUNTING, REPEATABLE)).choices?.[0]?.message?.content;
      // A text from the middle of what this very model says.
      const stop = whole?.slice(Math.floor(whole.length / 2)).match(/\S\s+\S+/)?.[0];
      if (!stop) skip('the model says too little to be stopped');
      const [choice] = findings.answered(await server.chat(COUNTING, { ...REPEATABLE, stop: [stop] })).choices;
      const text = choice.message.content;
      findings.holds('choices[0].message.content', text, 'a text without the stop', !text?.includes(stop));
      findings.same('choices[0].finish_reason', choice.finish_reason, 'stop');
      if (!whole.startsWith(text)) findings.note('the text before the stop is another one; models may vary');
    },
  },
  {
    name: 'chat: the same request, the same answer',
    async run(server, findings) {
      const ask = async () => findings.answered(await server.chat(GREETING, REPEATABLE)).choices[0].message;
      const [first, second] = [await ask(), await ask()];
      if (said(first) !== said(second)) findings.note('the texts differ at temperature 0; models may vary');
    },
  },
  {
    name: 'chat: JSON on demand',
    async run(server, findings) {
      const prompt = `${STAY} Answer as a JSON object with "city" and "days".`;
      await inJson(server, findings, prompt, { type: 'json_object' });
    },
  },
  {
    name: 'chat: JSON by a schema',
    async run(server, findings) {
      const format = { type: 'json_schema', json_schema: { name: 'stay', strict: true, schema: SCHEMA } };
      const stay = await inJson(server, findings, STAY, format);
      if (stay) fitsSchema(findings, 'the JSON', stay);
    },
  },
  {
    name: 'chat: a forced tool call',
    async run(server, findings) {
      const answer = await server.chat(TOOL_PROMPT, { ...LONG, ...TOOL_CALL });
      offered(answer, [400]);
      const [choice] = findings.answered(answer).choices;
      toolCall(findings, choice);
    },
  },
];

async function inJson(server, findings, prompt, format) {
  const answer = await server.chat(prompt, { ...LONG, ...REPEATABLE, response_format: format });
  offered(answer, [400]);
  const [choice] = findings.answered(answer).choices;
  findings.same('choices[0].finish_reason', choice.finish_reason, 'stop');
  const value = parsed(choice.message.content);
  const isSo = findings.holds('choices[0].message.content', choice.message.content, 'a JSON object', isObject(value));
  return isSo ? value : undefined;
}

function fitsSchema(findings, where, { city, days, ...more }) {
  findings.holds(`city of ${where}`, city, 'a text', typeof city === 'string');
  findings.holds(`days of ${where}`, days, 'a whole number', Number.isInteger(days));
  findings.holds(where, more, 'no other field', Object.keys(more).length === 0);
}

/** Of a choice that had to call the tool, whole or put together from a stream. */
export function toolCall(findings, { message, finish_reason: reason }) {
  // OpenAI says `stop` where the tool was named in the request, others `tool_calls`.
  findings.oneOf('choices[0].finish_reason', reason, ['tool_calls', 'stop']);
  if (!findings.list('choices[0].message.tool_calls', message?.tool_calls, 1)) return;
  const [{ id, type, function: called }] = message.tool_calls;
  findings.text('tool_calls[0].id', id);
  findings.same('tool_calls[0].type', type, 'function');
  findings.same('tool_calls[0].function.name', called?.name, 'book_stay');
  const given = parsed(called?.arguments);
  const where = 'tool_calls[0].function.arguments';
  if (findings.holds(where, called?.arguments, 'a JSON object', isObject(given))) fitsSchema(findings, where, given);
}

export function usage(findings, used) {
  const { prompt_tokens: prompt, completion_tokens: completion, total_tokens: total } = used ?? {};
  findings.count('usage.prompt_tokens', prompt, 1);
  findings.count('usage.completion_tokens', completion, 1);
  findings.same('usage.total_tokens', total, prompt + completion);
}

/** All that a reader of the message would see, thoughts among it. */
export const said = (message) =>
  [message?.reasoning ?? message?.reasoning_content, message?.content].filter(Boolean).join('\n');

function servedBy(headers) {
  const endpoint = headers.get('x-fairlead-endpoint');
  return endpoint ? `, by endpoint ${endpoint}, attempts: ${headers.get('x-fairlead-attempts')}` : '';
}
