// What one check finds out: differences, each with its place, what was expected and what came, and notes beside.
//
// Nothing that a model said and nothing that it was told is ever repeated here: values are described, not quoted,
// unless they are a single word.

/** Ends a check early; the outcome stands in the table with its reason. */
export class Ended extends Error {
  constructor(outcome, reason) {
    super(reason);
    this.outcome = outcome;
  }
}

export const skip = (reason) => { throw new Ended('skipped', reason); };

/** What a server says where it has no such route, or does not have it for this model. */
const ABSENT = [404, 405, 501];

/** Ends a check of something that not every server has. `also` are further statuses that mean it is not there. */
export function offered({ status }, also = []) {
  if ([...ABSENT, ...also].includes(status)) throw new Ended('not offered', `status ${status}`);
}

export class Findings {
  /** @type {{ where: string, expected: string, came: string }[]} */
  differences = [];
  /** What is worth knowing and no difference. */
  notes = [];

  note(text) {
    this.notes.push(text);
  }

  differs(where, expected, came) {
    this.differences.push({ where, expected, came });
  }

  same(where, came, expected) {
    return this.holds(where, came, told(expected), came === expected);
  }

  oneOf(where, came, expected) {
    return this.holds(where, came, expected.map(told).join(' or '), expected.includes(came));
  }

  /** @param {string} expected in words */
  holds(where, came, expected, isSo) {
    if (!isSo) this.differs(where, expected, told(came));
    return isSo;
  }

  count(where, came, least = 0) {
    return this.holds(where, came, `a whole number from ${least}`, Number.isInteger(came) && came >= least);
  }

  text(where, came) {
    return this.holds(where, came, 'a text', typeof came === 'string' && came !== '');
  }

  list(where, came, length) {
    const isSo = Array.isArray(came) && (length === undefined ? came.length > 0 : came.length === length);
    return this.holds(where, came, length === undefined ? 'a list of at least 1' : `a list of ${length}`, isSo);
  }

  /** The rest of a check makes sense with a JSON object of success only. */
  answered({ status, type, json }) {
    this.same('status', status, 200);
    if (status === 200) this.holds('content-type', type, 'application/json', /^application\/json\b/.test(type));
    if (status === 200) this.holds('body', json, 'a JSON object', isObject(json));
    this.stopIfDifferent();
    return json;
  }

  stopIfDifferent() {
    if (this.differences.length > 0) throw new Ended('differs');
  }
}

export const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** The object that a text holds as JSON. */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A value for people. */
export function told(value) {
  if (value === undefined) return 'nothing';
  if (typeof value === 'string') {
    const isWord = /^[\w.:/=+-]{0,60}(; ?[\w=-]+)?$/.test(value);
    return isWord ? JSON.stringify(value) : `a text of ${value.length} characters`;
  }
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (isObject(value)) {
    const names = Object.keys(value).filter((name) => /^\w{1,30}$/.test(name));
    return names.length > 0 ? `an object with ${names.slice(0, 8).join(', ')}` : 'an object';
  }
  return String(value);
}
