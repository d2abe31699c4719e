// Header fields as they cross to the core: one text, names and values in turn.

/** Between the parts of a text; no field can hold one. */
const SEPARATOR = '\0';

/** Header fields as callers may write them; a field that is `null` or `undefined` is left out, even where a default has it. */
export type HeadersLike = Headers | Readonly<Record<string, string | null | undefined>> | Iterable<readonly [string, string]>;

export function join(headers: Headers): string {
  const parts: string[] = [];
  headers.forEach((value, name) => parts.push(name, value));
  return parts.join(SEPARATOR);
}

export function split(fields: string): Headers {
  const headers = new Headers();
  const parts = fields.split(SEPARATOR);
  for (let at = 1; at < parts.length; at += 2) headers.append(parts[at - 1]!, parts[at]!);
  return headers;
}

/**
 * Later fields over earlier ones.
 * @throws TypeError for what no field can be
 */
export function merge(...layers: readonly (HeadersLike | undefined)[]): Headers {
  const headers = new Headers();
  for (const layer of layers) {
    if (!layer) continue;
    const pairs = Symbol.iterator in layer ? layer : Object.entries(layer);
    for (const [name, value] of pairs as Iterable<readonly [string, unknown]>) {
      if (value === undefined || value === null) headers.delete(name);
      else headers.set(name, String(value));
    }
  }
  return headers;
}
