// The site: the pages of `docs/`, and those elsewhere in the repository that they link to. Every page stays where it is,
// so that the links that work in the repository work here.
//
// VitePress, because it comes with npm in seconds, brings its fonts and its search along, and needs no other host.

import { cpSync, existsSync, globSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join, posix, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deadLinks } from './links.mjs';

const repository = fileURLToPath(new URL('../../', import.meta.url));

const base = process.env.DOCS_BASE ?? '/';

/** In the order in which one would read them. */
const SIDEBAR = {
  Start: { 'docs/index.md': 'What it is', 'docs/concepts.md': 'Concepts', 'docs/recipes.md': 'Recipes' },
  Configure: {
    'docs/configuration.md': 'Reference',
    'docs/live-config.md': 'Without a deploy',
    'docs/clients.md': 'Clients and limits',
    'docs/policies.md': 'Policies',
    'docs/http.md': 'Routes and headers',
    'docs/errors.md': 'Errors',
  },
  'In depth': {
    'docs/routing.md': 'Targets and breakers',
    'docs/runpod.md': 'RunPod',
    'docs/handlers.md': 'RunPod handlers',
    'docs/resume.md': 'When a stream breaks',
    'pkg-js/README.md': 'From JavaScript',
  },
  Run: {
    'docs/deploy.md': 'Deploy',
    'examples/production/README.md': 'A production set-up',
    'docs/self-host.md': 'Without Cloudflare',
    'docs/operate.md': 'Operate',
    'docs/dashboard.md': 'The dashboard',
    'docs/live-test.md': 'Ask your own servers',
    'docs/game-day.md': 'Game day',
    'docs/security.md': 'Security',
  },
  'How it is built': {
    'docs/design.md': 'Design',
    'ARCHITECTURE.md': 'Architecture',
    'docs/fleet.md': 'The breaker in a fleet',
    'bench/RESULTS.md': 'What it costs',
    'docs/fuzzing.md': 'Fuzzing',
    'CHANGELOG.md': 'Changes',
  },
};
/** Pages that others link to, and that nobody looks for. */
const BESIDE = [
  'README.md', 'examples/workerd/README.md', 'tests/upstream/README.md', 'tests/upstream/runpod/README.md', 'tests/live/README.md',
];

/** Pictures in letters fit, and an underline does not hide the underscores of a name. */
const STYLE = '.vp-doc .language-text code { font-size: 11.5px } .vp-doc a:has(> code) { text-decoration: none }';

const there = (page) => existsSync(join(repository, page));
const listed = Object.values(SIDEBAR).flatMap(Object.keys);
const pages = [...listed, ...BESIDE].filter(there);
const unlisted = readdirSync(join(repository, 'docs')).filter((name) => name.endsWith('.md') && name !== 'README.md')
  .map((name) => `docs/${name}`).filter((page) => !listed.includes(page));
if (unlisted.length > 0) throw new Error(`not in the sidebar of docs/.vitepress/config.mjs: ${unlisted.join(', ')}`);

/** Files that pages link to and that are no pages: they are put beside them as they are. */
const files = new Set();

/** As GitHub has it, so that one anchor serves both. */
const slugify = (title) => title.trim().toLowerCase().replace(/[^\p{L}\p{N}_\- ]/gu, '').replaceAll(' ', '-');

export default {
  title: 'Fairlead',
  description: 'The resilient route to your own GPUs.',
  lang: 'en',
  base,
  srcDir: '..',
  srcExclude: notPages(),
  outDir: './.vitepress/dist',
  head: [['link', { rel: 'icon', href: 'data:,' }], ['style', {}, STYLE]],
  themeConfig: {
    logoLink: `${base}docs/`,
    search: { provider: 'local' },
    outline: [2, 3],
    sidebar: Object.entries(SIDEBAR).map(([text, entries]) => ({
      text,
      items: Object.entries(entries).filter(([page]) => there(page))
        .map(([page, title]) => ({ text: title, link: `/${page.replace(/(index)?\.md$/, '')}` })),
    })),
  },
  vite: { plugins: [{ name: 'vue-beside-docs', enforce: 'pre', resolveId: leaveVue }] },
  markdown: { anchor: { slugify }, config: collectFiles },
  buildEnd({ outDir }) {
    for (const file of files) {
      mkdirSync(dirname(join(outDir, file)), { recursive: true });
      cpSync(join(repository, file), join(outDir, file));
    }
    // Pages keep their paths, so the first of them is not the root.
    writeFileSync(join(outDir, 'index.html'), '<!doctype html><meta http-equiv="refresh" content="0; url=docs/"><a href="docs/">Fairlead</a>\n');
    const dead = deadLinks(outDir, base);
    if (dead.length > 0) throw new Error(`dead links:\n${dead.map(({ page, href }) => `  ${page}: ${href}`).join('\n')}`);
  },
};

/** All that is not on the way to a page, so that builds and tools are not even looked through; and what lies beside one. */
function notPages() {
  const tops = new Set(pages.map((page) => page.split('/')[0]));
  const folders = [...tops].filter((top) => !top.endsWith('.md'));
  const beside = globSync(folders.map((folder) => `${folder}/**/*.md`), { cwd: repository, exclude: (name) => name === 'node_modules' })
    .map((name) => name.replaceAll('\\', '/')).filter((name) => !pages.includes(name));
  return [...readdirSync(repository).filter((name) => !tops.has(name)).flatMap((name) => [name, `${name}/**`]), ...beside];
}

/** Pages outside `docs/` would not find Vue. What renders them at the end of the build does. */
function leaveVue(id, _, { ssr }) {
  return ssr && /^vue(\/server-renderer)?$/.test(id) ? { id, external: true } : undefined;
}

/** A rule of markdown-it that takes note of links to files. */
function collectFiles(md) {
  md.core.ruler.push('files', ({ tokens, env }) => {
    const folder = posix.dirname(relative(repository, env.realPath ?? env.path).replaceAll('\\', '/'));
    for (const token of tokens.flatMap(({ children }) => children ?? [])) {
      const href = token.type === 'link_open' ? token.attrGet('href') : null;
      if (!href || /^[a-z]+:|^[#/]/.test(href) || /\.md(#|$)/.test(href)) continue;
      const file = posix.join(folder, href.replace(/#.*/, ''));
      if (!there(file)) throw new Error(`${folder} links to ${href}, and there is no such file`);
      files.add(file);
      // Not a page, so the router has to let go of it.
      token.attrSet('target', '_self');
    }
  });
}
