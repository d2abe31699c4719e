// Whether memory is flat, told from what was measured after each batch.
//
// The verdict is on what the isolate needs: its heap behind a collection, with buffers, and its wasm. What the process
// has is told as well, but workerd's allocator gives little back: `control.mjs` shows how it grows under a Worker of
// three lines.

/** What is needed one time and is not the next: connections that are still open, calls of the last moment. */
const BREATH = 0.1;
/** The memory of wasm never shrinks: it is the most that was ever needed at a time, in pages of 64 KiB. */
const HIGH_WATER = 0.25;

/**
 * Behind the first tenth, which is warming up: the medians of the second tenth and of the last one, and what the line
 * of least squares through all of them gains, in bytes.
 */
export function memoryOf(batches) {
  const tenth = Math.max(1, Math.floor(batches.length / 10));
  const settled = batches.slice(tenth);
  const view = (name) => {
    const bytes = settled.map((batch) => batch[name]);
    const [second, last] = [median(bytes.slice(0, tenth)), median(bytes.slice(-tenth))];
    return { second, last, growth: last / second - 1, gained: slope(bytes) * (bytes.length - 1) };
  };
  const [heap, wasm, process] = [view('heap'), view('wasm'), view('bytes')];
  return { heap, wasm, process, isFlat: heap.growth <= BREATH && wasm.growth <= HIGH_WATER };
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
