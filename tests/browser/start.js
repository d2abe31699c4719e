// Runs in each page of the tests, behind the import of the package as `fairlead`: what a test needs to tell what came
// of a call. Nothing but plain data leaves a page.

/** An error's fields, and which of the package's classes it is an instance of. */
globalThis.tell = (error) => {
  const isClass = (name) => /Error$/.test(name) && error instanceof fairlead[name];
  const classes = Object.keys(fairlead).filter(isClass).sort();
  const { name, message, code, param, status, requestId, attempts, retryable, partial } = error;
  return {
    name, message, code, param, status, requestId, attempts, retryable, classes,
    partial: partial && { text: partial.text, usage: partial.usage },
    cause: error.cause && String(error.cause),
  };
};

/** How a call ended: its text, or what `tell` says of its error. */
globalThis.outcome = async (ai, body, options) => {
  let text = '';
  try {
    const answer = await ai.chat.completions.create({ messages: [{ role: 'user', content: 'Hi' }], ...body }, options);
    if (!body.stream) return { text: answer.choices[0].message.content };
    for await (const chunk of answer) text += chunk.choices[0]?.delta.content ?? '';
    return { text };
  } catch (error) {
    return { text, error: tell(error) };
  }
};
