// Runs in a page that has never seen the package: from here to the request of a first call. `started` has the milliseconds
// of each step.

const { entry, wasm } = Object.fromEntries(new URL(import.meta.url).searchParams);
const spans = {};

/** When a function of the platform was called, and when it was done. */
function watch(object, name) {
  const own = object[name];
  object[name] = async (...args) => {
    const from = performance.now();
    const result = await own.apply(object, args);
    spans[name] = { from, to: performance.now() };
    return result;
  };
}
for (const name of ['compile', 'compileStreaming', 'instantiate']) watch(WebAssembly, name);

const begun = performance.now();
const { Fairlead, init, OpenAI } = await import(entry);
const loaded = performance.now();
await init?.(...(wasm ? [fetch(wasm)] : []));
const ready = performance.now();

/** When a client's first call asks for something. */
const asked = (Client, more) => new Promise((resolve) => {
  const client = new Client({
    baseURL: `${location.origin}/v1`, apiKey: 'any', logLevel: 'off', maxRetries: 0, ...more,
    fetch: async () => {
      resolve(performance.now());
      return new Response(null, { status: 400 });
    },
  });
  client.chat.completions.create({ model: 'any', messages: [{ role: 'user', content: 'Hi' }] }).catch(() => {});
});
let sent = ready;
if (Fairlead) sent = await asked(Fairlead);
if (OpenAI) sent = await asked(OpenAI, { dangerouslyAllowBrowser: true });

const compile = spans.compile ?? spans.compileStreaming;
export const started = {
  load: loaded - begun,
  ...(compile && {
    unpack: compile.from - loaded,
    compile: compile.to - compile.from,
    instantiate: ready - compile.to,
  }),
  ...(sent > ready && { call: sent - ready }),
  total: sent - begun,
};
