// `npm run soak [-- REQUESTS]`: so many requests (100,000) through one isolate of a Worker that is up to date, its
// endpoints failing at random. Fails where one is not accounted for, a secret is told, or memory is not flat.

import { parseArgs } from 'node:util';
import { build } from './build.mjs';
import { Failure, main, step } from './process.mjs';
import { continueOnPackagedNode, ensurePackages } from './setup.mjs';

const MB = 1e6;

await main(async () => {
  const { values: { seed }, positionals: [requests = '100000'] } = parseArgs({
    options: { seed: { type: 'string', default: '1' } }, allowPositionals: true,
  });
  await ensurePackages();
  await continueOnPackagedNode();
  await build();
  const { soak } = await import('../tests/soak/soak.mjs');
  const { memoryOf } = await import('../tests/soak/memory.mjs');

  step(`Sending ${requests} requests, seed ${seed}`, '10 minutes for 100,000');
  const report = await soak({
    requests: Number(requests),
    seed: Number(seed),
    onBatch: ({ sent, heap, wasm, bytes, ms, troubles }) => {
      const rate = (sent / ms) * 1000;
      const sizes = Object.entries({ heap, wasm, process: bytes }).map(([name, size]) => `${name} ${(size / MB).toFixed(2)} MB`);
      const figures = [`${sent} sent`, `${rate.toFixed(0)}/s`, ...sizes];
      console.log(`  ${figures.join(', ')}${troubles > 0 ? `, ${troubles} troubles` : ''}`);
    },
  });

  const { sent, counted, seen, metrics, troubles, batches } = report;
  step('What clients have seen');
  for (const [outcome, count] of [...seen].sort(([, one], [, other]) => other - one)) console.log(`  ${count}  ${outcome}`);
  console.log(`${sent} sent, ${counted} in /metrics under ${metrics.size} labels.`);
  const { isFlat, ...memory } = memoryOf(batches);
  for (const [name, { second, last, growth, gained }] of Object.entries(memory)) {
    console.log(`${name}: ${(second / MB).toFixed(2)} MB in the second tenth, ${(last / MB).toFixed(2)} MB in the last `
      + `(${(growth * 100).toFixed(1)} %); the line through all gains ${(gained / MB).toFixed(2)} MB`);
  }
  if (troubles.length > 0) {
    console.log(troubles.filter(Boolean).join('\n'));
    throw new Failure(`${troubles.length} things are not as they should be.`);
  }
  if (!isFlat) throw new Failure('What the isolate needs grows.');
});
