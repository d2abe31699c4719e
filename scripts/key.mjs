// `npm run key [-- NAME]`: a new key for the client NAME, and what CONFIG holds of it. `npm run key -- --hash` reads a
// key from standard input instead and prints its hash alone.

import { createHash, randomBytes } from 'node:crypto';
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import { Failure, main } from './process.mjs';

/** As many as the hash has: nobody guesses either. */
const KEY_BYTES = 32;

const hashOf = (key) => createHash('sha256').update(key).digest('hex');

await main(async () => {
  const { values: { hash }, positionals: [name = 'web', ...others] } = parseArgs({
    options: { hash: { type: 'boolean', default: false } }, allowPositionals: true,
  });
  if (others.length > 0) throw new Failure('One client at a time: npm run key -- NAME');
  if (hash) {
    // A line's end is none of the key's. A header field cannot hold white space at its ends either.
    const key = (await text(process.stdin)).trim();
    if (!key) throw new Failure('Standard input holds no key.');
    console.log(hashOf(key));
    return;
  }
  const key = `fl-${randomBytes(KEY_BYTES).toString('base64url')}`;
  console.log(`The key, for the app alone. It is shown this once and kept nowhere:

  ${key}

Its SHA-256, for \`clients[].keys_sha256\` in CONFIG; beside another key's of the same client, both open:

  ${hashOf(key)}

A client with this key:

  ${JSON.stringify({ name, keys_sha256: [hashOf(key)] })}
`);
});
