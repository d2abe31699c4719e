// The packed package in Node, the oldest that it supports and a new one, as a module and by `require`.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { machineNode } from '../../scripts/setup.mjs';
import { DEFAULT_TEXT } from '../upstream/tokens.mjs';
import { startVllm } from '../upstream/vllm.mjs';
import { startProjects } from './project.mjs';

const ASK = `
  const ai = new Fairlead({ baseURL: process.argv[2], apiKey: 'key' });
  const ask = async () => {
    const messages = [{ role: 'user', content: 'Hi' }];
    const whole = await ai.chat.completions.create({ model: 'qwen', messages });
    let text = '';
    for await (const chunk of await ai.chat.completions.create({ model: 'qwen', messages, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? '';
    }
    console.log(JSON.stringify([whole.choices[0].message.content, text]));
  };
  ask();
`;

let vllm;
let projects;
before(async () => {
  [vllm, projects] = await Promise.all([startVllm({ apiKey: 'key' }), startProjects()]);
  await projects.create('.', {
    'module.mjs': `import { Fairlead } from 'fairlead'; ${ASK}`,
    'required.cjs': `const { Fairlead } = require('fairlead'); ${ASK}`,
  });
});
after(async () => {
  await projects?.close();
  await vllm.close();
});

const nodes = { 'the packaged Node': process.execPath, 'the Node of this machine': machineNode() };
for (const [name, node] of Object.entries(nodes)) {
  describe(name, () => {
    for (const file of ['module.mjs', 'required.cjs']) {
      it(`runs ${file}, ends by itself, and says nothing else`, async (t) => {
        const { stdout: version } = await projects.run(node, ['--version']);
        if (file === 'required.cjs' && !requiresModules(version)) return t.skip('this Node cannot require a module');
        // Node 20 warns that to require a module is experimental.
        const quiet = '--disable-warning=ExperimentalWarning';
        const { stdout, stderr } = await projects.run(node, [quiet, file, `${vllm.url}/v1`]);
        assert.deepEqual([JSON.parse(stdout), stderr], [[DEFAULT_TEXT, DEFAULT_TEXT], '']);
      });
    }
  });
}

/** From 20.19 on, and from 22.12. */
function requiresModules(version) {
  const [major, minor] = version.slice(1).split('.').map(Number);
  return major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19);
}
