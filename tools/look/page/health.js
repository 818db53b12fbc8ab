// Says in sentences how the system is. Everything comes from the `system` object; nothing is remembered.

import { byId, element, iconFor, setText, sync, textNode } from "./dom.js";
import { live, isSecured, watch } from "./live.js";
import { number, pieces, t } from "./text.js";

const MAX_SENTENCES = 3; // with the one that counts the others

// Values that are names stand in the typeface of code.
const CODE = new Set(["name", "address"]);

// What is wrong, the most important first: `{ state, key, values, next_ms? }`.
function findProblems(system) {
  const frozen = system.processes.filter((process) => process.state === "frozen");
  const isFrozen = (address) => frozen.some((process) => process.address === address);
  const problems = [];
  const add = (state, key, values, next_ms) => problems.push({ state, key, values, next_ms });

  for (const { address, state } of system.distributors) {
    if (state !== "up" && !isFrozen(address)) add("down", "health_distributor", { address });
  }
  for (const { address, state, why } of system.gateways) {
    if (state !== "up" && !isFrozen(address)) add(state, `health_gateway_${state}`, { address, why });
  }
  for (const { label, address } of frozen) add("frozen", "health_frozen", { name: label, address });
  for (const { service, address, state } of system.instances) {
    if (state === "down") add("down", "health_instance_down", { name: service, address });
    if (state === "leaving") add("leaving", "health_leaving", { name: service, address });
  }
  addLinkProblems(system, add);
  const failed = system.totals.failed_per_second;
  if (failed > 0) add("set_aside", "health_failed", { number: number(failed) });
  if (!system.gateways.length) add("silent", "no_gateway", {});
  if (!system.instances.length) add("silent", "no_instance", {});
  return problems;
}

// Several gateways can say the same of one instance. It is said once.
function addLinkProblems(system, add) {
  const isUp = (address) => system.instances.some((one) => one.address === address && one.state === "up");
  const told = new Set();
  for (const gateway of system.gateways.filter((one) => one.state === "up")) {
    for (const { service, address, state, failures, retry_in_ms } of gateway.links) {
      if (!isUp(address) || told.has(address)) continue;
      const values = { name: service, address, failures };
      if (state === "set_aside") add("set_aside", "health_set_aside", values, retry_in_ms);
      else if (state === "down") add("down", "health_link_down", values, retry_in_ms);
      else continue;
      told.add(address);
    }
  }
}

function fine(system) {
  const { gateways, instances, distributors } = system;
  const values = { gateways: gateways.length, instances: instances.length, distributors: distributors.length };
  return { state: "up", key: "fine", values };
}

export function sentence(key, values) {
  return pieces(key, values).map((piece) => {
    if (typeof piece === "string") return textNode(piece);
    const [name, value] = piece;
    return CODE.has(name) ? element("code", {}, value) : textNode(value);
  });
}

function currentSentences() {
  if (live.connected === false) return [{ state: "down", key: "lost_why", values: {} }];
  if (!live.system) return [{ state: "silent", key: "connecting", values: {} }];
  const problems = findProblems(live.system);
  const room = problems.length > MAX_SENTENCES ? MAX_SENTENCES - 1 : MAX_SENTENCES;
  const shown = problems.length ? problems.slice(0, room) : [fine(live.system)];
  const n = problems.length - room;
  if (n > 0) shown.push({ state: "silent", key: "health_more", values: { n } });
  if (isSecured()) shown.push({ state: "silent", key: "secured_why", values: {} });
  return shown;
}

// The seconds change all the time. So a screen reader is not told about them.
function nextTry(next_ms) {
  if (next_ms === undefined) return "";
  const seconds = Math.ceil(next_ms / 1000);
  return seconds > 0 ? t("next_try", { seconds }) : t("next_try_soon");
}

function createSentence({ state, key, values, next_ms }) {
  const line = element("p", { class: "sentence", "data-state": state });
  const said = element("span", {}, ...sentence(key, values));
  const next = element("span", { "aria-hidden": "true" }, nextTry(next_ms));
  said.append(next);
  line.append(iconFor(state), said);
  line.next = next;
  return line;
}

function render() {
  const keyOf = ({ key, values }) => t(key, values);
  sync(byId("health"), currentSentences(), keyOf, createSentence, (line, { next_ms }) => {
    setText(line.next, nextTry(next_ms));
  });
}

watch(["system", "language"], render);
