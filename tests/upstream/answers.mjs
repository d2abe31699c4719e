// From a request to the answer that vLLM 0.32 would give: key, route, body, model, and then the route's own maker.
// The checks stand in vLLM's order, so a request that is wrong twice is refused for the same reason.

import { chat } from './chat.mjs';
import { completions } from './completions.mjs';
import { countTokens, messages, responses } from './dialects.mjs';
import {
  Refusal, brokenJson, failure, invalid, json, methodNotAllowed, missing, notAList, notAnObject, routeNotFound,
  unauthorized, unknownModel,
} from './errors.mjs';
import { formFields } from './form.mjs';
import { audio, classify, detokenize, embeddings, pooling, rerank, score, tokenize } from './tasks.mjs';
import { hex } from './tokens.mjs';

const DEFAULT_MODEL = 'Qwen/Qwen2.5-7B-Instruct';
// Everything else of vLLM is open to whoever reaches it.
const GUARDED = /^\/(v1|v2|inference)(\/|$)/;
const PREFLIGHT = {
  'access-control-allow-origin': '*',
  'access-control-allow-methods': 'DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT',
  'access-control-max-age': '600',
};

const route = (make, needs = [], lists = []) => ({ make, needs, lists });
const form = (make) => ({ ...route(make), form: true });
const reranking = route(rerank, ['query', 'documents']);

const POST = {
  '/v1/chat/completions': route(chat, ['messages'], ['messages']),
  '/v1/completions': route(completions, ['prompt']),
  '/v1/responses': route(responses, ['input']),
  '/v1/messages': { ...route(messages, ['messages', 'max_tokens'], ['messages']), anthropic: true },
  '/v1/messages/count_tokens': { ...route(countTokens, ['messages'], ['messages']), anthropic: true },
  '/v1/embeddings': route(embeddings),
  '/v1/audio/transcriptions': form(audio('trsc', 'transcription.chunk')),
  '/v1/audio/translations': form(audio('trsl', 'translation.chunk')),
  '/v1/score': route(score),
  '/score': route(score),
  '/v1/rerank': reranking,
  '/v2/rerank': reranking,
  '/rerank': reranking,
  '/pooling': route(pooling),
  '/classify': route(classify),
  '/tokenize': route(tokenize),
  '/detokenize': route(detokenize, ['tokens'], ['tokens']),
};

const GET = {
  '/health': ({ healthy }) => ({ status: healthy ? 200 : 503, type: null, body: Buffer.alloc(0) }),
  '/ping': (server) => GET['/health'](server),
  '/version': () => json(200, { version: '0.32.0' }),
  '/load': ({ load }) => json(200, { server_load: load }),
  '/v1/models': (server) => json(200, { object: 'list', data: aliases(server).map((name) => modelCard(name, server)) }),
};

/** Parses a body once, for the fault's choice and for the answer. Never throws: what is wrong with it is `refusal`. */
export function parse(request) {
  const type = request.headers['content-type'] ?? '';
  if (POST[request.path]?.form) return { body: formFields(type, request.body) };
  if (!/^application\/json\b/i.test(type)) {
    return { refusal: invalid("Unsupported Media Type: Only 'application/json' is allowed") };
  }
  try {
    const body = JSON.parse(request.body.toString());
    const isObject = typeof body === 'object' && body !== null && !Array.isArray(body);
    return isObject ? { body } : { refusal: notAnObject() };
  } catch (error) {
    const position = /position (\d+)/.exec(error.message)?.[1];
    return { refusal: brokenJson(position ?? request.body.length) };
  }
}

/**
 * @param request { method, path, headers, body }
 * @param parsed what parse() made of it
 * @param spec the fault's parameters and the sim field's options
 * @param server { models, maxModelLen, apiKey, healthy, load, created, id, isFaultModel }
 */
export function answer(request, parsed, spec, server) {
  const { method, path, headers } = request;
  if (method === 'OPTIONS' && headers.origin && headers['access-control-request-method']) return preflight(headers);
  if (server.apiKey && GUARDED.test(path) && headers.authorization !== `Bearer ${server.apiKey}`) return unauthorized();
  if (method === 'GET' && Object.hasOwn(GET, path)) return GET[path](server);
  if (Object.hasOwn(GET, path)) return methodNotAllowed('GET');
  if (!Object.hasOwn(POST, path)) return routeNotFound();
  if (method !== 'POST') return methodNotAllowed('POST');
  const { make, needs, lists, anthropic } = POST[path];
  try {
    if (parsed.refusal) throw parsed.refusal;
    const { body } = parsed;
    for (const field of needs) if (body[field] === undefined) throw missing(field, body);
    for (const field of lists) if (!Array.isArray(body[field])) throw notAList(field, body[field]);
    return make(body, { ...server, model: served(body.model, server), stepping: spec.stepping }, spec);
  } catch (error) {
    // Whatever else goes wrong while vLLM handles a request is an internal error.
    return error instanceof Refusal ? error.answer(anthropic) : failure(500, error.message, 'InternalServerError');
  }
}

/** Starlette's answer to a browser that asks before it calls. It comes before the key, which no preflight carries. */
function preflight({ 'access-control-request-headers': names }) {
  return {
    type: 'text/plain; charset=utf-8',
    body: Buffer.from('OK'),
    headers: { ...PREFLIGHT, ...(names && { 'access-control-allow-headers': names }) },
    cors: false, // these are all it says of origins
  };
}

const aliases = ({ models }) => (models.length > 0 ? models : [DEFAULT_MODEL]);

/** Without a list of models every name is served; a name that asks for a fault always is. */
function served(model, server) {
  if (!model) return aliases(server)[0];
  const known = server.models.length === 0 ? !model.startsWith('sim-') : server.models.includes(model);
  if (!known && !server.isFaultModel(model)) throw unknownModel(model, aliases(server));
  return model;
}

function modelCard(name, { created, maxModelLen }) {
  return {
    id: name,
    object: 'model',
    created,
    owned_by: 'vllm',
    root: name,
    parent: null,
    max_model_len: maxModelLen,
    permission: [{
      id: `modelperm-${hex(name)}`,
      object: 'model_permission',
      created,
      allow_create_engine: false,
      allow_sampling: true,
      allow_logprobs: true,
      allow_search_indices: false,
      allow_view: true,
      allow_fine_tuning: false,
      organization: '*',
      group: null,
      is_blocking: false,
    }],
  };
}
