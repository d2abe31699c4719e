// Server-sent events out of bytes, as far as a chat has them: data, and comments, in which the gateway tells what it
// waits for.

/** @param {ReadableStream<Uint8Array>} body @returns {AsyncGenerator<{ data?: string, comment?: string }>} */
export async function* eventsOf(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = '';
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const lines = rest.split('\n');
      rest = lines.pop();
      for (const line of lines.map((each) => each.replace(/\r$/, ''))) {
        if (line.startsWith(':')) yield { comment: line.slice(1).trim() };
        else if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''));
        else if (line === '' && data.length > 0) {
          yield { data: data.join('\n') };
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
