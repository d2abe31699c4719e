// The dashboard's files out of whatever serves them: Cloudflare's static assets, or a folder of workerd's own, which knows
// neither types nor `_headers`.

const TYPES = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml',
};

/** A name without a way out of its folder. */
const FILE = /^\/(?:dashboard\/)?[a-z]+\.([a-z]+)$/;

/**
 * @param {{ fetch: typeof fetch }} assets
 * @param {string} method
 * @param {string} path as it was asked for
 * @param {string} fields the text of `_headers`
 * @returns {Promise<Response | undefined>} none where there is no such file
 */
export async function file(assets, method, path, fields) {
  const name = path === '/' ? '/index.html' : path;
  const type = TYPES[FILE.exec(name)?.[1]];
  if (!type) return undefined;
  const found = await assets.fetch(`https://assets${name}`, { method });
  if (!found.ok) {
    await found.body?.cancel();
    return undefined;
  }
  const response = new Response(found.body, found);
  for (const [, field, value] of fields.matchAll(/^ +([\w-]+): (.*)$/gm)) response.headers.set(field, value);
  response.headers.set('content-type', type);
  return response;
}
