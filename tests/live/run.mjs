// Runs the checks one after the other, as a server with one GPU can bear, and says what came of each.

import { chat } from './checks/chat.mjs';
import { dialects } from './checks/dialects.mjs';
import { refusals } from './checks/refusals.mjs';
import { routes } from './checks/routes.mjs';
import { streams } from './checks/streams.mjs';
import { Ended, Findings } from './findings.mjs';
import { connect } from './server.mjs';

/** Every check, { name, run(server, findings) }, in the order of their running. */
export const CHECKS = [...routes, ...chat, ...streams, ...refusals, ...dialects];

const OUTCOMES = ['passed', 'differs', 'not offered', 'skipped'];
/** A shorter key is a placeholder, and its letters may be part of any word. */
const SECRET_FROM = 8;
const WIDTH = Math.max(...OUTCOMES.map((outcome) => outcome.length));

/**
 * @param {{ url: string, key: string, model: string }} target
 * @param {typeof CHECKS} checks
 * @param {(line: string) => void} say gets the report, line by line
 * @returns {Promise<Record<string, number>>} how many checks had each outcome
 */
export async function run(target, checks, say) {
  const server = await connect(target);
  const tell = (line) => say(target.key.length < SECRET_FROM ? line : line.replaceAll(target.key, '<key>'));
  const counts = Object.fromEntries(OUTCOMES.map((outcome) => [outcome, 0]));
  for (const check of checks) {
    const { outcome, reason, findings } = await conclude(check, server);
    counts[outcome] += 1;
    const label = outcome === 'differs' ? 'DIFFERS' : outcome;
    tell(`  ${label.padEnd(WIDTH)}  ${check.name}${reason ? ` (${reason})` : ''}`);
    for (const { where, expected, came } of findings.differences) {
      tell(`  ${' '.repeat(WIDTH)}    ${where}: expected ${expected}, came ${came}`);
    }
    for (const note of findings.notes) tell(`  ${' '.repeat(WIDTH)}    note: ${note}`);
  }
  tell('');
  tell(OUTCOMES.filter((outcome) => counts[outcome] > 0).map((outcome) => `${counts[outcome]} ${outcome}`).join(', '));
  return counts;
}

async function conclude(check, server) {
  const findings = new Findings();
  let ended;
  try {
    await check.run(server, findings);
  } catch (error) {
    if (error instanceof Ended) ended = error;
    else findings.differs('the answer', 'one that can be read', troubleOf(error));
  }
  if (findings.differences.length > 0) return { outcome: 'differs', findings };
  return { outcome: ended?.outcome ?? 'passed', reason: ended?.message, findings };
}

/** What kind of an error, and where it was met. Its message may quote the answer. */
function troubleOf(error) {
  const kind = [error.name, error.status, error.cause?.code ?? error.code].filter(Boolean).join(' ');
  const [place] = /checks\/\w+\.mjs:\d+/.exec(error.stack ?? '') ?? [];
  return place ? `${kind}, at ${place}` : kind;
}
