// The other routes that an OpenAI-compatible server may have. Few have them all.

import { offered } from '../findings.mjs';
import { COUNTING, GREETING, usage } from './chat.mjs';
import { choiceStream, eventStream } from './streams.mjs';

const BRIEF = { max_tokens: 16 };
/** A model that chats is rarely one that embeds, and servers differ in how they say so. */
const NO_EMBEDDINGS = [400, 422, 500];

export const dialects = [
  {
    name: 'completions: a whole answer',
    async run(server, findings) {
      const answer = await server.post('/completions', { model: server.model, prompt: COUNTING, ...BRIEF });
      offered(answer);
      const completion = findings.answered(answer);
      findings.same('object', completion.object, 'text_completion');
      if (findings.list('choices', completion.choices, 1)) {
        findings.text('choices[0].text', completion.choices[0].text);
        findings.oneOf('choices[0].finish_reason', completion.choices[0].finish_reason, ['stop', 'length']);
      }
      usage(findings, completion.usage);
    },
  },
  {
    name: 'completions: several prompts, streamed',
    async run(server, findings) {
      const body = { model: server.model, prompt: [COUNTING, GREETING], ...BRIEF };
      const answer = await server.stream('/completions', body);
      offered(answer);
      choiceStream(findings, answer, 2, ({ text }) => text ?? '');
    },
  },
  {
    name: 'embeddings: as numbers',
    async run(server, findings) {
      const input = ['rope', 'line'];
      const answer = await server.post('/embeddings', { model: server.model, input, encoding_format: 'float' });
      offered(answer, NO_EMBEDDINGS);
      const { object, data } = findings.answered(answer);
      findings.same('object', object, 'list');
      if (!findings.list('data', data, 2)) return;
      findings.same('data[].index', data.map(({ index }) => index).join(), '0,1');
      const isVector = ({ embedding }) => Array.isArray(embedding) && embedding.every(Number.isFinite);
      findings.holds('data[].embedding', data[0].embedding, 'lists of numbers', data.every(isVector));
      findings.same('length of the second', data[1].embedding?.length, data[0].embedding?.length);
    },
  },
  {
    name: 'embeddings: as OpenAI’s client asks for them',
    async run(server, findings) {
      const { data } = await server.client.embeddings.create({ model: server.model, input: 'rope' }).catch((error) => {
        if (error.status !== undefined) offered(error, NO_EMBEDDINGS);
        throw error;
      });
      findings.list('data', data, 1);
      findings.list('data[0].embedding', data[0]?.embedding);
    },
  },
  {
    name: 'responses: a whole answer',
    async run(server, findings) {
      const answer = await server.post('/responses', { model: server.model, input: GREETING, max_output_tokens: 64 });
      offered(answer);
      const response = findings.answered(answer);
      findings.same('object', response.object, 'response');
      findings.oneOf('status of the response', response.status, ['completed', 'incomplete']);
      findings.list('output', response.output);
      findings.count('usage.input_tokens', response.usage?.input_tokens, 1);
      findings.count('usage.output_tokens', response.usage?.output_tokens, 1);
    },
  },
  {
    name: 'responses: a stream',
    async run(server, findings) {
      const answer = await server.stream('/responses', { model: server.model, input: GREETING, max_output_tokens: 64 });
      offered(answer);
      const events = named(findings, eventStream(findings, answer));
      findings.same('type of the first event', events[0].json?.type, 'response.created');
      findings.oneOf('type of the last event', events.at(-1).json?.type, ['response.completed', 'response.incomplete']);
      const numbers = events.map(({ json }) => json?.sequence_number);
      const rising = numbers.every((number, at) => at === 0 || number > numbers[at - 1]);
      findings.holds('sequence_number', numbers, 'one that rises with every event', rising);
      const joined = joinedBy(events, 'response.output_text.delta', ({ delta }) => delta);
      const done = joinedBy(events, 'response.output_text.done', ({ text }) => text);
      findings.holds('all deltas together', joined, 'the text that the end repeats', joined === done);
    },
  },
  {
    name: 'messages: a whole answer',
    async run(server, findings) {
      const answer = await server.post('/messages', messagesBody(server), { headers: server.anthropic });
      offered(answer);
      const message = findings.answered(answer);
      findings.same('type', message.type, 'message');
      findings.same('role', message.role, 'assistant');
      findings.list('content', message.content);
      findings.oneOf('stop_reason', message.stop_reason, ['end_turn', 'max_tokens']);
      findings.count('usage.input_tokens', message.usage?.input_tokens, 1);
      findings.count('usage.output_tokens', message.usage?.output_tokens, 1);
    },
  },
  {
    name: 'messages: a stream',
    async run(server, findings) {
      const answer = await server.stream('/messages', messagesBody(server), { headers: server.anthropic });
      offered(answer);
      const events = named(findings, eventStream(findings, answer));
      findings.same('type of the first event', events[0].json?.type, 'message_start');
      findings.same('type of the last event', events.at(-1).json?.type, 'message_stop');
      const count = (type) => events.filter(({ json }) => json?.type === type).length;
      findings.count('content_block_start events', count('content_block_start'), 1);
      findings.same('content_block_stop events', count('content_block_stop'), count('content_block_start'));
      const told = events.find(({ json }) => json?.type === 'message_delta')?.json;
      findings.oneOf('stop_reason', told?.delta?.stop_reason, ['end_turn', 'max_tokens']);
    },
  },
  {
    name: 'messages: counting tokens',
    async run(server, findings) {
      const { max_tokens: _, ...body } = messagesBody(server);
      const answer = await server.post('/messages/count_tokens', body, { headers: server.anthropic });
      offered(answer);
      findings.count('input_tokens', findings.answered(answer).input_tokens, 1);
    },
  },
];

const messagesBody = ({ model }) => ({ model, max_tokens: 64, messages: [{ role: 'user', content: GREETING }] });

/** The events of an API that names them: each name is repeated in its JSON. A `[DONE]`, as some add, is noted. */
function named(findings, events) {
  const all = events.filter(({ data }) => data !== '[DONE]');
  if (all.length < events.length) findings.note('a [DONE], which this API does not have');
  const odd = all.find(({ name, json }) => json?.type === undefined || name !== json.type);
  findings.holds('name of every event', odd?.name, 'the type in its JSON', odd === undefined);
  findings.holds('events', all.length, 'at least 1', all.length > 0);
  if (all.length === 0) findings.stopIfDifferent();
  return all;
}

const joinedBy = (events, type, textOf) =>
  events.filter(({ json }) => json?.type === type).map(({ json }) => textOf(json)).join('');
