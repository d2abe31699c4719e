// The blocks of code of everything that people read, and what kind each is. docs/README.md says which kinds there are.

import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../../scripts/process.mjs';

const below = (folder, fits) => readdirSync(join(root, folder)).filter(fits).map((name) => `${folder}/${name}`);

/** Paths from the root, but that of the page that says how pages are written. */
export const PAGES = [
  'README.md',
  'pkg-js/README.md',
  ...below('docs', (name) => name.endsWith('.md') && name !== 'README.md'),
  ...below('examples', () => true).map((folder) => `${folder}/README.md`).filter((page) => existsSync(join(root, page))),
];

/** The blocks of a page: `kind` is the info string, `line` where it begins, `heading` what it stands below. */
export function blocksOf(page) {
  const blocks = [];
  let heading = '';
  let open;
  for (const [at, line] of readFileSync(join(root, page), 'utf8').split('\n').entries()) {
    const [, indent, fence, info] = /^( *)(`{3,}|~{3,})(.*)$/.exec(line) ?? [];
    if (open) {
      if (fence === open.fence && info === '') {
        blocks.push(open);
        open = undefined;
      } else {
        open.code += `${line.slice(0, open.indent).trim()}${line.slice(open.indent)}\n`;
      }
    } else if (fence) {
      open = { page, heading, line: at + 1, kind: info.trim(), fence, indent: indent.length, code: '' };
    } else if (/^#+ /.test(line)) {
      heading = line.replace(/^#+ /, '');
    }
  }
  if (open) throw new Error(`${page}:${open.line} begins a block that does not end`);
  return blocks;
}
