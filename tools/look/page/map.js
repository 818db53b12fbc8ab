// The map: every process as a box in a fixed place, and the links between gateways and instances.
//
// It draws the `system` object, and marks the box of the current step of a journey. It knows nothing of requests.
// Invariant: an instance keeps its slot while it is listed, so no box moves when another one comes or goes.

import { byId, drawIcon, isMotionReduced, setAttributes, setText, shape, sync, visible } from "./dom.js";
import { live, touch, watch } from "./live.js";
import { number, t } from "./text.js";

const WIDTH = 720;
const GATEWAY = { x: 112, width: 206, height: 108, gap: 20 };
const BELOW = { width: 206, height: 54, space: 58 };
const CLIENTS = { x: 4, width: 90, height: 42 };

// How the instances are laid out: the more there are, the smaller are their boxes.
const LAYOUTS = [
  { upTo: 5, size: "large", columns: 1, width: 222, height: 82, gapX: 0, gapY: 14 },
  { upTo: 12, size: "medium", columns: 2, width: 166, height: 56, gapX: 14, gapY: 20 },
  { upTo: Infinity, size: "small", columns: 5, width: 68, height: 36, gapX: 6, gapY: 10 },
];

// The boxes move apart in a high window, but not by more than this.
const MAX_SPREAD = 46;

const slots = new Map(); // address → slot
let active = null; // { box, link, isForward }

// From the back to the front.
const layers = { wires: shape("g"), links: shape("g"), boxes: shape("g"), packet: shape("g") };
const packet = shape("text", { class: "travelling", "text-anchor": "middle", dy: "0.35em" }, "¶");

// The shapes that are always there.
const pill = {
  frame: shape("rect", { class: "clients" }),
  name: shape("text", { "text-anchor": "middle" }),
  registry: shape("text", { class: "registry-name", "text-anchor": "end" }),
};

function assignSlots(instances) {
  const listed = new Set(instances.map((one) => one.address));
  for (const address of slots.keys()) if (!listed.has(address)) slots.delete(address);
  const taken = new Set(slots.values());
  const sorted = [...instances].sort((a, b) => `${a.service} ${a.address}`.localeCompare(`${b.service} ${b.address}`, "en", { numeric: true }));
  for (const { address } of sorted) {
    if (slots.has(address)) continue;
    let slot = 0;
    while (taken.has(slot)) slot += 1;
    taken.add(slot);
    slots.set(address, slot);
  }
  return Math.max(0, ...[...taken].map((slot) => slot + 1));
}

// The state of an instance, with what `cargo up` and the gateways know of it.
function stateOfInstance({ address, state }, system, links) {
  const process = system.processes.find((one) => one.address === address);
  if (state === "down" || process?.state === "ended") return "down";
  if (process?.state === "frozen") return "frozen";
  if (links.some((link) => link.state === "set_aside")) return "set_aside";
  return state;
}

const isFrozen = (address, system) =>
  system.processes.some((one) => one.address === address && one.state === "frozen");

// The height above the distributors, if the map fills its card. It has no size in a browser that has not laid it out.
function roomAbove() {
  const { width, height } = byId("map").getBoundingClientRect();
  const wanted = width && isWide() ? (WIDTH * height) / width : 0;
  return Math.max(160, wanted - BELOW.space - BELOW.height - 8);
}

// Elsewhere the map is as high as it wants to be, so its height says nothing.
const isWide = () => matchMedia("(min-width: 1000px) and (min-height: 640px)").matches;

// All boxes and links with their places.
function layOut(system) {
  const count = assignSlots(system.instances);
  const layout = LAYOUTS.find((one) => count <= one.upTo);
  const rows = Math.ceil(count / layout.columns);
  const gateways = system.gateways.length;
  const needed = Math.max(
    rows * (layout.height + layout.gapY) - layout.gapY,
    gateways * (GATEWAY.height + GATEWAY.gap) - GATEWAY.gap,
  );
  const inner = Math.max(needed, roomAbove());
  const gapY = layout.gapY + Math.min(MAX_SPREAD, (inner - needed) / Math.max(1, rows));
  const plan = { layout: { ...layout, gapY }, rows, inner, boxes: [], links: [], height: inner + BELOW.space + BELOW.height };
  placeGateways(plan, system);
  placeInstances(plan, system);
  placeBelow(plan, system);
  for (const [index, gateway] of system.gateways.entries()) placeLinks(plan, gateway, index, gateways);
  return plan;
}

function placeGateways(plan, system) {
  const step = GATEWAY.height + GATEWAY.gap;
  const top = 4 + (plan.inner - system.gateways.length * step + GATEWAY.gap) / 2;
  for (const [index, gateway] of system.gateways.entries()) {
    const { address, requests_per_second, p50_ms, p99_ms, in_flight } = gateway;
    const state = isFrozen(address, system) ? "frozen" : gateway.state;
    plan.boxes.push({
      ...GATEWAY, y: top + index * step, size: "large", address, state, name: t("gateway"),
      lines: [address, `${t(state)} · ${t("in_flight_n", { n: in_flight })}`,
        `${t("gateway_rate", { rate: number(requests_per_second) })} · p99 ${number(p99_ms, 2)} ms`],
      more: t("gateway_times", { p50: number(p50_ms, 2), p99: number(p99_ms, 2) }),
    });
  }
}

function placeInstances(plan, system) {
  const { layout, rows, inner } = plan;
  const { columns, width, height, gapX, gapY, size } = layout;
  const left = WIDTH - 4 - columns * (width + gapX) + gapX;
  const top = 4 + (inner - rows * (height + gapY) + gapY) / 2;
  for (const instance of system.instances) {
    const { address, service, routes } = instance;
    const links = system.gateways.flatMap((one) => one.links).filter((link) => link.address === address);
    const in_flight = links.reduce((sum, link) => sum + link.in_flight, 0);
    const state = stateOfInstance(instance, system, links);
    const slot = slots.get(address);
    const port = address.slice(address.lastIndexOf(":"));
    const word = in_flight && size !== "large" && state === "up" ? `${t(state)} · ${in_flight}` : t(state);
    plan.boxes.push({
      x: left + (slot % columns) * (width + gapX), y: top + Math.floor(slot / columns) * (height + gapY),
      width, height, size, address, state,
      name: { large: service, medium: `${service} ${port}`, small: port }[size],
      lines: size === "large" ? [address, word] : [word],
      more: `${service} ${address}\n${t("in_flight_n", { n: in_flight })}\n${routes.join(" ")}`,
    });
  }
}

function placeBelow(plan, system) {
  const y = plan.height - BELOW.height + 4;
  const below = [
    ...system.distributors.map((one) => ({ ...one, name: t("distributor") })),
    ...system.others.map((one) => ({ ...one, state: one.state ?? "up" })),
  ];
  const step = Math.min(BELOW.width + 22, (WIDTH - GATEWAY.x - 4) / below.length);
  for (const [index, { address, name, ...one }] of below.entries()) {
    const state = isFrozen(address, system) ? "frozen" : one.state;
    const lines = [`${address} · ${t(state)}`];
    plan.boxes.push({ x: GATEWAY.x + index * step, y, width: step - 22, height: BELOW.height, size: "low", address, name, state, lines, more: "" });
  }
}

function placeLinks(plan, gateway, index, gateways) {
  const from = plan.boxes.find((box) => box.address === gateway.address);
  const boxes = new Map(plan.boxes.map((box) => [box.address, box]));
  for (const link of gateway.links) {
    const to = boxes.get(link.address);
    if (!to) continue;
    const isLabelled = plan.layout.size === "large" && gateways <= 3;
    const y = to.y + to.height / 2 + (isLabelled ? (index - (gateways - 1) / 2) * 22 : 0);
    const path = plan.layout.columns === 1 ? directPath(from, to, y) : channelPath(from, to, plan.layout);
    const said = `${t(link.state)} · ${t("in_flight_n", { n: link.in_flight })}`;
    plan.links.push({ key: `${gateway.address} ${link.address}`, link, path, said, label: isLabelled ? said : "", isCalm: plan.layout.columns > 1, x: to.x - 10, y: y - 7 });
  }
}

function directPath(from, to, y) {
  const [x, y0] = [from.x + from.width, from.y + from.height / 2];
  const flat = x + (to.x - x) * 0.4;
  const bend = (x + flat) / 2;
  return `M${x} ${y0}C${bend} ${y0} ${bend} ${y} ${flat} ${y}L${to.x} ${y}`;
}

// With many instances, the links of a row run together in the space under it, as on a bus.
function channelPath(from, to, { gapY, columns, width, gapX }) {
  const [x, y0] = [from.x + from.width, from.y + from.height / 2];
  const left = WIDTH - 4 - columns * (width + gapX) + gapX - 8;
  const [y, middle] = [to.y + to.height + gapY / 2, (x + left) / 2];
  return `M${x} ${y0}C${middle} ${y0} ${middle} ${y} ${left} ${y}L${to.x + to.width / 2} ${y}v${-gapY / 2}`;
}

function createBox() {
  const group = shape("g", { role: "img" });
  group.title = shape("title");
  group.frame = shape("rect", { class: "frame", rx: 8 });
  group.icon = shape("path");
  group.texts = [0, 1, 2, 3].map((line) => shape("text", { class: line ? "line" : "name" }));
  group.append(group.title, group.frame, group.icon, ...group.texts);
  return group;
}

// Where the texts of a box stand: the first baseline, the distance of lines, and the sizes of the letters.
const TEXT_PLACES = {
  large: { first: 27, line: 22, sizes: [17, 14.5], icon: 1.05 },
  medium: { first: 24, line: 21, sizes: [15.5, 14], icon: 1 },
  low: { first: 22, line: 19, sizes: [15, 13], icon: 0.9 },
  small: { first: 15, line: 14, sizes: [12.5, 11.5], icon: 0.75 },
};

// The width of a letter as a part of its size: bold in names, regular in lines. Korean letters count twice.
const LETTERS = [0.68, 0.53];

function updateBox(group, box) {
  const place = TEXT_PLACES[box.size];
  const left = 13 + 16 * place.icon;
  const isSmall = box.size === "small";
  setAttributes(group, {
    class: `box ${box.size}`, transform: `translate(${box.x} ${box.y})`,
    "data-box": box.address, "data-state": box.state, "data-active": active?.box === box.address,
    "aria-label": visible(`${box.name} ${box.lines.join(", ")}`),
  });
  setText(group.title, `${box.name}\n${box.lines.join("\n")}\n${box.more}`);
  setAttributes(group.frame, { width: box.width, height: box.height });
  setAttributes(drawIcon(group.icon, box.state), {
    transform: `translate(7 ${place.first - 13 * place.icon}) scale(${place.icon})`,
  });
  for (const [index, text] of group.texts.entries()) {
    const size = place.sizes[Math.min(1, index)];
    // A small box has no room beside its icon for the second line.
    const x = isSmall && index ? 8 : left - (isSmall ? 4 : 0);
    setAttributes(text, { x, y: place.first + index * place.line, "font-size": size });
    setText(text, shorten(index ? box.lines[index - 1] ?? "" : box.name, (box.width - x - 4) / (size * LETTERS[Math.min(1, index)])));
  }
}

// The text, cut to a width of `fit` letters.
function shorten(text, fit) {
  const letters = [...visible(text)];
  let width = 0;
  const end = letters.findIndex((letter) => (width += letter > "\u1100" ? 1.8 : 1) > fit);
  return end < 0 ? text : `${letters.slice(0, Math.max(0, end - 1)).join("")}…`;
}

function createLink() {
  const group = shape("g");
  group.title = shape("title");
  group.path = shape("path");
  group.label = shape("text", { "text-anchor": "end" });
  group.append(group.title, group.path, group.label);
  return group;
}

function updateLink(group, { key, link, path, said, label, isCalm, x, y }) {
  setAttributes(group, {
    class: `link${link.in_flight ? " busy" : ""}${isCalm ? " calm" : ""}`, "data-link": key, "data-state": link.state,
    "data-active": active?.link === key,
  });
  setText(group.title, `${key}: ${said}`);
  setAttributes(group.path, { d: path });
  setAttributes(group.label, { x, y });
  setText(group.label, label);
}

// The faint lines: clients to gateways, and everybody to the distributors.
function drawWires({ inner, boxes, height }) {
  const bus = height - BELOW.height - 18;
  const center = 4 + inner / 2;
  const below = boxes.filter((box) => box.size === "low").map((box) => `M${box.x + box.width / 2} ${bus}V${box.y}`);
  const gateways = boxes.filter((box) => box.width === GATEWAY.width && box.size === "large");
  const paths = gateways.map((box) => `M${CLIENTS.x + CLIENTS.width} ${center}L${box.x} ${box.y + box.height / 2}`);
  const services = boxes.filter((box) => box.size !== "low" && !gateways.includes(box));
  // The boxes cover the upper part of these lines.
  const rise = (box) => `M${box.x + box.width / 2} ${bus}V${center}`;
  const ends = [gateways[0], services.find((box) => box.x === Math.max(...services.map((one) => one.x)))].filter(Boolean);
  const [left, right] = [GATEWAY.x + GATEWAY.width / 2, Math.max(...boxes.map((box) => box.x + box.width / 2))];
  const registry = `M${left} ${bus}H${right}${ends.map(rise).join("")}${below.join("")}`;
  const wires = [
    { key: "clients", d: paths.join("") || "M0 0", kind: "wire" },
    { key: "registry", d: registry, kind: "wire registry" },
  ];
  const create = ({ kind }) => shape("path", { class: kind });
  sync(layers.wires, wires, (one) => one.key, create, (node, { d }) => setAttributes(node, { d }));
  setAttributes(pill.frame, { ...CLIENTS, y: center - CLIENTS.height / 2, rx: 21 });
  setAttributes(pill.name, { "font-size": 14.5, x: CLIENTS.x + CLIENTS.width / 2, y: center + 5 });
  setText(pill.name, t("clients"));
  setAttributes(pill.registry, { "font-size": 12.5, x: right - 12, y: bus - 6 });
  setText(pill.registry, t("registers"));
}

function render() {
  if (!live.system) return;
  const plan = layOut(live.system);
  setAttributes(byId("map"), { viewBox: `0 0 ${WIDTH} ${plan.height + 8}` });
  drawWires(plan);
  sync(layers.links, plan.links, (one) => one.key, createLink, updateLink);
  sync(layers.boxes, plan.boxes, (one) => one.address, createBox, updateBox);
}

// Marks the process of the current step, and sends a packet along its link. `null` marks nothing.
export function markStep(step) {
  active = step;
  for (const group of layers.boxes.children) {
    setAttributes(group, { "data-active": step?.box === group.getAttribute("data-box") });
  }
  let path = null;
  for (const group of layers.links.children) {
    const isActive = Boolean(step?.link) && step.link === group.getAttribute("data-link");
    setAttributes(group, { "data-active": isActive });
    if (isActive) path = group.path;
  }
  movePacket(path, step);
}

function movePacket(path, step) {
  packet.remove();
  if (!path || isMotionReduced()) return;
  layers.packet.append(packet);
  const length = path.getTotalLength();
  const began = performance.now();
  const frame = (now) => {
    const part = Math.min(1, (now - began) / step.duration_ms);
    if (active !== step || part >= 1) {
      if (active === step) packet.remove();
      return;
    }
    const { x, y } = path.getPointAtLength(length * (step.isForward ? part : 1 - part));
    setAttributes(packet, { x, y });
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

byId("map").append(...Object.values(layers));
layers.links.before(...Object.values(pill));
addEventListener("resize", () => touch("system"));
watch(["system", "language"], render);
