// Chats that stream: what every client of a stream builds on.

import { offered, told } from '../findings.mjs';
import { isEventStream } from '../server.mjs';
import {
  COUNTING, GREETING, LONG, REPEATABLE, TOOL_CALL, TOOL_PROMPT, said, toolCall, usage,
} from './chat.mjs';

export const streams = [
  {
    name: 'stream: a chat',
    async run(server, findings) {
      const { events, texts } = await chatStream(server, findings, COUNTING);
      const [first] = events;
      findings.same('object of the first event', first.json?.object, 'chat.completion.chunk');
      findings.same('role of the first event', first.json?.choices?.[0]?.delta?.role, 'assistant');
      findings.text('all content together', texts.get(0));
      const ids = new Set(events.filter(({ json }) => json).map(({ json }) => json.id));
      findings.holds('id', [...ids], 'the same in every event', ids.size === 1);
      pace(findings, events);
    },
  },
  {
    name: 'stream: usage on demand',
    async run(server, findings) {
      const { events } = await chatStream(server, findings, GREETING, { stream_options: { include_usage: true } });
      const chunks = events.filter(({ json }) => json);
      const { json: last } = chunks.at(-1);
      findings.list('choices of the last chunk', last.choices, 0);
      usage(findings, last.usage);
      const early = chunks.slice(0, -1).find(({ json }) => json.usage);
      if (early) findings.note('chunks before the last have usage, too');
    },
  },
  {
    name: 'stream: the text of the whole answer',
    async run(server, findings) {
      const whole = said(findings.answered(await server.chat(GREETING, REPEATABLE)).choices[0].message);
      const { texts } = await chatStream(server, findings, GREETING, REPEATABLE);
      const streamed = texts.get(0);
      if (streamed.replace(/\s/g, '') === whole.replace(/\s/g, '')) return;
      const at = [...whole].findIndex((character, place) => character !== streamed[place]);
      findings.note(`differs from the whole answer from character ${at} on; models may vary`);
    },
  },
  {
    name: 'stream: several choices',
    async run(server, findings) {
      const several = { choices: 2, lacks: [400] };
      const { texts } = await chatStream(server, findings, GREETING, { n: 2, temperature: 1 }, several);
      for (const index of [0, 1]) findings.text(`all content of choice ${index} together`, texts.get(index));
    },
  },
  {
    name: 'stream: max_tokens ends it',
    async run(server, findings) {
      const { reasons } = await chatStream(server, findings, COUNTING, { max_tokens: 5 });
      findings.same('finish_reason', reasons.get(0)?.[0], 'length');
    },
  },
  {
    name: 'stream: a forced tool call, put together by OpenAI’s client',
    async run(server, findings) {
      const body = server.chatBody(TOOL_PROMPT, { ...LONG, ...TOOL_CALL });
      const completion = await server.client.chat.completions.stream(body).finalChatCompletion().catch((error) => {
        if (error.status !== undefined) offered(error, [400]);
        throw error;
      });
      toolCall(findings, completion.choices[0]);
    },
  },
  {
    name: 'stream: one that is broken off harms nobody',
    async run(server, findings) {
      const leave = new AbortController();
      const body = { ...server.chatBody(COUNTING, LONG), stream: true };
      const response = await server.open('POST', '/chat/completions', { body, signal: leave.signal });
      findings.same('status', response.status, 200);
      findings.stopIfDifferent();
      const reader = response.body.getReader();
      await reader.read();
      leave.abort();
      await reader.read().catch(() => {}); // the abort, as it should be
      const { status, ms } = await server.chat(GREETING, { max_tokens: 5 });
      findings.same('status of the next request', status, 200);
      findings.note(`the next request took ${Math.round(ms)} ms`);
    },
  },
];

/** A chat's stream that has kept every rule, or the check ends here. */
async function chatStream(server, findings, prompt, more, { choices = 1, lacks } = {}) {
  const answer = await server.stream('/chat/completions', server.chatBody(prompt, more));
  if (lacks) offered(answer, lacks);
  return choiceStream(findings, answer, choices, ({ delta }) => said(delta));
}

/**
 * The rules of chat and completions streams: events of JSON, one finish_reason for each choice, nothing behind it,
 * `[DONE]` once and last. Gives the events, and by choice its text and its finish reasons.
 */
export function choiceStream(findings, answer, choices, textOf) {
  const events = eventStream(findings, answer);
  const texts = new Map();
  const reasons = new Map();
  let late = 0;
  for (const { json } of events) {
    for (const choice of json?.choices ?? []) {
      const { index = 0, finish_reason: reason } = choice;
      const text = textOf(choice);
      if (text && reasons.has(index)) late += 1;
      texts.set(index, (texts.get(index) ?? '') + text);
      if (reason) reasons.set(index, [...(reasons.get(index) ?? []), reason]);
    }
  }
  const indices = (map) => [...map.keys()].sort().join() || undefined;
  const wanted = Array.from({ length: choices }, (_, index) => index).join();
  findings.same('indices of the choices', indices(texts), wanted);
  findings.same('choices that have a finish_reason', indices(reasons), wanted);
  for (const [index, all] of reasons) findings.same(`finish_reasons of choice ${index}`, all.length, 1);
  findings.same('contents behind their finish_reason', late, 0);
  const dones = events.filter(({ data }) => data === '[DONE]').length;
  findings.holds('[DONE]', dones, 'once', dones === 1);
  if (dones > 0) findings.holds('the last event', events.at(-1).json, '[DONE]', events.at(-1).data === '[DONE]');
  const odd = events.find(({ data, json }) => json === undefined && data !== '[DONE]');
  if (odd) findings.differs(`event ${events.indexOf(odd)}`, 'JSON', told(odd.data));
  findings.stopIfDifferent();
  return { events, texts, reasons };
}

/** The events of a stream of any dialect, if it is one and holds no error. */
export function eventStream(findings, answer) {
  findings.same('status', answer.status, 200);
  if (answer.status === 200) findings.holds('content-type', answer.type, 'text/event-stream', isEventStream(answer));
  findings.stopIfDifferent();
  const { events, flaw } = answer;
  if (flaw) findings.differs('the stream', 'a clean end', flaw);
  const failed = events.find(({ name, json }) => name === 'error' || json?.error || json?.type === 'error');
  const kind = failed?.json?.error?.code ?? failed?.json?.error?.type ?? failed?.json?.code;
  if (failed) findings.differs(`event ${events.indexOf(failed)}`, 'no error', `an error, ${told(kind)}`);
  findings.holds('events', events.length, 'at least 1', events.length > 0);
  if (events.length === 0) findings.stopIfDifferent();
  return events;
}

/** How fast, for information: no server is judged by it. */
function pace(findings, events) {
  const contents = events.filter(({ json }) => said(json?.choices?.[0]?.delta));
  if (contents.length < 2) return;
  const [first, last] = [contents[0].ms, contents.at(-1).ms];
  const more = contents.length - 1;
  const each = ((last - first) / more).toFixed(1);
  findings.note(`first content after ${Math.round(first)} ms, then ${more} more events, one in ${each} ms`);
}
