// What is asked of every contestant, and what is read off. A workload's `run` resolves to one number per figure;
// `figures` says how each is called and shown. A new measure is a new entry.

import { setTimeout as sleep } from 'node:timers/promises';
import { EVENTS, PACE_MS, hold, load } from './rig.mjs';
import { quantile } from './statistics.mjs';

/** How often each is asked in a round: enough for a figure, within the time that the whole run has. */
export const SIZES = {
  warmUp: { requests: 1000, firstBytes: 100, streams: 40, bursts: 40 },
  quick: { rounds: 3, requests: 1000, firstBytes: 200, streams: 40, bursts: 40, colds: 3, idleRounds: 1 },
  full: { rounds: 9, requests: 4000, firstBytes: 500, streams: 80, bursts: 160, colds: 5, idleRounds: 5 },
};

export const CONNECTIONS = 8;
export const AT_A_TIME = 40;
/** Of the streams that are only held open. */
export const IDLE = 500;
/** The text that such a stream may have brought: the rig's `held`. */
const TEXT_KB = 20;

const STREAMING = ['pass-through', 'pump', 'pull', 'fairlead', 'fairlead native', 'fairlead resume'];

/** The workers whose start and size are looked at. */
const BUILDS = ['pass-through', 'pump', 'fairlead'];

/** What shows that the rig has time left. */
const beside = { label: 'the rig beside it, % of a core', digits: 0, isAbsolute: true };

export const WORKLOADS = {
  whole: {
    title: `Answers that do not stream, ${CONNECTIONS} connections`,
    who: ['direct', 'pass-through', 'pump', 'steps', 'unheld', 'fairlead'],
    figures: {
      rate: { label: 'requests per second', higherIsBetter: true, digits: 0 },
      p50: { label: 'latency p50, ms', digits: 2 },
      p99: { label: 'latency p99, ms', digits: 2 },
      cpu: { label: 'CPU per request, µs', digits: 0 },
      rig: beside,
    },
    async run(contestant, { requests: count }, upstream) {
      const asked = { connections: CONNECTIONS, count };
      const { ms, whole, cpuMs, rig } = await measured(contestant, 'whole', asked, upstream);
      return {
        rate: (count / ms) * 1000, p50: quantile(whole, 0.5), p99: quantile(whole, 0.99),
        cpu: (cpuMs / count) * 1000, rig,
      };
    },
  },
  watched: {
    title: `Keys, limits, log and metrics around answers that do not stream, ${CONNECTIONS} connections`,
    who: ['fairlead quiet', 'fairlead watched'],
    figures: { cpu: { label: 'CPU per request, µs', digits: 0 } },
    async run(contestant, { requests: count }, upstream) {
      const { cpuMs } = await measured(contestant, 'whole', { connections: CONNECTIONS, count }, upstream);
      return { cpu: (cpuMs / count) * 1000 };
    },
  },
  firstByte: {
    title: 'First byte of a stream, one at a time',
    who: ['direct', ...STREAMING],
    figures: {
      p50: { label: 'time to first byte p50, ms', digits: 2 },
      p99: { label: 'time to first byte p99, ms', digits: 2 },
    },
    async run(contestant, { firstBytes: count }, upstream) {
      const { firstByte } = await measured(contestant, 'brief', { connections: 1, count }, upstream);
      return { p50: quantile(firstByte, 0.5), p99: quantile(firstByte, 0.99) };
    },
  },
  paced: {
    title: `Streams of ${EVENTS} events, one event every ${PACE_MS} ms, ${AT_A_TIME} at a time`,
    who: STREAMING,
    figures: { cpu: { label: 'CPU per event, µs', digits: 1 } },
    async run(contestant, { streams: count }, upstream) {
      const { cpuMs } = await measured(contestant, 'paced', { connections: AT_A_TIME, count }, upstream);
      return { cpu: (cpuMs / (count * EVENTS)) * 1000 };
    },
  },
  burst: {
    title: `Streams of ${EVENTS} events, unpaced, ${CONNECTIONS} connections`,
    who: ['direct', ...STREAMING],
    figures: {
      rate: { label: 'events per second', higherIsBetter: true, digits: 0 },
      cpu: { label: 'CPU per event, µs', digits: 1 },
      rig: beside,
    },
    async run(contestant, { bursts: count }, upstream) {
      const { ms, cpuMs, rig } = await measured(contestant, 'burst', { connections: CONNECTIONS, count }, upstream);
      return { rate: ((count * EVENTS) / ms) * 1000, cpu: (cpuMs / (count * EVENTS)) * 1000, rig };
    },
  },
  idle: {
    title: `${IDLE} open streams that say nothing`,
    who: STREAMING,
    needsNewProcess: true,
    rounds: ({ idleRounds }) => idleRounds,
    figures: {
      before: { label: 'memory before, MB', digits: 1 },
      total: { label: 'memory with them, MB', digits: 1 },
      each: { label: 'memory per stream, kB', digits: 0 },
    },
    run: (contestant) => memory(contestant, 'idle'),
  },
  held: {
    title: `${IDLE} open streams that have brought ${TEXT_KB} kB of text`,
    who: ['fairlead', 'fairlead resume'],
    needsNewProcess: true,
    rounds: ({ idleRounds }) => idleRounds,
    figures: {
      total: { label: 'memory with them, MB', digits: 1 },
      each: { label: 'memory per stream, kB', digits: 0 },
      texts: { label: 'memory per stream, in such texts', digits: 1 },
    },
    run: async (contestant) => {
      const taken = await memory(contestant, 'held');
      return { ...taken, texts: taken.each / TEXT_KB };
    },
  },
  cold: {
    title: 'The first request of a new isolate',
    who: BUILDS,
    needsNewProcess: true,
    figures: { first: { label: 'time to the whole answer, ms', digits: 1 } },
    async run(contestant, { colds: count }) {
      const worker = await contestant.another({ cold: true });
      try {
        // The first answer is the first of the whole process, too.
        const { whole: [, ...times] } = await load(worker, 'whole', { connections: 1, count: count + 1 });
        return { first: quantile(times, 0.5) };
      } finally {
        await worker.stop();
      }
    },
  },
  bundle: {
    title: 'What is uploaded',
    who: BUILDS,
    needsNewProcess: true,
    rounds: () => 1,
    figures: { size: { label: 'gzipped, kB', digits: 1, isAbsolute: true } },
    run: async (contestant) => ({ size: contestant.gzippedBytes() / 1000 }),
  },
};

/** A load, with the CPU time that the contestant took for it, and the share of a core that the rig took meanwhile. */
async function measured(contestant, kind, size, upstream) {
  const [before, upstreamBefore] = [contestant.cpuMs?.(), upstream.cpuMs()];
  const result = await load(contestant, kind, size);
  const rig = ((upstream.cpuMs() - upstreamBefore + result.cpuMs) / result.ms) * 100;
  return { ...result, cpuMs: contestant.cpuMs?.() - before, rig };
}

/** What a new process has, and what it has with as many open streams of a kind. */
async function memory(contestant, kind) {
  const worker = await contestant.another();
  try {
    await load(worker, 'brief', { connections: 1, count: 50 });
    const before = await settled(worker.privateBytes);
    const letGo = await hold(worker, kind, IDLE);
    const total = await settled(worker.privateBytes);
    await letGo();
    return { before: before / 1e6, total: total / 1e6, each: (total - before) / 1000 / IDLE };
  } finally {
    await worker.stop();
  }
}

/** A value that has not moved by more than 1 % for half a second, or what it is after ten. */
async function settled(read) {
  const values = [];
  for (let look = 0; look < 100; look += 1) {
    values.unshift(read());
    values.length = Math.min(values.length, 6);
    if (values.length === 6 && Math.max(...values) - Math.min(...values) < values[0] / 100) break;
    await sleep(100);
  }
  return values[0];
}
