// Just enough multipart/form-data for the audio routes: texts as strings, files as their size.

export function formFields(contentType, body) {
  const boundary = /boundary="?([^";]+)"?/i.exec(contentType)?.[1];
  if (!boundary) return {};
  const fields = {};
  // latin1 maps every byte to one character and back, so a file's bytes survive the split.
  const parts = `\r\n${body.toString('latin1')}`.split(`\r\n--${boundary}`).slice(1, -1);
  for (const part of parts) {
    const blank = part.indexOf('\r\n\r\n');
    const head = part.slice(0, blank);
    const name = /;\s*name="([^"]*)"/i.exec(head)?.[1];
    const value = Buffer.from(part.slice(blank + 4), 'latin1');
    fields[name] = /;\s*filename=/i.test(head) ? { bytes: value.length } : value.toString();
  }
  return withSim(fields);
}

/** A form carries the simulator's options as JSON in a text field. */
function withSim(fields) {
  if (fields.sim === undefined) return fields;
  try {
    return { ...fields, sim: JSON.parse(fields.sim) };
  } catch {
    return { ...fields, sim: { fault: fields.sim } };
  }
}
