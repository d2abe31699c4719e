// Numbers as people read them, each with its unit.

const NONE = '–';
const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

/** Not more digits than one can take in: `7`, `1,204`, `12.3 k`, `4.1 M`. */
export function count(value) {
  if (!isNumber(value)) return NONE;
  if (value < 10_000) return value.toLocaleString('en', { maximumFractionDigits: 0 });
  const [unit, size] = [['G', 1e9], ['M', 1e6], ['k', 1e3]].find(([, size]) => value >= size * 0.9995);
  return `${significant(value / size)} ${unit}`;
}

/** Three digits that mean something. */
const significant = (value) => (value < 100 ? value.toFixed(1) : value.toFixed(0));

/** `0 ms`, `480 ms`, `1.2 s`, `48 s`, `2 min 5 s`, `3 h 12 min`, `4 d 2 h`. */
export function duration(ms) {
  if (!isNumber(ms)) return NONE;
  if (ms < 999.5) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 9_950) return `${(ms / 1000).toFixed(1).replace(/\.0$/, '')} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const parts = [['d', 86_400], ['h', 3600], ['min', 60], ['s', 1]];
  const first = parts.findIndex(([, size]) => seconds >= size);
  const [[large, largeSize], [small, smallSize]] = parts.slice(first, first + 2);
  const rest = Math.floor((seconds % largeSize) / smallSize);
  return `${Math.floor(seconds / largeSize)} ${large}${rest > 0 ? ` ${rest} ${small}` : ''}`;
}

/** Whole seconds that count down to nothing. */
export const countdown = (ms) => duration(Math.max(0, Math.ceil(ms / 1000)) * 1000).replace('0 ms', '0 s');

/** How long ago, for people: what is younger than two seconds is now. */
export const ago = (ms) => (ms < 2000 ? 'just now' : `${duration(ms)} ago`);

/** `0 %`, `0.4 %`, `98.2 %`, `100 %`: all and nothing only where it is all and nothing. */
export function percent(part, whole) {
  if (!isNumber(part) || !isNumber(whole) || whole === 0) return NONE;
  const value = (100 * part) / whole;
  if (part === 0 || part === whole) return `${Math.round(value)} %`;
  return `${Math.min(99.9, Math.max(0.1, value)).toFixed(1)} %`;
}

/** `512 B`, `1.4 kB`, `3.0 MB`. */
export function bytes(value) {
  if (!isNumber(value)) return NONE;
  if (value < 1000) return `${value} B`;
  const [unit, size] = [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]].find(([, size]) => value >= size * 0.9995);
  return `${significant(value / size)} ${unit}`;
}

/** Calls in a second, or in a minute where they are rare. */
export function rate(perSecond) {
  if (!isNumber(perSecond)) return NONE;
  if (perSecond === 0) return '0 /min';
  return perSecond < 1 ? `${significant(perSecond * 60)} /min` : `${perSecond < 1000 ? significant(perSecond) : count(perSecond)} /s`;
}

/** The reader's own time of day. */
export function clock(ms) {
  return isNumber(ms) ? new Date(ms).toLocaleTimeString('en-GB') : NONE;
}

/** One of them, or many. */
export const many = (value, one, more = `${one}s`) => `${count(value)} ${value === 1 ? one : more}`;
