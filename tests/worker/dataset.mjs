// An Analytics Engine dataset that can be looked into: Miniflare's own takes points and forgets them.

/** The `prelude` of a gateway whose binding METRICS prints each point. */
export const DATASET = `
  const dataset = { writeDataPoint(point) { console.log(JSON.stringify({ event: 'point', ...point })); } };
  Object.defineProperty(Object.prototype, 'METRICS', { get: () => dataset });
`;

/** The points that such a gateway has written. */
export function pointsOf({ logs }) {
  return logs.filter(({ event }) => event === 'point');
}
