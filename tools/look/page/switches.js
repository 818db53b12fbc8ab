// Switches that break things: one process is chosen, and each switch says what to look for.
//
// The page only sends commands. `cargo up` owns the processes, and its answer in words comes with `system`.

import { byId, element, iconFor, setAttributes, setText, sync } from "./dom.js";
import { live, postJson, watch } from "./live.js";
import { offerTab } from "./tabs.js";
import { hasText, number, t } from "./text.js";

const LOAD = 20;

const isRunning = ({ state }) => state === "running" || state === "starting";
const isUsers = ({ program }) => program === "users";

// `command` has the label of the process; `canUse` says whether the switch has an effect now.
const SWITCHES = [
  { key: "freeze", command: (label) => `freeze ${label}`, canUse: isRunning },
  { key: "continue", command: (label) => `continue ${label}`, canUse: ({ state }) => state === "frozen" },
  { key: "kill", command: (label) => `kill ${label}`, canUse: ({ state }) => state !== "ended" },
  { key: "stop", command: (label) => `stop ${label}`, canUse: isRunning },
  { key: "restart", command: (label) => `restart ${label}`, canUse: () => true },
  { key: "delay", command: (label) => `delay ${label} 200`, canUse: isRunning, isForUsers: true },
  { key: "drop", command: (label) => `drop ${label} 3`, canUse: isRunning, isForUsers: true },
  { key: "cut", command: (label) => `cut ${label}`, canUse: isRunning, isForUsers: true },
  { key: "heal", command: (label) => `heal ${label}`, canUse: ({ fault }) => Boolean(fault), isForUsers: true },
  { key: "start", command: () => "start users", canUse: () => true, isForUsers: true },
];

let chosen = ""; // the label of the chosen process

const chosenProcess = () => live.system.processes.find(({ label }) => label === chosen);

// Nothing is to be seen without requests. So a switch turns the load on.
async function use(command) {
  const result = byId("switch-result");
  result.hidden = true;
  try {
    if (!command.startsWith("load") && live.system.load.per_second === 0) await post(`load ${LOAD}`);
    await post(command);
  } catch (error) {
    result.hidden = false;
    setText(result, t("failed_to", { message: error.message }));
  }
}

const post = (command) => postJson("/switch", { command });

function createProcess({ label }) {
  const button = element("button", { type: "button", "data-process": label });
  button.icon = element("span");
  button.label = element("b", {}, label);
  button.state = element("span", { class: "quiet" });
  button.append(button.icon, button.label, button.state);
  button.addEventListener("click", () => {
    chosen = label;
    render();
  });
  return button;
}

function updateProcess(button, { label, state, fault }) {
  setAttributes(button, { "aria-pressed": label === chosen, "data-state": state });
  if (button.iconState !== state) button.icon.replaceChildren(iconFor(state));
  button.iconState = state;
  setText(button.state, fault ? `${t(state)} · ${fault}` : t(state));
}

function createSwitch({ key, command }) {
  const row = element("li");
  row.button = element("button", { type: "button", "data-switch": key });
  row.look = element("span", { id: `look-${key}` });
  setAttributes(row.button, { "aria-describedby": `look-${key}` });
  row.button.addEventListener("click", () => use(command(chosen)));
  row.append(row.button, row.look);
  return row;
}

function updateSwitch(row, { key, canUse }) {
  setText(row.button, t(`do_${key}`));
  const special = `look_${key}_${chosenProcess().program}`;
  setText(row.look, t(hasText(special) ? special : `look_${key}`));
  row.button.disabled = !canUse(chosenProcess());
}

function renderLoad({ per_second, answered, failed, longest_ms }) {
  const counts = { per_second, answered: number(answered), failed: number(failed), longest: number(longest_ms) };
  setText(byId("load-counts"), t("load_counts", counts));
  setAttributes(byId("load-on"), { "aria-pressed": per_second > 0 });
  setAttributes(byId("load-off"), { "aria-pressed": per_second === 0 });
}

function render() {
  if (!live.system) return;
  const { switches, processes, load } = live.system;
  offerTab("switches", switches);
  if (!switches) return;
  renderLoad(load);
  setText(byId("said"), live.system.said || "–");
  if (!chosenProcess()) chosen = (processes.findLast(isUsers) ?? processes[0])?.label ?? "";
  sync(byId("switch-processes"), processes, ({ label }) => label, createProcess, updateProcess);
  const process = chosenProcess();
  const offered = process ? SWITCHES.filter(({ isForUsers }) => !isForUsers || isUsers(process)) : [];
  sync(byId("switch-list"), offered, ({ key }) => key, createSwitch, updateSwitch);
}

byId("load-on").addEventListener("click", () => use(`load ${LOAD}`));
byId("load-off").addEventListener("click", () => use("load 0"));
watch(["system", "language"], render);
