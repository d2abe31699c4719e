// The types of the packed package, as the strictest projects see them: the same use of them as in tests/sdk/types, with
// the package's own files checked, too.

import { readFile } from 'node:fs/promises';
import { after, before, it } from 'node:test';
import { bin } from '../../scripts/setup.mjs';
import { startProjects } from './project.mjs';

const STRICT = {
  strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, noEmit: true, skipLibCheck: false,
  target: 'ES2022', types: [],
};
const DOM = ['ES2022', 'DOM', 'DOM.Iterable', 'DOM.AsyncIterable', 'ESNext.Disposable'];
const PROJECTS = {
  'a bundler': { ...STRICT, module: 'ESNext', moduleResolution: 'bundler', lib: DOM },
  "Node's own resolution": { ...STRICT, module: 'NodeNext', moduleResolution: 'nodenext', lib: DOM },
  "Node without a browser's types": {
    ...STRICT, module: 'NodeNext', moduleResolution: 'nodenext', lib: ['ES2022', 'ESNext.Disposable'], types: ['node'],
  },
};
/** For pages: without a browser's types there is no name for a WebAssembly.Module. */
const SLIM = `
  import { Fairlead, init } from 'fairlead/slim';
  export const ready: Promise<void> = init(new URL('core.wasm', 'https://app.example.com'));
  export const ai = new Fairlead({ baseURL: 'https://gateway.example.com/v1' });
`;

let projects;
let usage;
before(async () => {
  projects = await startProjects();
  await Promise.all(['@types/node', 'undici-types'].map((name) => projects.lend(name)));
  usage = (await readFile(new URL('../sdk/types/usage.ts', import.meta.url), 'utf8'))
    .replace(/'[./]+pkg-js\/ts\/index\.js'/, "'fairlead'");
});
after(() => projects?.close());

for (const [name, compilerOptions] of Object.entries(PROJECTS)) {
  it(`under ${name}`, async () => {
    const cwd = await projects.create(name.replace(/\W/g, '-'), {
      'usage.ts': usage,
      ...(compilerOptions.lib === DOM && { 'slim.ts': SLIM }),
      'tsconfig.json': { compilerOptions, include: ['*.ts'] },
    });
    await projects.run(bin('tsc'), [], { cwd });
  });
}
