// Where examples are compiled and run: a folder that has the package and what goes with it in its node_modules, before a
// gateway and endpoints that are simulated.

import { transform } from 'esbuild';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { bin } from '../../scripts/setup.mjs';
import { Fairlead } from '../../pkg-js/dist/node.js';
import { startVllm } from '../upstream/vllm.mjs';
import { endpointsOf, startGateway, STAYS_CLOSED } from '../worker/gateway.mjs';

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const PACKAGE = path('../../pkg-js');

const TSCONFIG = {
  compilerOptions: {
    target: 'ES2022', lib: ['ES2023', 'ESNext.Disposable', 'DOM', 'DOM.Iterable', 'DOM.AsyncIterable'], types: [],
    module: 'ESNext', moduleResolution: 'bundler', jsx: 'preserve', strict: true, exactOptionalPropertyTypes: true,
    allowJs: true, checkJs: true, noEmit: true, skipLibCheck: true,
  },
};

/** As much of React as a hook needs: state, and effects that are undone when what they depend on changes. */
const REACT = `
  let current;
  export function useState(initial) {
    const component = current;
    const cell = (component.cells[component.at] ??= { value: initial });
    component.at += 1;
    return [cell.value, (next) => {
      cell.value = typeof next === 'function' ? next(cell.value) : next;
      component.changed();
    }];
  }
  export function useEffect(effect, dependencies) {
    const cell = (current.cells[current.at] ??= {});
    current.at += 1;
    if (cell.dependencies?.every((value, index) => Object.is(value, dependencies[index]))) return;
    cell.dependencies = dependencies;
    current.effects.push(() => {
      cell.undo?.();
      cell.undo = effect();
    });
  }
  export function mount(hook, args) {
    const waiting = new Set();
    const component = {
      cells: [], at: 0, effects: [], result: undefined, isMounted: true,
      changed() {
        if (!component.isMounted) throw new Error('The state of a component that is gone was set.');
        component.render();
      },
      update(next) {
        args = next;
        component.render();
      },
      render() {
        [current, component.at, component.effects] = [component, 0, []];
        component.result = hook(...args);
        current = undefined;
        for (const run of component.effects.splice(0)) run();
        for (const look of [...waiting]) look();
      },
      until: (predicate) => new Promise((resolve) => {
        const look = () => {
          if (!predicate(component.result)) return;
          waiting.delete(look);
          resolve();
        };
        waiting.add(look);
        look();
      }),
      unmount() {
        component.isMounted = false;
        for (const { undo } of component.cells) undo?.();
      },
    };
    component.render();
    return component;
  }
`;

export async function startWorkshop() {
  const workshop = new Workshop();
  try {
    await workshop.start();
  } catch (error) {
    await workshop.close();
    throw error;
  }
  return workshop;
}

class Workshop {
  /** Behind the gateway. */
  vllm;
  /** Endpoints by themselves. */
  a100;
  spare;
  gateway;
  /** What has been logged since the last reset. */
  said = [];
  /** What the page's own server answers. */
  routes = new Map();
  #shown = '';
  #folder;
  #runs = 0;

  async start() {
    [this.vllm, this.a100, this.spare] = await Promise.all([startVllm(), startVllm(), startVllm()]);
    this.gateway = await startGateway({
      open: true,
      endpoints: endpointsOf({ vllm: this.vllm }),
      models: ['qwen', 'demo'].map((name) => ({ name, targets: [{ endpoint: 'vllm' }] })),
      // In silence it notices by its comments that the client has left.
      policies: { default: { breaker: STAYS_CLOSED, keepalive_ms: 100 } },
    });
    this.#folder = await realpath(await mkdtemp(join(tmpdir(), 'fairlead-readme-')));
    await this.#write('package.json', JSON.stringify({ type: 'module' }));
    await this.#write('tsconfig.json', JSON.stringify(TSCONFIG));
    await this.#write('others.d.ts', await readFile(path('others.d.ts')));
    // Where a page has its copy.
    await this.#write('index.d.ts', "export * from 'fairlead';\n");
    await this.#write('node_modules/react/package.json', JSON.stringify({ type: 'module', exports: './index.js' }));
    await this.#write('node_modules/react/index.js', REACT);
    await symlink(PACKAGE, join(this.#folder, 'node_modules/fairlead'));
    await symlink(path('../../node_modules/openai'), join(this.#folder, 'node_modules/openai'));
    this.#lend();
  }

  /** Forgets what was asked, shown and said. */
  reset() {
    for (const server of [this.vllm, this.a100, this.spare]) server.reset();
    [this.#shown, this.said] = ['', []];
    this.#lend();
  }

  /** What the compiler says of these examples. */
  async compile(examples) {
    const names = new Map();
    for (const [at, { name, language, code }] of examples.entries()) {
      const file = `example-${at}.${language === 'html' ? 'js' : language}`;
      names.set(file, name);
      await this.#write(file, `${scriptOf(language, code)}\nexport {};\n`);
    }
    const said = await new Promise((resolve) => {
      const end = (_, stdout, stderr) => resolve(stdout + stderr);
      execFile(bin('tsc'), ['--project', this.#folder, '--pretty', 'false'], { cwd: this.#folder }, end);
    });
    const exampleOf = (message) => names.get(message.match(/^[\w-]+\.\w+/)?.[0]);
    return said.split('\n').filter(Boolean).map((message) => ({ name: exampleOf(message), message }));
  }

  /** Runs an example to its end. Gives what it exports, with what it has shown and said. */
  async run({ language, code }, exports = '') {
    const source = await this.#atHome(`${scriptOf(language, code)}${exports}`);
    const loader = language === 'html' ? 'js' : language;
    const { code: script } = await transform(source, { loader, format: 'esm', target: 'node20' });
    this.#runs += 1;
    const file = await this.#write(`run-${this.#runs}.mjs`, script);
    const exported = await import(pathToFileURL(file));
    return { ...exported, shown: this.#shown, said: this.said };
  }

  /** A module as the examples see it. */
  import(name) {
    return import(pathToFileURL(join(this.#folder, 'node_modules', name, 'index.js')));
  }

  async close() {
    await this.gateway?.close();
    await Promise.all([this.vllm, this.a100, this.spare].map((server) => server?.close()));
    if (this.#folder) await rm(this.#folder, { recursive: true });
  }

  /** With the servers that are here instead of those that are named. */
  async #atHome(source) {
    const wasm = await readFile(join(PACKAGE, 'dist/core.wasm'), 'base64');
    return source
      .replaceAll('https://gateway.example.com', this.gateway.url)
      .replaceAll('http://127.0.0.1:8787', this.gateway.url)
      .replaceAll('https://a100.example.com', this.a100.url)
      .replaceAll('https://spare.example.com', this.spare.url)
      .replace("import wasm from 'fairlead/core.wasm?url';", `const wasm = 'data:application/wasm;base64,${wasm}';`)
      .replace("from './index.js'", "from 'fairlead'")
      .replace(/document\.body\.append\(|process\.stdout\.write\(/g, 'show(')
      .replaceAll('console.log(', 'said(')
      .replaceAll("fetch('/", "ownFetch('/");
  }

  /** What the examples take for granted. */
  #lend() {
    const kept = new Map();
    process.env.GATEWAY_URL = `${this.gateway.url}/v1`;
    process.env.GATEWAY_KEY = 'any';
    Object.assign(globalThis, {
      ai: new Fairlead({ baseURL: `${this.gateway.url}/v1`, logLevel: 'off' }),
      show: (text) => { this.#shown += text; },
      said: (...words) => { this.said.push(words); },
      messages: [{ role: 'user', content: 'What is a fairlead?' }],
      ownFetch: (route, init) => this.routes.get(route)(new Request(new URL(route, 'https://app.example.com'), init)),
    });
    Object.defineProperty(globalThis, 'sessionStorage', {
      configurable: true,
      value: { getItem: (key) => kept.get(key) ?? null, setItem: (key, text) => kept.set(key, text) },
    });
  }

  async #write(name, content) {
    const file = join(this.#folder, name);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, content);
    return file;
  }
}

/** The code of an example: of a page its script. */
const scriptOf = (language, code) =>
  (language === 'html' ? code.match(/<script type="module">([^]*?)<\/script>/)[1] : code);
