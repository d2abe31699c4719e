// Runs in each page of the tests: the package as `fairlead`, and what a test needs to tell what came of a call. Nothing
// but plain data leaves a page.

const { searchParams } = new URL(import.meta.url);
globalThis.fairlead = await import(`/fairlead/${searchParams.get('entry')}`);

/** An error's classes and fields. */
globalThis.tell = (error) => {
  const classes = [];
  for (let at = Object.getPrototypeOf(error); at && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    classes.push(at.constructor.name);
  }
  const { name, message, code, param, status, requestId, attempts, retryable, partial } = error;
  return {
    name, message, code, param, status, requestId, attempts, retryable, classes,
    partial: partial && { text: partial.text, usage: partial.usage },
    isFairleadError: error instanceof fairlead.FairleadError,
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
