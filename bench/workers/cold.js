// Gives every request to an isolate of its own, made for it, as the platform does at a cold start.

import compatibilityDate from './date.txt';
import main from './subject.js.txt';
import wasm from './subject.wasm.bin';

const modules = { 'index.js': main };
if (wasm.byteLength > 0) modules['index_bg.wasm'] = { wasm };
let count = 0;

export default {
  fetch(request, { LOADER, ...env }) {
    count += 1;
    const isolate = LOADER.get(`${count}`, () => ({
      compatibilityDate, mainModule: 'index.js', modules, env,
    }));
    return isolate.getEntrypoint().fetch(request);
  },
};
