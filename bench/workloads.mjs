// What is asked of every contestant, and what is read off. A workload's `run` resolves to one number per figure;
// `figures` says how each is called and shown. A new measure is a new entry.

import { EVENTS, PACE_MS } from './answers.mjs';
import { load } from './client.mjs';
import { quantile } from './statistics.mjs';

/** How often each is asked in a round: enough for a figure, within half a minute or four for the whole run. */
export const SIZES = {
  warmUp: { requests: 400, firstBytes: 50, streams: 40, bursts: 20 },
  quick: { rounds: 3, requests: 800, firstBytes: 100, streams: 40, bursts: 40 },
  full: { rounds: 12, requests: 3000, firstBytes: 300, streams: 40, bursts: 120 },
};

const CONNECTIONS = 8;

export const WORKLOADS = [
  {
    title: `Answers that do not stream, ${CONNECTIONS} connections`,
    figures: {
      rate: { label: 'requests per second', higherIsBetter: true, digits: 0 },
      p50: { label: 'latency p50, ms', digits: 2 },
      p99: { label: 'latency p99, ms', digits: 2 },
      cpu: { label: 'CPU per request, µs', digits: 0 },
    },
    async run(contestant, { requests: count }) {
      const { ms, times, cpuMs } = await measured(contestant, 'whole', { connections: CONNECTIONS, count });
      const latencies = times.map((each) => each.ms);
      return {
        rate: (count / ms) * 1000, p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99),
        cpu: (cpuMs / count) * 1000,
      };
    },
  },
  {
    title: 'First byte of a stream, one at a time',
    figures: {
      p50: { label: 'time to first byte p50, ms', digits: 2 },
      p99: { label: 'time to first byte p99, ms', digits: 2 },
    },
    async run(contestant, { firstBytes: count }) {
      const { times } = await measured(contestant, 'brief', { connections: 1, count });
      const waits = times.map((each) => each.firstByte);
      return { p50: quantile(waits, 0.5), p99: quantile(waits, 0.99) };
    },
  },
  {
    title: `Streams of ${EVENTS} events, one event every ${PACE_MS} ms, 40 at a time`,
    figures: { cpu: { label: 'CPU per event, µs', digits: 1 } },
    async run(contestant, { streams: count }) {
      const { cpuMs } = await measured(contestant, 'paced', { connections: count, count });
      return { cpu: (cpuMs / (count * EVENTS)) * 1000 };
    },
  },
  {
    title: `Streams of ${EVENTS} events, unpaced, ${CONNECTIONS} connections`,
    figures: {
      rate: { label: 'events per second', higherIsBetter: true, digits: 0 },
      cpu: { label: 'CPU per event, µs', digits: 1 },
    },
    async run(contestant, { bursts: count }) {
      const { ms, cpuMs } = await measured(contestant, 'burst', { connections: CONNECTIONS, count });
      return { rate: ((count * EVENTS) / ms) * 1000, cpu: (cpuMs / (count * EVENTS)) * 1000 };
    },
  },
];

/** A load, with the CPU time that the contestant took for it. */
async function measured(contestant, kind, size) {
  const before = contestant.cpuMs();
  const { ms, times } = await load(contestant, kind, size);
  return { ms, times, cpuMs: contestant.cpuMs() - before };
}
