// Whether memory is flat, told from what was measured after each batch.

/** A heap breathes: what it has one time and has not the next. */
const BREATH = 0.1;

/**
 * What a process has for itself behind its first tenth, which is warming up: the median of the second tenth and of the
 * last one, and what the line of least squares through all of them gains, as parts of the former.
 */
export function memoryOf(batches) {
  const tenth = Math.max(1, Math.floor(batches.length / 10));
  const settled = batches.slice(tenth);
  const bytes = settled.map((batch) => batch.bytes);
  const [second, last] = [median(bytes.slice(0, tenth)), median(bytes.slice(-tenth))];
  const gained = slope(bytes) * (bytes.length - 1);
  const wasm = settled.map((batch) => batch.wasm);
  return { second, last, gained, growth: last / second - 1, isFlat: last <= second * (1 + BREATH), wasm: [wasm[0], wasm.at(-1)] };
}

function median(numbers) {
  const sorted = numbers.toSorted((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)];
}

/** What the line of least squares gains from one to the next. */
function slope(numbers) {
  const mean = (numbers.length - 1) / 2;
  const [above, below] = numbers.reduce(
    ([above, below], number, at) => [above + (at - mean) * number, below + (at - mean) ** 2], [0, 0],
  );
  return below === 0 ? 0 : above / below;
}
