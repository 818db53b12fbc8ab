// The tabs of the panel at the right. The fragment of the address names the open one, so it can be linked:
// `#changes`, or `#journey-17` for one journey.

import { byId, setAttributes } from "./dom.js";

const NAMES = ["requests", "journey", "changes", "switches"];
const listeners = [];
let current = "";

export const currentTab = () => current;

// Calls `listener(name)` after another tab has been opened.
export const onTab = (listener) => listeners.push(listener);

export function openTab(name, fragment = name) {
  const isNew = name !== current;
  current = name;
  history.replaceState(null, "", `${location.pathname}${location.search}#${fragment}`);
  for (const one of NAMES) {
    const isOpen = one === name;
    setAttributes(byId(`tab-${one}`), { "aria-selected": isOpen, tabindex: isOpen ? 0 : -1 });
    byId(one).hidden = !isOpen;
  }
  if (isNew) for (const listener of listeners) listener(name);
}

// Shows or hides a tab that the system may not offer.
export function offerTab(name, isOffered) {
  byId(`tab-${name}`).hidden = !isOffered;
  if (!isOffered && current === name) openTab(NAMES[0]);
}

function moveFocus(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const offered = NAMES.filter((name) => !byId(`tab-${name}`).hidden);
  const next = offered[(offered.indexOf(current) + by + offered.length) % offered.length];
  openTab(next);
  byId(`tab-${next}`).focus();
}

for (const name of NAMES) {
  byId(`tab-${name}`).addEventListener("click", () => openTab(name));
  byId(`tab-${name}`).addEventListener("keydown", moveFocus);
}

// Opens the tab that the address names. Returns the number of the journey that it names.
export function openNamedTab() {
  const [name, number] = location.hash.slice(1).split("-");
  openTab(NAMES.includes(name) ? name : NAMES[0], location.hash.slice(1) || NAMES[0]);
  return name === "journey" && number ? Number(number) : null;
}
