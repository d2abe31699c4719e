// Where a stream of bytes is cut into outputs: by a seed, at any byte, and inside a character only when asked to.

import { hex } from '../tokens.mjs';

const SURELY_INSIDE = 1;

/**
 * Pieces of `source` as long as chance wants, about `pieceBytes` each. What arrives is passed on at once, as
 * `iter_any()` does, so its ends are cuts as well. The cuts depend on the seed and on the place in the stream only.
 */
export async function* cutBytes(source, { seed, pieceBytes, mangle }) {
  let cuts = 0;
  const next = () => {
    cuts += 1;
    return pieceBytes > 0 ? 1 + (Number.parseInt(hex(`${seed} ${cuts}`, 8), 16) % (2 * pieceBytes)) : Infinity;
  };
  let left = next();
  let mangled = !mangle;
  for await (const chunk of source) {
    let rest = chunk;
    while (rest.length > 0) {
      let cut = Math.min(left, rest.length);
      const character = mangled ? -1 : rest.findIndex((byte) => byte >= 0xc0);
      if (character >= 0 && character < cut) {
        cut = character + SURELY_INSIDE;
        mangled = true;
      }
      yield rest.subarray(0, cut);
      rest = rest.subarray(cut);
      left -= cut;
      if (left <= 0) left = next();
    }
  }
}

/**
 * Text of the pieces. Mangled means each piece by itself, as the worker does it: half a character becomes U+FFFD.
 * Otherwise a character waits for its end.
 */
export async function* decodePieces(pieces, { mangle }) {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  for await (const piece of pieces) {
    const text = decoder.decode(piece, { stream: !mangle });
    if (text) yield text;
  }
  const last = decoder.decode();
  if (last) yield last;
}
