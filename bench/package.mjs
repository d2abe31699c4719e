// The npm package as a page has it: how large it is, how soon it is ready, and what a piece of a stream costs, beside
// the `openai` SDK in the same Chromium.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { Failure, root, step } from '../scripts/process.mjs';
import { startVllm } from '../tests/upstream/vllm.mjs';
import { startBrowser } from './browser.mjs';
import { spread } from './statistics.mjs';
import { VERDICTS, figures, markdown, ratios, verdict } from './tables.mjs';
import { judge } from './targets.mjs';

/** The heading of its section; what is measured alone replaces what stands below it. */
export const HEADING = '## The npm package in Chromium';

const SIZES = {
  quick: { rounds: 3, starts: 5, streams: 2 },
  full: { rounds: 11, starts: 15, streams: 4 },
};
/** Tokens of a long stream, and of one that comes as a model writes it. */
const TOKENS = { long: 3000, live: 500 };
const TOGETHER = 8;
/** 500 tokens a second: seldom more than one of them waits. */
const PACE_MS = 2;

const CONTESTANTS = [
  { name: 'nothing', does: 'a module with nothing in it: what the browser takes to import any.' },
  { name: 'reads', does: 'a reader that takes the bytes and does nothing with them: what the stream itself costs.' },
  {
    name: 'parser',
    does: '`fetch`, `eventsource-parser` and `JSON.parse` in a loop, without an error, a timeout or an abort: the least '
      + 'that a page must do to have the text.',
  },
  { name: 'openai', does: 'the SDK with `stream: true`, read with `for await`.' },
  { name: 'fairlead', does: 'the same with `Fairlead`, its core in wasm included.' },
  { name: 'events()', does: '`Fairlead`, read by `stream.events()`.' },
  { name: 'ai.fetch', does: 'the `openai` SDK with `fetch: ai.fetch`: two clients, one on the other.' },
  { name: 'fairlead/slim', does: 'the entry that has the wasm beside it, which is compiled while it comes.' },
];
const READERS = ['reads', 'parser', 'openai', 'fairlead', 'events()', 'ai.fetch'];

const PAIRS = [
  ['openai', 'parser'], ['fairlead', 'parser'], ['fairlead', 'openai'], ['events()', 'openai'], ['ai.fetch', 'openai'],
];

const reading = (title) => ({
  title, who: READERS, figures: { cpu: { label: 'main thread per event, µs', digits: 2 } }, rounds: [],
});
const absolute = (label) => ({ label, digits: 1, isAbsolute: true });

/** By name, as bench/workloads.mjs has them: without their rounds. */
const workloads = () => ({
  size: {
    title: 'What is loaded, gzipped',
    who: ['fairlead', 'fairlead/slim', 'openai'],
    figures: {
      face: absolute('TypeScript face, kB'),
      glue: absolute('glue between it and wasm, kB'),
      wasm: absolute('wasm, kB'),
      page: absolute('all that a page loads, kB'),
      bundle: absolute('in a bundle of esbuild, minified, kB'),
    },
    rounds: [],
  },
  start: {
    title: 'From the start of a script to the request of a first call',
    who: ['nothing', 'openai', 'fairlead', 'fairlead/slim'],
    figures: {
      load: absolute('import: loading and parsing, ms'),
      unpack: absolute('unpacking; slim: until the wasm begins to come, ms'),
      compile: absolute('compiling; slim: while it comes, ms'),
      instantiate: absolute('an instance, ms'),
      call: absolute('a client and its first request, ms'),
      total: absolute('all of it, ms'),
    },
    rounds: [],
  },
  single: reading('A stream that is all there, an event in each chunk'),
  grouped: reading(`A stream that is all there, ${TOGETHER} events in each chunk`),
  live: reading(`A stream of a server on loopback, one event every ${PACE_MS} ms`),
  flood: reading('The same at once, an event in each write'),
  floodGrouped: reading(`The same at once, ${TOGETHER} events in each write`),
});

/** Measures all of it: { results, version, events, reads }. */
export async function benchPackage({ quick = false } = {}) {
  step('Benchmarking the npm package', quick ? '1 minute' : '3 minutes');
  const size = quick ? SIZES.quick : SIZES.full;
  const results = workloads();
  results.size.rounds.push(await sizes());

  const [long, live] = [await written(TOKENS.long), await written(TOKENS.live)];
  const together = grouped(long, TOGETHER);
  const browser = await startBrowser(await files(), {
    '/live/v1/chat/completions': { writes: live, paceMs: PACE_MS },
    '/flood/v1/chat/completions': { writes: long },
    '/floodGrouped/v1/chat/completions': { writes: together },
  });
  try {
    await starts(browser, results.start, size.starts);
    const reads = await chunks(browser, results, size, {
      single: { of: long, writes: long, streams: size.streams },
      grouped: { of: long, writes: together, streams: size.streams },
      live: { of: live, base: '/live', streams: 1 },
      flood: { of: long, base: '/flood', streams: 1 },
      floodGrouped: { of: long, base: '/floodGrouped', streams: 1 },
    });
    return { results, version: browser.version, events: { long: long.length, live: live.length }, reads };
  } finally {
    await browser.stop();
  }
}

/** Its section of the page. */
export function section({ command, date, under, npm: { results, version, events, reads } }) {
  const { size, start, ...streams } = results;
  const came = (name) => `${Math.round(spread(reads[name]).median).toLocaleString('en-US')} reads`;
  return `${HEADING}

\`${command}\`, ${date}: Chromium ${version}, ${under}

${markdown([VERDICTS, ...judge(results).map(verdict)])}

### Size and start

${figures({ size, start }, CONTESTANTS)}

${start.rounds.length} starts, each in a profile of its own. kB are 1000 bytes. The parts are packed each by itself, so
that they come to a little more than the whole; base64 of what is packed already costs the default entry 2 % of the wasm.

### Streams

${figures(streams, CONTESTANTS)}

${ratios(streams, PAIRS)}

Medians with the quartiles in brackets, of ${streams.single.rounds.length} rounds in one page; who begins changes.

${CONTESTANTS.map(({ name, does }) => `- **${name}** is ${does}`).join('\n')}

- **Main thread** is the CPU time of the page's tasks on it, as Chromium counts it, over the events of a stream:
  ${events.long.toLocaleString('en-US')}, or ${events.live} of one that comes as a model writes it. The call itself is part of it. Each answer's text
  was compared.
- **A stream that is all there** comes from a \`fetch\` in the page that answers with prepared chunks: nothing is in it
  but the readers, and a hand-made stream.
- **A server** decides by its writes, and the page by its speed, how many events are read at once: ${came('live')} of
  ${events.live} events where they are paced, and of ${events.long.toLocaleString('en-US')} events at once ${came('flood')}, or ${came('floodGrouped')} of ${TOGETHER} events a write.
  The faster reader gets the smaller chunks, so that the last two show what a page pays and not who is better.
- **The start** is that of a page on loopback, from the first line of its module, before the package is imported, to the
  \`fetch\` of a first call: \`await init()\`, \`new Fairlead\`, and a look into IndexedDB whether an outage is known. All
  is gzipped and comes over a connection that the page has open already; nothing of it is cached.
`;
}

async function sizes() {
  const dist = (name) => gzipped(readFileSync(join(root, 'pkg-js/dist', name)));
  const bundled = async (contents, resolveDir) => gzipped(await bundle({ stdin: { contents, resolveDir: join(root, resolveDir) } }));
  const parts = {
    face: gzipped(await bundle({ entryPoints: [join(root, 'pkg-js/ts/entries/slim.ts')], external: ['*/build/core.js'] })),
    glue: gzipped(await bundle({ entryPoints: [join(root, 'pkg-js/build/core.js')] })),
    wasm: dist('core.wasm'),
  };
  const own = (entry) => bundled(`import { Fairlead } from '${entry}'; globalThis.Fairlead = Fairlead;`, 'pkg-js');
  const openai = await bundled("import OpenAI from 'openai'; globalThis.OpenAI = OpenAI;", '.');
  return {
    fairlead: { ...parts, page: dist('index.js'), bundle: await own('fairlead') },
    'fairlead/slim': { ...parts, page: dist('slim.js') + dist('core.wasm'), bundle: (await own('fairlead/slim')) + dist('core.wasm') },
    openai: { page: openai, bundle: openai },
  };
}

const gzipped = (bytes) => gzipSync(bytes, { level: 9 }).length / 1000;

async function bundle(options) {
  const { outputFiles: [{ contents }] } = await build({
    bundle: true, minify: true, write: false, format: 'esm', target: 'es2022', ...options,
  });
  return contents;
}

async function files() {
  const dist = Object.fromEntries(['index.js', 'slim.js', 'core.wasm'].map((name) => (
    [`/fairlead/${name}`, readFileSync(join(root, 'pkg-js/dist', name))]
  )));
  const stream = await bundle({
    entryPoints: [join(root, 'bench/pages/stream.js')], alias: { fairlead: join(root, 'pkg-js/dist/index.js') },
  });
  return {
    '/blank.html': '<!DOCTYPE html><html lang="en"><title>Bench</title><link rel="icon" href="data:,"></html>',
    '/nothing.js': 'export {};',
    '/openai.js': await bundle({ stdin: { contents: "export { OpenAI } from 'openai';", resolveDir: root } }),
    '/start.js': readFileSync(join(root, 'bench/pages/start.js')),
    '/stream.js': stream,
    ...dist,
  };
}

/** The events of a streamed chat, as vLLM writes them. */
async function written(tokens) {
  const vllm = await startVllm();
  try {
    const response = await fetch(`${vllm.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'Qwen/Qwen2.5-7B-Instruct', messages: [], stream: true, sim: { tokens } }),
    });
    return (await response.text()).split(/(?<=\n\n)/);
  } finally {
    await vllm.close();
  }
}

const grouped = (events, count) => (
  Array.from({ length: Math.ceil(events.length / count) }, (_, at) => events.slice(at * count, (at + 1) * count).join(''))
);

function textOf(events) {
  const pieces = events.slice(0, -1).map((event) => JSON.parse(event.slice('data: '.length)).choices[0].delta.content ?? '');
  return pieces.join('');
}

async function starts(browser, { rounds }, count) {
  const entries = {
    nothing: { entry: '/nothing.js' },
    openai: { entry: '/openai.js' },
    fairlead: { entry: '/fairlead/index.js' },
    'fairlead/slim': { entry: '/fairlead/slim.js', wasm: '/fairlead/core.wasm' },
  };
  for (let round = 0; round < count; round += 1) {
    const measured = {};
    for (const [name, wishes] of inTurn(Object.entries(entries), round)) {
      const { context, page } = await browser.open('/blank.html');
      const module = `/start.js?${new URLSearchParams(wishes)}`;
      measured[name] = await page.evaluate(async (url) => (await import(url)).started, module);
      await context.close();
    }
    rounds.push(measured);
  }
}

/** Fills the rounds of all feeds, and resolves to how many reads each needed. */
async function chunks(browser, results, { rounds }, feeds) {
  const { context, page } = await browser.open('/blank.html');
  const devtools = await context.newCDPSession(page);
  // The thread's own time: what else the machine does is not in it.
  await devtools.send('Performance.enable', { timeDomain: 'threadTicks' });
  await page.evaluate((url) => import(url), '/stream.js');
  const reads = {};
  for (const [feed, { of, writes, base = '/none', streams }] of Object.entries(feeds)) {
    reads[feed] = [];
    const text = textOf(of);
    await page.evaluate((given) => prepare(...given), [feed, { writes, base }]);
    for (let round = -1; round < rounds; round += 1) {
      const measured = {};
      for (const name of inTurn(READERS, round + 1)) {
        await devtools.send('HeapProfiler.collectGarbage');
        const before = await busyMs(devtools);
        const given = await page.evaluate((asked) => read(...asked), [feed, name, streams]);
        const ms = (await busyMs(devtools)) - before;
        if (name === 'reads') reads[feed].push(given);
        else if (given !== text) throw new Failure(`The bench ends here: ${name} has read another text (${feed}).`);
        measured[name] = { cpu: (ms / streams / of.length) * 1000 };
      }
      // The first lets the engine compile what is hot.
      if (round >= 0) results[feed].rounds.push(measured);
    }
  }
  await context.close();
  return reads;
}

/** The CPU time of the page's tasks so far. */
async function busyMs(devtools) {
  const { metrics } = await devtools.send('Performance.getMetrics');
  return metrics.find(({ name }) => name === 'TaskDuration').value * 1000;
}

const inTurn = (all, round) => [...all.slice(round % all.length), ...all.slice(0, round % all.length)];
