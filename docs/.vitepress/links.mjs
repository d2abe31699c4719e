// The links of the built site: each has to lead to a file of it, and to a place in that file.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';

const all = (text, pattern) => [...text.matchAll(pattern)].map(([, found]) => found);

/** Those that lead nowhere, as { page, href }; one to another host leads somewhere. */
export function deadLinks(folder, base) {
  const html = readdirSync(folder, { recursive: true }).map((name) => name.replaceAll('\\', '/')).filter((name) => name.endsWith('.html'));
  const texts = new Map(html.map((page) => [page, readFileSync(join(folder, page), 'utf8')]));
  const ids = new Map([...texts].map(([page, text]) => [page, new Set(all(text, / id="([^"]*)"/g))]));
  const leads = (page, href) => {
    const [path, anchor] = href.split('#');
    let target = path === '' ? page : path.startsWith('/') ? path.slice(base.length) : posix.join(dirname(page), path);
    if (path.startsWith('/') && !path.startsWith(base)) return false;
    if (target === '' || target === '.' || target.endsWith('/')) target = posix.join(target, 'index.html');
    if (!existsSync(join(folder, target))) return false;
    return !anchor || !ids.has(target) || ids.get(target).has(decodeURIComponent(anchor));
  };
  return [...texts].flatMap(([page, text]) =>
    all(text, /<a [^>]*?href="([^"]*)"/g).map((href) => href.replaceAll('&amp;', '&'))
      .filter((href) => !/^[a-z]+:/.test(href) && page !== '404.html' && !leads(page, href))
      .map((href) => ({ page, href })));
}
