// What an isolate needs, asked of its inspector.

/** Resolves to something that tells the bytes of its JavaScript heap, of what hangs on that, and of its buffers. */
export async function openHeap(url) {
  const socket = new WebSocket(url);
  const waiting = [];
  socket.onmessage = ({ data }) => {
    const { id, result } = JSON.parse(data);
    if (id) waiting.shift()?.(result);
  };
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = reject;
  });
  const usage = () => new Promise((resolve) => {
    waiting.push(resolve);
    socket.send(JSON.stringify({ id: 1, method: 'Runtime.getHeapUsage' }));
  });
  return {
    async bytes() {
      const { usedSize, embedderHeapUsedSize, backingStorageSize } = await usage();
      return usedSize + embedderHeapUsedSize + backingStorageSize;
    },
    close: () => socket.close(),
  };
}
