// What a job's own input asks of the simulation: `sim_job`, beside the input's fields or inside the OpenAI body, which
// a gateway passes on untouched like every field that it does not know.

/**
 * @typedef {object} Behaviour outputs are counted from 1
 * @property {number} [drop] this output never reaches the stream; the aggregate has it
 * @property {boolean} [dropEverywhere] the aggregate lacks it too
 * @property {number} [duplicate] this output stands in the stream twice
 * @property {number} [requeueAfter] after so many outputs the job goes back into the queue and begins anew
 * @property {number} [workerLostAfter] after so many outputs its worker is gone
 * @property {boolean} [neverDone] the worker's last word is refused: the job ends by a timeout only
 * @property {boolean} [cancelLost] a cancel is accepted and forgotten
 * @property {boolean} [mangle] worker-vllm cuts a character in two, and both halves become U+FFFD
 * @property {Record<string, Array>} [faults] for each operation on this job the faults of its next requests
 */

/** @returns {Behaviour} */
export function behaviourOf(input) {
  const marked = [input, input?.openai_input, input?.body].find((place) => isObject(place?.sim_job));
  return structuredClone(marked?.sim_job ?? {});
}

const isObject = (value) => typeof value === 'object' && value !== null;
