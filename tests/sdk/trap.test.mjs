// An instance of the wasm that traps, as only a defect would make it: the calls that it had are told, and the next one
// gets another instance behind the same client.

import assert from 'node:assert/strict';
import binaryen from 'binaryen';
import { readFileSync } from 'node:fs';
import { after, before, it } from 'node:test';
import { Fairlead, FairleadError, init, InternalError } from '../../pkg-js/dist/slim.js';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';

/** The wasm of the package, but what this export was is a trap. */
function trapping(name) {
  const module = binaryen.readBinary(readFileSync(new URL('../../pkg-js/dist/core.wasm', import.meta.url)));
  const found = Array.from({ length: module.getNumExports() }, (_, at) => binaryen.getExportInfo(module.getExportByIndex(at)))
    .find((info) => info.name === name);
  binaryen.Function.setBody(module.getFunction(found.value), module.unreachable());
  return module.emitBinary();
}

let vllm;
before(async () => {
  vllm = await startVllm();
  await init(trapping('core_status'));
});
after(() => vllm.close());

it('ends the calls that it had, and the next one gets a new instance', async () => {
  const ai = new Fairlead({ baseURL: `${vllm.url}/v1`, logLevel: 'off' });
  const other = new Fairlead({ baseURL: `${vllm.url}/v1`, logLevel: 'off' });
  const ask = (client, more) => client.chat.completions.create({ model: 'qwen', messages: [], stream: true, ...more });

  const stream = await ask(other, { sim: { tokens: 1000, tokenMs: 20 } });
  let partial = '';
  const reading = (async () => {
    for await (const chunk of stream) {
      partial += chunk.choices[0]?.delta.content ?? '';
      if (partial) await assert.rejects(ai.status(), InternalError);
    }
  })();
  await assert.rejects(reading, (error) => {
    assert.ok(error instanceof InternalError && error instanceof FairleadError);
    assert.equal(error.code, 'internal');
    assert.ok(error.partial.text.startsWith(partial));
    return true;
  });
  assert.notEqual(partial, '');
  // Nobody reads what the endpoint still sends, and it is told so.
  await vllm.until(() => vllm.requests.every(({ inFlight }) => !inFlight));

  for (const client of [ai, other, ai]) assert.equal(await (await ask(client)).finalText(), DEFAULT_TEXT);
});
