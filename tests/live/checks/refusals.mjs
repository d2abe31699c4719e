// What a server says to a request that is wrong. Statuses are what clients go by, so those must be right; a body in
// one of the other shapes that are in use is only noted.

import { Ended, isObject, skip, told } from '../findings.mjs';
import { GREETING } from './chat.mjs';

const WRONG_KEY = 'not-the-key';
/** Prompts beyond it take too long to send for what they show. */
const LONGEST_PROMPT = 300_000;

const messages = [{ role: 'user', content: GREETING }];

/** A request to the chat route that has this wrong. */
const wrong = (name, statuses, body) => ({
  name: `refusal: ${name}`,
  async run(server, findings) {
    refused(findings, await server.post('/chat/completions', body(server)), statuses);
  },
});

export const refusals = [
  {
    name: 'refusal: a wrong key',
    async run(server, findings) {
      const body = server.chatBody(GREETING, { max_tokens: 1 });
      const answer = await server.post('/chat/completions', body, { key: WRONG_KEY });
      if (answer.status === 200) throw new Ended('not offered', 'every key is taken');
      refused(findings, answer, [401]);
    },
  },
  wrong('an unknown model', [404], ({ model }) => ({ model: `${model}-that-nobody-has`, messages, max_tokens: 1 })),
  wrong('broken JSON', [400], () => '{"model": '),
  wrong('JSON that is no object', [400, 422], () => '[]'),
  wrong('no messages', [400, 422], ({ model }) => ({ model })),
  wrong('messages that are no list', [400, 422], ({ model }) => ({ model, messages: 'hello' })),
  wrong('no choices wanted', [400, 422], ({ model }) => ({ model, messages, n: 0 })),
  {
    name: 'refusal: a prompt that is too long',
    async run(server, findings) {
      const { json } = await server.get('/models');
      const limit = json?.data?.find?.(({ id }) => id === server.model)?.max_model_len;
      if (!Number.isInteger(limit)) skip('/models does not tell the longest prompt');
      if (limit > LONGEST_PROMPT) skip(`it takes ${limit} tokens`);
      refused(findings, await server.chat('no '.repeat(limit + 1), { max_tokens: 1 }), [400]);
    },
  },
  {
    name: 'refusal: a method that the route does not take',
    async run(server, findings) {
      refused(findings, await server.get('/chat/completions'), [405]);
    },
  },
  {
    name: 'refusal: a route that is none',
    async run(server, findings) {
      refused(findings, await server.post('/nothing/at/all', {}), [404]);
    },
  },
];

function refused(findings, { status, json }, statuses) {
  findings.oneOf('status', status, statuses);
  if (status >= 200 && status < 300) return;
  if (!findings.holds('body', json, 'a JSON object', isObject(json))) return;
  const { error } = json;
  if (isObject(error)) {
    findings.text('error.message', error.message);
    const missing = ['type', 'param', 'code'].filter((field) => !(field in error));
    if (missing.length > 0) findings.note(`the error has no ${missing.join(', ')}`);
  } else if (typeof error === 'string' || json.object === 'error' || 'detail' in json) {
    findings.note(`the error has a shape of its own, with ${Object.keys(json).join(', ')}`);
  } else {
    findings.differs('error', 'an object with message, type, param, code', told(error));
  }
}
