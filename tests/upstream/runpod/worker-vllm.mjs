// worker-vllm since v2.24.0: a proxy in front of `vllm serve`. What it takes, what it yields and how it words an error
// is from its src/handler.py at 7a92503.
//
// Behind it runs the simulated vLLM, with all its faults: a `sim` field in the OpenAI body reaches it.

import http from 'node:http';
import { cutBytes, decodePieces } from './cuts.mjs';

// Characters of two to four bytes, and some that are made of several.
const EMOJI = 'Boats ⛵ moor 🪢, flags 🏴‍☠️ wave, crews 👩🏽‍✈️👨‍👩‍👧‍👦 cheer, naïve 漁船 drift. 🌊🌊🌊';

/**
 * @param vllm a simulated vLLM
 * @param options `seed` and `pieceBytes` (0: as the bytes arrive) say where the stream is cut into outputs
 */
export function workerVllm(vllm, { seed, pieceBytes }) {
  return {
    generator: true,
    aggregate: true,
    concurrency: 30,
    async* run(input, { signal, job }) {
      const request = requestFor(input);
      if (request.error) {
        yield workerError(request.error);
        return;
      }
      try {
        const response = await fetchFrom(vllm, request, signal);
        if (response.statusCode >= 400) {
          yield workerError(`vLLM returned HTTP ${response.statusCode}: ${await textOf(response)}`);
        } else if (request.body?.stream === true) {
          const mangle = job.behaviour.mangle === true;
          yield* decodePieces(cutBytes(response, { seed, pieceBytes, mangle }), { mangle });
        } else {
          yield JSON.parse(await textOf(response));
        }
      } catch (error) {
        if (signal.aborted) return;
        yield workerError(`Request to vLLM failed: ${error.message}`);
      }
    },
  };
}

const workerError = (message) => ({ error: { message, type: 'worker_error', code: null } });

/** The three shapes of an input. A route without a body is a GET. */
function requestFor(input) {
  const { openai_route: openaiRoute, openai_input: openaiInput, route, body, method, messages, prompt } = input;
  if (openaiInput) return post(openaiRoute ?? '/v1/chat/completions', openaiInput);
  if (openaiRoute) return { path: openaiRoute, method: 'GET' };
  if (route) return { ...post(route, body), method: (method ?? (body ? 'POST' : 'GET')).toUpperCase() };
  const native = { ...input.sampling_params, stream: Boolean(input.stream) };
  if (messages) return post('/v1/chat/completions', { ...native, messages });
  if (prompt) return post('/v1/completions', { ...native, prompt });
  return {
    error: 'Job input must contain one of: openai_input (+openai_route), route (+body), or prompt/messages.',
  };
}

const post = (path, body) => ({ path, method: 'POST', body });

/** A prompt that speaks of emoji is answered with some, unless its `sim` field knows better. */
export function withEmoji(body) {
  if (!body || body.sim !== undefined) return body;
  const asked = JSON.stringify([body.messages, body.prompt, body.input]);
  return /emoji/i.test(asked) ? { ...body, sim: { text: EMOJI } } : body;
}

/** Each request has a connection of its own: vLLM closes idle ones, and a race for one would look like a fault. */
export function fetchFrom(vllm, { path, method, body }, signal) {
  return new Promise((resolve, reject) => {
    const request = http.request(vllm.url + path, {
      method, signal, agent: false, headers: { 'content-type': 'application/json' },
    }, resolve);
    request.on('error', reject);
    request.end(body === undefined ? undefined : JSON.stringify(withEmoji(body)));
  });
}

export async function textOf(response) {
  const chunks = [];
  for await (const chunk of response) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}
