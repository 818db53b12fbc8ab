// Small helpers that build and change the document. They know nothing of Pilcrow.
//
// Invariant: all text passes through `setText` or `textNode`, so markup in a name stays text. Nothing here or
// elsewhere parses HTML.

const SVG = "http://www.w3.org/2000/svg";

// Control characters, and characters without a width or that reverse the direction of the text.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

export const byId = (id) => document.getElementById(id);

// The text with its invisible characters written as escapes.
export function visible(text) {
  return String(text ?? "").replace(INVISIBLE, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

export const textNode = (text) => document.createTextNode(visible(text));

// Changes the text only if it differs, so that an event costs no layout and a screen reader is not disturbed.
export function setText(node, text) {
  const shown = visible(text);
  if (node.textContent !== shown) node.textContent = shown;
}

// Attributes that are read by people.
const READ = new Set(["title", "aria-label", "placeholder"]);

// Sets attributes that differ; `null`, `undefined` and `false` remove one.
export function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) {
      node.removeAttribute(name);
      continue;
    }
    const shown = READ.has(name) ? visible(value) : String(value);
    if (node.getAttribute(name) !== shown) node.setAttribute(name, shown);
  }
  return node;
}

function build(node, attributes, children) {
  setAttributes(node, attributes);
  for (const child of children) node.append(child instanceof Node ? child : textNode(child));
  return node;
}

export const element = (name, attributes = {}, ...children) =>
  build(document.createElement(name), attributes, children);

export const shape = (name, attributes = {}, ...children) =>
  build(document.createElementNS(SVG, name), attributes, children);

// Makes the children of `parent` agree with `items`: nodes of known keys stay, so focus and scroll position stay too.
export function sync(parent, items, keyOf, create, update = () => {}) {
  const known = (parent.known ??= new Map());
  const wanted = new Set(items.map((item) => String(keyOf(item))));
  for (const [key, node] of known) {
    if (wanted.has(key)) continue;
    node.remove();
    known.delete(key);
  }
  let before = parent.firstChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let node = known.get(key);
    if (!node) known.set(key, (node = create(item)));
    if (node === before) before = node.nextSibling;
    else parent.insertBefore(node, before);
    update(node, item);
  }
}

// A packet in full: its delimiter stands out.
export function showPacket(node, text) {
  if (node.shown === text) return;
  node.shown = text;
  node.replaceChildren(textNode(text), element("span", { class: "pilcrow" }, "¶"));
}

export const milliseconds = (us) => (us / 1000).toFixed(us < 10_000 ? 3 : us < 100_000 ? 2 : 1);

export const isMotionReduced = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// Each state has a shape of its own, so that nobody depends on its colour.
const ICONS = {
  up: "M8 1.5a6.5 6.5 0 1 0 .01 0ZM4.8 8.2l2.3 2.3 4.2-4.8",
  set_aside: "M8 1.5 15 14.5H1ZM8 6v4M8 11.7v1",
  down: "M2 2H14V14H2ZM5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6",
  leaving: "M8 1 15 8 8 15 1 8ZM5 8h5.4M8.4 5.9 10.6 8 8.4 10.1",
  frozen: "M8 1.5a6.5 6.5 0 1 0 .01 0ZM6.2 5.2v5.6M9.8 5.2v5.6",
  silent: "M4.8 1.5H11.2L14.5 4.8V11.2L11.2 14.5H4.8L1.5 11.2V4.8ZM6 6.2a2 2 0 1 1 2 2.2V9.6M8 11.2v1",
};
const SAME_ICON = { running: "up", on: "up", ended: "down", off: "down", starting: "silent", hidden: "silent" };

export function drawIcon(path, state) {
  const icon = SAME_ICON[state] ?? (ICONS[state] ? state : "silent");
  return setAttributes(path, { d: ICONS[icon], class: `icon ${icon}` });
}

export function iconFor(state) {
  return shape("svg", { viewBox: "0 0 16 16", class: "state-icon", "aria-hidden": "true" }, drawIcon(shape("path"), state));
}
