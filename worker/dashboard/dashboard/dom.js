// Elements, and how a picture of now becomes the page without taking anything from under the reader's hands.
//
// What the gateway tells is made text here and never markup: there is no other way in.

const SVG = 'http://www.w3.org/2000/svg';

/**
 * An element. A tag that begins with `svg:` is of SVG.
 * @param {string} tag
 * @param {Record<string, string | number | boolean | null | undefined>} [attributes] none where false or missing
 * @param {...(Node | string | number | null | undefined | false | any[])} children
 */
export function h(tag, attributes, ...children) {
  const element = tag.startsWith('svg:') ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child || child === 0).map((child) =>
    (child instanceof Node ? child : document.createTextNode(child))));
  return element;
}

/**
 * Makes these the children of an element. What is alike stays the same node, so that focus, a selection and what is
 * unfolded outlive the news; what moves about is recognised by its `data-key`.
 */
export function show(place, ...children) {
  syncChildren(place, h('div', null, ...children));
}

function sync(old, wanted) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // Whether it is unfolded is the reader's business.
    if (!wanted.hasAttribute(name) && !(name === 'open' && old.localName === 'details')) old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  syncChildren(old, wanted);
}

function syncChildren(old, wanted) {
  const keyed = new Map([...old.children].filter(keyOf).map((child) => [keyOf(child), child]));
  let at = old.firstChild;
  for (const child of [...wanted.childNodes]) {
    const key = keyOf(child);
    const twin = key ? keyed.get(key) : at && !keyOf(at) && at;
    if (!twin || twin.nodeName !== child.nodeName) {
      old.insertBefore(child, at);
      continue;
    }
    if (twin === at) at = at.nextSibling;
    else old.insertBefore(twin, at);
    sync(twin, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const keyOf = (node) => node.dataset?.key;
