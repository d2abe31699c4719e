// Order statistics: on a machine that does other things too, means follow the worst moment.

/** The value below which this share of the values lies, linear between neighbours. */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const below = sorted[Math.floor(at)];
  return below + (sorted[Math.ceil(at)] - below) * (at % 1);
}

/** The middle and the two quartiles. */
export const spread = (values) => ({
  median: quantile(values, 0.5), low: quantile(values, 0.25), high: quantile(values, 0.75),
});

export const ratio = (value, other) => value / other;
export const difference = (value, other) => value - other;

/** One contestant's figure set against another's, round by round. */
export function compared({ rounds }, figure, { of, over, by = ratio }) {
  return rounds.map((round) => by(round[of][figure], round[over][figure]));
}
