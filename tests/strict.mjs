// Holds a chat's or completion's stream, as a client got it, to everything that a stream has to keep. It knows nothing
// of who wrote it: what comes out of a gateway is judged as what comes out of vLLM.

const CHAT = 'chat.completion.chunk';
const OBJECTS = new Set([CHAT, 'text_completion']);

/**
 * @param {Uint8Array | string} bytes the body, without the framing of its transfer
 * @param {object} [expected]
 * @param {boolean | 'running' | 'unknown' | 'running, then unknown'} [expected.usage] true: a last chunk says it;
 *   'running': every chunk does as well; 'unknown': the last chunk is there, and its usage is null, and 'running, then
 *   unknown': those before it say theirs, except at most the finish; false, as without it: none says any
 * @param {number} [expected.choices] how many there are: 1
 * @param {boolean} [expected.interrupted] the stream ends in an error event, and only there: no [DONE], no usage
 * @returns {Strict} text, reasoning, toolCalls, finishReason and stopReason of the first choice; `choices` with those
 *   of each; id, created, model, object, usage, comments, chunks (parsed), fairlead (of the last chunk that has one);
 *   error, where it was interrupted
 * @throws {Error} which says what is wrong with which event
 */
export function strict(bytes, expected) {
  const stream = new Strict(expected);
  let number = 1;
  try {
    for (const item of itemsIn(bytes)) {
      stream.take(item);
      if (item.comment === undefined) number += 1;
    }
    stream.end();
  } catch (error) {
    error.message = `event ${number}: ${error.message}`;
    throw error;
  }
  return stream;
}

function must(holds, what) {
  if (!holds) throw new Error(what);
}

/** The events and comments of a stream, as the standard on server-sent events cuts them. */
function* itemsIn(bytes) {
  const raw = typeof bytes === 'string' ? Buffer.from(bytes) : bytes;
  const text = new TextDecoder('utf-8', { fatal: true }).decode(raw); // drops the byte order mark
  const lines = text.split(/\r\n|\n|\r/);
  const rest = lines.pop();
  let data = null;
  for (const line of lines) {
    const colon = line.indexOf(':');
    const [field, value] = colon < 0 ? [line, ''] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, '')];
    if (line === '') {
      if (data !== null) yield { data: data.join('\n') };
      data = null;
    } else if (colon === 0) {
      must(data === null, 'a comment inside an event');
      yield { comment: value };
    } else {
      must(field === 'data', `the field ${JSON.stringify(field)}, which this dialect does not have`);
      data = [...(data ?? []), value];
    }
  }
  must(rest === '' && data === null, 'it ends inside an event');
}

class Strict {
  id;
  created;
  model;
  object;
  usage = null;
  comments = [];
  chunks = [];
  fairlead = null;
  error = null;
  choices;
  #expected;
  #done = false;
  #usageSaid = false;
  #running = [];

  constructor({ usage = false, choices = 1, interrupted = false } = {}) {
    this.#expected = { usage, interrupted };
    this.choices = Array.from({ length: choices }, (_, index) => new Choice(index));
  }

  get text() {
    return this.choices[0].text;
  }

  get reasoning() {
    return this.choices[0].reasoning;
  }

  get toolCalls() {
    return this.choices[0].toolCalls;
  }

  get finishReason() {
    return this.choices[0].finishReason;
  }

  get stopReason() {
    return this.choices[0].stopReason;
  }

  take({ comment, data }) {
    must(!this.#done, 'something behind [DONE]');
    must(!this.error, 'something behind an error');
    if (comment !== undefined) this.comments.push(comment);
    else if (data === '[DONE]') this.#finish();
    else this.#chunk(parsed(data));
  }

  end() {
    if (this.#expected.interrupted) must(this.error, 'it ends without the error that was expected');
    else must(this.#done, 'it ends without [DONE]');
    for (const choice of this.choices) must(choice.text.isWellFormed(), 'half a character in the text');
  }

  #finish() {
    must(!this.#expected.interrupted, '[DONE] where an error was expected');
    this.#mustHaveFinished('[DONE]');
    must(this.#usageSaid || !this.#expected.usage, '[DONE] without a usage before it');
    this.#done = true;
  }

  #mustHaveFinished(what) {
    for (const { index, finishReason } of this.choices) {
      must(finishReason, `${what}, and choice ${index} has not finished`);
    }
  }

  #chunk(chunk) {
    if (chunk.error !== undefined) {
      must(this.#expected.interrupted, `an error: ${JSON.stringify(chunk.error)}`);
      must(typeof chunk.error?.message === 'string', 'an error without a message');
      this.error = chunk.error;
      return;
    }
    this.#envelope(chunk);
    this.chunks.push(chunk);
    this.fairlead = chunk.fairlead ?? this.fairlead;
    must(!this.#usageSaid, 'a chunk behind the usage');
    must(Array.isArray(chunk.choices), 'a chunk without a list of choices');
    if (chunk.choices.length === 0) return this.#lastUsage(chunk.usage);
    for (const part of chunk.choices) {
      must(this.choices[part.index], `a choice with index ${part.index}`);
      this.choices[part.index].take(part, this.object === CHAT);
    }
    return this.#usageSoFar(chunk);
  }

  #envelope({ id, created, model, object }) {
    must(typeof id === 'string' && id, 'a chunk without id');
    must(Number.isInteger(created), 'a chunk without created');
    must(typeof model === 'string' && model, 'a chunk without model');
    must(OBJECTS.has(object), `the object ${JSON.stringify(object)}`);
    const seen = { id, created, model, object };
    for (const [field, value] of Object.entries(seen)) {
      this[field] ??= value;
      must(value === this[field], `a second ${field}: ${JSON.stringify(this[field])}, then ${JSON.stringify(value)}`);
    }
  }

  #lastUsage(usage) {
    const { usage: expected, interrupted } = this.#expected;
    this.#mustHaveFinished('the usage');
    must(expected && !interrupted, 'a chunk without choices, and no usage was asked for');
    this.#usageSaid = true;
    if (expected.endsWith?.('unknown')) return must(usage === null, 'a usage that nobody can know');
    mustAddUp(usage);
    for (const before of this.#running) mustGoOn(before, usage);
    this.usage = usage;
    return undefined;
  }

  #usageSoFar({ usage, choices: [{ index, finish_reason: finish }] }) {
    const { usage: expected } = this.#expected;
    if (expected === 'running, then unknown' && finish && usage === undefined) return undefined;
    if (!expected.startsWith?.('running')) {
      return must(usage === undefined || usage === null, 'a usage before the last chunk');
    }
    mustAddUp(usage);
    if (this.#running[index]) mustGoOn(this.#running[index], usage);
    this.#running[index] = usage;
    return undefined;
  }
}

class Choice {
  text = '';
  reasoning = '';
  toolCalls = [];
  finishReason = null;
  stopReason = null;
  #role = null;

  constructor(index) {
    this.index = index;
  }

  take(part, isChat) {
    must(!this.finishReason, `more of choice ${this.index} behind its finish_reason`);
    if (isChat) this.#delta(part.delta);
    else this.#add('text', part.text);
    const { finish_reason: reason } = part;
    must(reason === null || reason === undefined || (typeof reason === 'string' && reason),
      `the finish_reason ${JSON.stringify(reason)}`);
    if (!reason) return;
    this.finishReason = reason;
    this.stopReason = part.stop_reason ?? null;
    if (reason === 'tool_calls') for (const call of this.toolCalls) parsed(call.function.arguments);
  }

  #delta(delta) {
    must(typeof delta === 'object' && delta !== null, 'a choice without a delta');
    const { role, content, tool_calls: calls } = delta;
    if (role !== undefined && role !== null) {
      must(this.#role === null, `a second role of choice ${this.index}`);
      must(role === 'assistant', `the role ${JSON.stringify(role)}`);
      this.#role = role;
    }
    must(this.#role, `choice ${this.index} begins without a role`);
    if (content !== undefined && content !== null) this.#add('text', content);
    const thought = delta.reasoning ?? delta.reasoning_content;
    if (thought !== undefined && thought !== null) this.#add('reasoning', thought);
    for (const call of calls ?? []) this.#call(call);
  }

  #add(field, value) {
    must(typeof value === 'string', `a ${field} that is ${JSON.stringify(value)}`);
    this[field] += value;
  }

  #call({ index, id, type, function: part }) {
    const begun = this.toolCalls[index];
    if (begun) {
      must(!id || id === begun.id, `a second id of tool call ${index}`);
      begun.function.arguments += part?.arguments ?? '';
    } else {
      must(index === this.toolCalls.length, `tool call ${index} behind number ${this.toolCalls.length - 1}`);
      must(id && part?.name, `tool call ${index} begins without id or name`);
      this.toolCalls[index] = { id, type, function: { name: part.name, arguments: part.arguments ?? '' } };
    }
  }
}

function parsed(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error(`not JSON: ${text.slice(0, 200)}`);
  }
  must(typeof value === 'object' && value !== null && !Array.isArray(value), `not an object: ${text.slice(0, 200)}`);
  return value;
}

function mustAddUp(usage) {
  const counts = ['prompt_tokens', 'completion_tokens', 'total_tokens'].map((field) => usage?.[field]);
  must(counts.every((count) => Number.isInteger(count) && count >= 0), `the usage ${JSON.stringify(usage)}`);
  const [prompt, completion, total] = counts;
  must(prompt + completion === total, `a usage that does not add up: ${JSON.stringify(usage)}`);
}

function mustGoOn(before, usage) {
  must(usage.prompt_tokens === before.prompt_tokens, 'the number of prompt tokens changes');
  must(usage.completion_tokens >= before.completion_tokens, 'the number of completion tokens goes down');
}
