// A reporter for `node --test`, beside the one that people read: how each test ended, as a line of JSON for test.mjs.

const isSaid = (reason) => reason !== undefined && reason !== false;

export default async function* outcomes(events) {
  for await (const { type, data } of events) {
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    const skipped = isSaid(data.skip) || isSaid(data.todo);
    if (data.details.type === 'suite' && !skipped) continue; // its tests speak for it
    const outcome = skipped ? 'skipped' : type === 'test:pass' ? 'passed' : 'failed';
    yield `${JSON.stringify({ name: data.name, outcome })}\n`;
  }
}
