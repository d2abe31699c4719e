// wasm-bindgen-futures asks for a microtask at each turn of a future, and in workerd 1.20261117 each costs some 10 µs:
// 25 of the 660 µs of a request that is not streamed. A reaction to a settled promise is one, too, and costs one.
const settled = Promise.resolve();
const cheap = (task) => {
  settled.then(task);
};

/** Lets the futures of this isolate use the cheap ones. */
export function adopt() {
  globalThis.queueMicrotask = cheap;
}
