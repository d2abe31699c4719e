// Going on where an answer broke off: what a request says was said already, and what the model says behind it.

import { Refusal, invalid } from './errors.mjs';
import { DEFAULT_TEXT, hex, pieces, repeated, textOf } from './tokens.mjs';

// What Python's str.rstrip() takes away, which is neither what JavaScript's trimEnd() does nor Rust's trim_end().
const WHITE_SPACE_AT_END = /(?:(?!\ufeff)[\s\x1c-\x1f\x85])+$/;

const NOT_WITH_PROMPT = 'continue_final_message and add_generation_prompt are not compatible. Use '
  + 'continue_final_message when you want the model to continue the final message, and add_generation_prompt when you '
  + 'want to add a header that will prompt it to start a new assistant message instead.';
const NOTHING_TO_CONTINUE =
  'continue_final_message is set but we could not find any text to continue in the final message!';

/**
 * What the chat template makes of the messages: the role that speaks, the texts that the prompt consists of, and the
 * part of the answer that stands in the last of them.
 */
export function conversation(body, spec) {
  const goesOn = body.continue_final_message === true && spec.continues !== 'ignored';
  if (goesOn) checkContinuation(body, spec);
  const texts = body.messages.map((message) => textOf(message?.content));
  if (goesOn && spec.trims) texts.push(texts.pop().replace(WHITE_SPACE_AT_END, ''));
  return {
    role: (body.add_generation_prompt === false && body.messages.at(-1)?.role) || 'assistant',
    texts,
    partial: goesOn ? texts.at(-1) : '',
  };
}

function checkContinuation(body, { continues }) {
  if (continues === false) {
    throw invalid({
      type: 'extra_forbidden', loc: 'body.continue_final_message', msg: 'Extra inputs are not permitted', input: true,
    });
  }
  // vLLM's own check sees only what was sent; the template's sees the default too, which is true.
  if (body.add_generation_prompt) {
    throw invalid({
      type: 'value_error', loc: 'body',
      msg: 'Value error, Cannot set both `continue_final_message` and `add_generation_prompt` to True.',
    });
  }
  if (body.add_generation_prompt !== false) throw new Refusal(400, NOT_WITH_PROMPT, 'BadRequestError');
  const content = body.messages.at(-1)?.content;
  const hasText = typeof content === 'string'
    || (Array.isArray(content) && content.some((part) => typeof part?.text === 'string'));
  if (!hasText) throw new Refusal(400, NOTHING_TO_CONTINUE, 'BadRequestError');
}

/**
 * A completion's prompt as [what was asked, the part of the answer behind it]. Where the entry does not say what was
 * asked (`prompt`), the longest end of the prompt that begins the answer is taken for that part.
 */
export function promptParts(prompt, spec, index) {
  if (spec.prompt !== undefined) {
    return prompt.startsWith(spec.prompt) ? [spec.prompt, prompt.slice(spec.prompt.length)] : [prompt, ''];
  }
  const whole = wholePieces(spec, index).join('');
  let length = Math.min(whole.length, prompt.length);
  while (!prompt.endsWith(whole.slice(0, length))) length -= 1;
  return [prompt.slice(0, prompt.length - length), prompt.slice(prompt.length - length)];
}

/**
 * The text of an answer in pieces, without the `partial` that was said already. Choices beyond the first begin with
 * their index, so that mixing them up shows. A model that is told to go on behind what it never said says something
 * else, so that a wrong splice shows.
 */
export function textPieces(spec, index = 0, partial = '') {
  const all = partial ? continued(wholePieces(spec, index).join(''), partial, spec) : wholePieces(spec, index);
  if (spec.eventBytes) all.splice(2, 0, 'x'.repeat(spec.eventBytes));
  return all;
}

function wholePieces(spec, index) {
  const text = (index > 0 ? `(${index}) ` : '') + (spec.text ?? DEFAULT_TEXT);
  const all = spec.tokens === undefined ? pieces(text, spec.stepping) : repeated(text, spec.tokens, spec.stepping);
  return spec.differsAt === undefined ? all : pieces(changed(all.join(''), spec.differsAt), spec.stepping);
}

const continued = (whole, partial, { stepping }) =>
  pieces(whole.startsWith(partial) ? whole.slice(partial.length) : another(partial), stepping);

/** The same text up to the character, and surely another one there. */
function changed(text, at) {
  const characters = [...text];
  return characters.slice(0, at).join('') + another(`${at}/${text}`, characters[at]);
}

const another = (seed, instead) =>
  `${instead === '|' ? '/' : '|'} another answer, ${hex(seed, 8)}, whose beginning nobody has heard.`;
