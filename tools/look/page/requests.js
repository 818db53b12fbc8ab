// The list of recent requests, and the search of an operator.
//
// Without a filter the list follows the stream. With one, `look` is asked again at most once a second, because it
// keeps more requests than this page.

import { byId, element, iconFor, milliseconds, setAttributes, setText, sync } from "./dom.js";
import { getJson, live, touch, watch } from "./live.js";
import { openJourney } from "./journey.js";
import { currentTab, onTab } from "./tabs.js";
import { t } from "./text.js";

const MAX_ROWS = 60;
const ASK_AGAIN_MS = 1000;

let found = null; // the answer to the filters; null without a filter
let asked = 0; // the number of the newest question
let askTimer = null;

function filters() {
  const values = {
    id: byId("filter-id").value.trim(),
    route: byId("filter-route").value.trim(),
    status: byId("filter-status").value.trim(),
    instance: byId("filter-instance").value,
    sort: byId("filter-slowest").checked ? "slowest" : "",
  };
  return Object.entries(values).filter(([, value]) => value);
}

const addressOf = (chosen, limit) => `/journeys.json?${new URLSearchParams([...chosen, ["limit", limit]])}`;

async function ask() {
  askTimer = null;
  const chosen = filters();
  const mine = (asked += 1);
  setAttributes(byId("journeys-json"), { href: addressOf(chosen, 100) });
  if (!chosen.length) {
    found = null;
    return touch("requests");
  }
  const answer = await getJson(addressOf(chosen, MAX_ROWS)).catch(() => ({ journeys: [] }));
  if (mine !== asked) return; // a newer question is on its way
  found = answer.journeys;
  touch("requests");
}

function statusCell(status) {
  const kind = status >= 500 ? "down" : status >= 400 ? "set_aside" : "up";
  return element("span", { class: "status", "data-state": kind }, iconFor(kind), String(status));
}

// Ids of one gateway differ only at the end.
const endOf = (id) => (id.length > 11 ? `…${id.slice(-10)}` : id);

function createRow(journey) {
  const time = new Date(journey.at_ms).toTimeString().slice(0, 8);
  const hooks = { "data-journey": journey.number, "data-id": journey.id };
  const button = element("button", { type: "button", class: "request-row", ...hooks },
    statusCell(journey.status),
    element("span", { class: "path", title: `${journey.method} ${journey.path}` }, `${journey.method} ${journey.path}`),
    element("span", { class: "took" }, `${milliseconds(journey.took_us)} ms`),
    element("span", { class: "instance" }, journey.instance ?? "–"),
    element("span", { class: "id", title: journey.id }, endOf(journey.id)),
    element("span", { class: "clock" }, time));
  button.addEventListener("click", () => openJourney(journey.number));
  return element("li", {}, button);
}

function renderChoices() {
  const instances = live.system?.instances.map((one) => one.address) ?? [];
  const update = (option, address) => setText(option, address || t("any"));
  sync(byId("filter-instance"), ["", ...instances], String, (value) => element("option", { value }), update);
  const routes = new Set(live.system?.instances.flatMap((one) => one.routes.map((route) => route.replace(/^[A-Z]+/, ""))));
  sync(byId("routes"), [...routes].slice(0, 100), String, (value) => element("option", { value }));
}

function note(rows, isHeld) {
  const off = live.system?.gateways.length && live.system.gateways.every((gateway) => gateway.journeys === "off");
  if (off) return t("explain_off");
  if (!rows.length) return t(found ? "requests_no_match" : "requests_none");
  if (isHeld) return t("requests_held");
  return live.lost ? t("requests_lost", { n: live.lost }) : "";
}

function render() {
  const list = byId("requests-list");
  // A row must not move away under the pointer, or under the focus of the keyboard.
  const isHeld = !found && list.childElementCount > 0 && list.matches(":hover, :focus-within");
  const rows = found ?? live.journeys.slice(0, MAX_ROWS);
  if (!isHeld) sync(list, rows, (journey) => `${journey.number} ${journey.id}`, createRow);
  setText(byId("requests-note"), note(rows, isHeld));
}

byId("filters").addEventListener("input", ask);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["pointerleave", "focusout"]) byId("requests-list").addEventListener(name, () => touch("requests"));
onTab(() => touch("requests"));
watch(["system", "language"], renderChoices);
watch(["journeys", "requests", "language"], (topics) => {
  if (currentTab() !== "requests") return;
  if (found && topics.has("journeys")) askTimer ??= setTimeout(ask, ASK_AGAIN_MS);
  render();
});
