// What stands in for a tokenizer and an engine: text is split into word pieces, and every piece has the same
// id in every run. Nothing here draws lots or reads a clock.

import { createHash } from 'node:crypto';

export const DEFAULT_TEXT =
  'A fairlead guides a line and keeps it from chafing. Whatever the sea does, the line runs true.';
export const DEFAULT_REASONING = 'The user asks about lines. Think of the boat first.';
export const EOS = 2;

const MAX_PIECES = 100_000;
const MAX_VOCABULARY = 65_536;

// Every character belongs to one of the four classes, so the pieces always join to the text again. The `u` flag
// keeps surrogate pairs whole.
const PIECE = / ?[\p{L}\p{M}]{1,8}| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]{1,4}|\s+/gu;

// Ids are hashes, so going back needs the pieces seen so far. It is emptied when full: only /detokenize reads it.
const vocabulary = new Map();

/**
 * The tokens of a text. Of a text that is cut between two of them, both parts have the same tokens as the whole.
 * `stepping` stands for another tokenizer, whose tokens are so many characters long.
 */
export function pieces(text, stepping) {
  return text.match(stepping === undefined ? PIECE : new RegExp(`.{1,${stepping}}`, 'gsu')) ?? [];
}

/** The tokens of `text` over and over, `count` of them. */
export function repeated(text, count, stepping) {
  const wanted = Math.min(count, MAX_PIECES);
  // White space at both ends becomes one token, so a round may bring one less.
  const round = Math.max(1, pieces(` ${text}`, stepping).length - 1);
  return pieces(text + ` ${text}`.repeat(Math.ceil(wanted / round)), stepping).slice(0, wanted);
}

export function tokenId(piece) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < piece.length; i += 1) hash = Math.imul(hash ^ piece.charCodeAt(i), 0x01000193);
  const id = hash >>> 1;
  if (vocabulary.size >= MAX_VOCABULARY) vocabulary.clear();
  vocabulary.set(id, piece);
  return id;
}

export function pieceOf(id) {
  return vocabulary.get(id) ?? '\ufffd';
}

/** A number in (-1, 0], the same for the same piece, to serve as a log probability, a score or a vector's part. */
export function weight(piece) {
  return -(tokenId(piece) % 1000) / 1000;
}

/** The hexadecimal part of an id that vLLM would have drawn at random. */
export function hex(seed, length = 16) {
  return createHash('sha256').update(String(seed)).digest('hex').slice(0, length);
}

/** The text of a message, a prompt or a Responses input, whichever of their forms it has. */
export function textOf(content) {
  if (typeof content === 'string') return content;
  if (Array.isArray(content)) return content.map((part) => textOf(part?.text ?? part?.content ?? part)).join('');
  if (typeof content?.text === 'string') return content.text;
  return typeof content === 'number' ? pieceOf(content) : '';
}
