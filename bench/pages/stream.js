// Runs in the page of the bench: clients that read the same stream, each in its own way, and give the text that it had.
// bench/package.mjs says who they are.

import { createParser } from 'eventsource-parser';
import OpenAI from 'openai';
import { Fairlead } from 'fairlead';

const REQUEST = { model: 'Qwen/Qwen2.5-7B-Instruct', messages: [{ role: 'user', content: 'Hi' }], stream: true };

/** What each makes of a `fetch`: a way to ask for the stream and read it. */
const READERS = {
  reads: (fetch, { url }) => async () => {
    const reader = (await fetch(url, post())).body.getReader();
    let reads = 0;
    while (!(await reader.read()).done) reads += 1;
    return reads;
  },
  parser: (fetch, { url }) => async () => {
    let text = '';
    const parser = createParser({
      onEvent({ data }) {
        if (data !== '[DONE]') text += contentOf(JSON.parse(data));
      },
    });
    const reader = (await fetch(url, post())).body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text;
      parser.feed(decoder.decode(value, { stream: true }));
    }
  },
  openai: (fetch, { baseURL }) => chunks(openai(baseURL, fetch)),
  fairlead: (fetch, { baseURL }) => chunks(fairlead(baseURL, fetch)),
  'events()': (fetch, { baseURL }) => {
    const ai = fairlead(baseURL, fetch);
    return async () => {
      let text = '';
      const stream = await ai.chat.completions.create(REQUEST);
      for await (const event of stream.events()) if (event.type === 'content') text += event.text;
      return text;
    };
  },
  'ai.fetch': (fetch, { baseURL }) => chunks(openai(baseURL, fairlead(baseURL, fetch).fetch)),
};

const post = () => ({
  method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(REQUEST),
});
const openai = (baseURL, fetch) => new OpenAI({ baseURL, fetch, apiKey: 'any', dangerouslyAllowBrowser: true });
const fairlead = (baseURL, fetch) => new Fairlead({ baseURL, fetch, apiKey: 'any' });
const contentOf = ({ choices: [choice] }) => choice?.delta.content ?? '';

const chunks = (client) => async () => {
  let text = '';
  for await (const chunk of await client.chat.completions.create(REQUEST)) text += contentOf(chunk);
  return text;
};

/** A `fetch` whose answer is all there, so that nothing is measured but who reads it. */
const prepared = (writes) => async () => {
  const body = new ReadableStream({
    start(controller) {
      for (const write of writes) controller.enqueue(write);
      controller.close();
    },
  });
  return new Response(body, { headers: { 'content-type': 'text/event-stream; charset=utf-8' } });
};

const feeds = {};

/** Makes the clients ready for one feed: the writes of a stream, or where it is to be had. */
globalThis.prepare = (feed, { writes, base }) => {
  const encoder = new TextEncoder();
  const fetch = writes ? prepared(writes.map((text) => encoder.encode(text))) : (url, init) => globalThis.fetch(url, init);
  const baseURL = `${location.origin}${base}/v1`;
  const at = { baseURL, url: `${baseURL}/chat/completions` };
  feeds[feed] = Object.fromEntries(Object.entries(READERS).map(([name, make]) => [name, make(fetch, at)]));
};

/** So many streams, one behind another: what the last of them gave. */
globalThis.read = async (feed, name, count) => {
  let given;
  for (let at = 0; at < count; at += 1) given = await feeds[feed][name]();
  return given;
};
