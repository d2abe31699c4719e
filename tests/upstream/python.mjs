// Values as Python writes them: both vLLM and RunPod's worker put the repr of a dict into what a client reads.

const NAMED_ESCAPES = { '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };

// What str.isprintable() denies: among others the joiners inside emoji.
const UNPRINTABLE = /(?! )[\p{C}\p{Z}]/gu;

export function repr(value) {
  if (value === null || value === undefined) return 'None';
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (typeof value === 'number') return String(value);
  if (typeof value === 'string') return stringRepr(value);
  if (Array.isArray(value)) return `[${value.map(repr).join(', ')}]`;
  return `{${Object.entries(value).map(([key, item]) => `${repr(key)}: ${repr(item)}`).join(', ')}}`;
}

/** `str()` of a value: strings go out as they are, everything else as its repr. */
export const str = (value) => (typeof value === 'string' ? value : repr(value));

/** Double quotes only where they save escapes: around a text with an apostrophe and without a double quote. */
function stringRepr(text) {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text
    .replace(/[\\\n\r\t]/g, (character) => NAMED_ESCAPES[character])
    .replace(UNPRINTABLE, escape);
  return quote + (quote === "'" ? escaped.replaceAll("'", "\\'") : escaped) + quote;
}

function escape(character) {
  const code = character.codePointAt(0);
  const hex = (digits) => code.toString(16).padStart(digits, '0');
  if (code <= 0xff) return `\\x${hex(2)}`;
  return code <= 0xffff ? `\\u${hex(4)}` : `\\U${hex(8)}`;
}
