// Which fault and which options each request gets: by script, by the request's own body, or by its model's name.

import { Refusal } from './errors.mjs';
import { FAULTS, isFault } from './faults.mjs';

const TOKENIZER = new Set(['/tokenize', '/detokenize']);
const GENERATING = new Set(['/v1/chat/completions', '/v1/completions', '/v1/responses', '/v1/messages']);

/** Asked in passing, between the attempts of a call, so no attempt's fault is meant for it. */
export const isTokenizers = ({ path }) => TOKENIZER.has(path);

export const faultOf = (model) => (typeof model === 'string' && model.startsWith('sim-') ? model.slice(4) : undefined);

export class Choice {
  #options;
  #script = [];
  #standing = { fault: 'ok' };
  #tokenizer = { fault: 'ok' };
  #answers = 0;

  /** @param options tokenMs, firstTokenMs, maxMs, slowTail, defaults and faultless; see vllm.mjs */
  constructor(options) {
    if (options.defaults.fault !== undefined) throw new TypeError('defaults have no fault: set `fault` instead');
    this.#options = options;
  }

  get standing() {
    return this.#standing;
  }

  set standing(entry) {
    this.#standing = named(entry);
  }

  get tokenizer() {
    return this.#tokenizer;
  }

  set tokenizer(entry) {
    this.#tokenizer = named(entry);
  }

  script(entries) {
    this.#script.push(...entries.map(named));
  }

  /**
   * The fault and all options of one request: programmatic beats body beats model, and each beats the defaults.
   * @param attempt tells how many attempts of the same call came before
   */
  of({ method, path }, body, attempt) {
    const { tokenMs, firstTokenMs, maxMs, defaults, faultless } = this.#options;
    const usual = { tokenMs, firstTokenMs, maxMs, ...defaults };
    if (method !== 'POST') return { ...usual, fault: 'ok' };
    const asked = (!faultless && body) || {};
    const sim = Array.isArray(asked.sim) ? asked.sim[attempt()] : asked.sim;
    const own = sim ? named(sim) : {};
    const chosen = TOKENIZER.has(path)
      ? { fault: 'ok', ...own, ...set(this.#tokenizer) }
      : { fault: 'ok', ...byModel(asked.model), ...own, ...(this.#script.shift() ?? set(this.#standing)) };
    return { ...usual, ...this.#tail(path), ...FAULTS[chosen.fault].params, ...chosen };
  }

  #tail(path) {
    const { slowTail } = this.#options;
    if (!GENERATING.has(path)) return {};
    this.#answers += 1;
    return slowTail && this.#answers % slowTail.every === 0 ? { firstTokenMs: slowTail.firstTokenMs } : {};
  }
}

const byModel = (model) => (isFault(faultOf(model)) ? { fault: faultOf(model) } : {});

/** That nothing is to fail does not keep a request from asking for a fault. */
function set({ fault, ...options }) {
  return fault === undefined || fault === 'ok' ? options : { fault, ...options };
}

/** Accepts a bare name, and refuses one that stands for nothing: a typo must not look like a success. */
function named(entry) {
  const spec = typeof entry === 'string' ? { fault: entry } : entry;
  if (spec.fault !== undefined && !isFault(spec.fault)) {
    throw new Refusal(400, `sim: there is no fault named ${spec.fault}`, 'BadRequestError', 'sim');
  }
  return spec;
}
