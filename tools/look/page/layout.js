// Where each box, link and line of the map stands. It draws nothing, and does not touch the document.
//
// Invariant: an instance keeps its slot while it is listed, so no box moves when another one comes or goes.

import { number, t } from "./text.js";

export const WIDTH = 720;
const EDGE = 4;
const MIN_INNER = 160; // the height of the part above the distributors
const CLIENTS = { x: EDGE, width: 90, height: 42 };
const GATEWAY = { x: 112, width: 206, height: 108, gap: 20 };
const BELOW = { width: 206, height: 54, space: 54 };

// How the instances are laid out: the more there are, the smaller are their boxes.
const LAYOUTS = [
  { upTo: 5, size: "large", columns: 1, width: 222, height: 82, gapX: 0, gapY: 14 },
  { upTo: 12, size: "medium", columns: 2, width: 166, height: 56, gapX: 14, gapY: 20 },
  { upTo: Infinity, size: "small", columns: 5, width: 68, height: 36, gapX: 6, gapY: 10 },
];

// The boxes move apart in a high window, but not by more than this.
const MAX_SPREAD = 46;

const slots = new Map(); // address → slot
const byName = new Intl.Collator("en", { numeric: true });
const nameOf = ({ service, address }) => `${service} ${address}`;

// Gives each new instance the first free slot. Returns how many slots there are.
function assignSlots(instances) {
  const listed = new Set(instances.map((one) => one.address));
  for (const address of slots.keys()) if (!listed.has(address)) slots.delete(address);
  const taken = new Set(slots.values());
  const sorted = [...instances].sort((a, b) => byName.compare(nameOf(a), nameOf(b)));
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

// All boxes and links with their places. `room` is the height that the window offers.
export function layOut(system, room) {
  const count = assignSlots(system.instances);
  const layout = LAYOUTS.find((one) => count <= one.upTo);
  const rows = Math.ceil(count / layout.columns);
  const gateways = system.gateways.length;
  const needed = Math.max(
    rows * (layout.height + layout.gapY) - layout.gapY,
    gateways * (GATEWAY.height + GATEWAY.gap) - GATEWAY.gap,
  );
  const inner = Math.max(needed, MIN_INNER, room - BELOW.space - BELOW.height - 2 * EDGE);
  const gapY = layout.gapY + Math.min(MAX_SPREAD, (inner - needed) / Math.max(1, rows));
  const height = inner + BELOW.space + BELOW.height + 2 * EDGE;
  const plan = { layout: { ...layout, gapY }, rows, inner, height, boxes: [], links: [] };
  placeGateways(plan, system);
  placeInstances(plan, system);
  placeBelow(plan, system);
  for (const [index, gateway] of system.gateways.entries()) placeLinks(plan, gateway, index, gateways);
  placeWires(plan);
  return plan;
}

function placeGateways(plan, system) {
  const step = GATEWAY.height + GATEWAY.gap;
  const top = EDGE + (plan.inner - system.gateways.length * step + GATEWAY.gap) / 2;
  for (const [index, gateway] of system.gateways.entries()) {
    const { address, requests_per_second, p50_ms, p99_ms, in_flight } = gateway;
    const state = isFrozen(address, system) ? "frozen" : gateway.state;
    plan.boxes.push({
      ...GATEWAY, y: top + index * step, kind: "gateway", size: "large", address, state, name: t("gateway"),
      lines: [address, `${t(state)} · ${t("in_flight_n", { n: in_flight })}`,
        `${t("gateway_rate", { rate: number(requests_per_second) })} · p99 ${number(p99_ms, 2)} ms`],
      more: t("gateway_times", { p50: number(p50_ms, 2), p99: number(p99_ms, 2) }),
    });
  }
}

function placeInstances(plan, system) {
  const { layout, rows, inner } = plan;
  const { columns, width, height, gapX, gapY, size } = layout;
  const left = WIDTH - EDGE - columns * (width + gapX) + gapX;
  const top = EDGE + (inner - rows * (height + gapY) + gapY) / 2;
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
      width, height, kind: "instance", size, address, state,
      name: { large: service, medium: `${service} ${port}`, small: port }[size],
      lines: size === "large" ? [address, word] : [word],
      more: [service, address, t("in_flight_n", { n: in_flight }), routes.join(" ")].join(" · "),
    });
  }
}

function placeBelow(plan, system) {
  const y = plan.height - BELOW.height - EDGE;
  const below = [
    ...system.distributors.map((one) => ({ ...one, name: t("distributor") })),
    ...system.others.map((one) => ({ ...one, state: one.state ?? "up" })),
  ];
  const step = Math.min(BELOW.width + 22, (WIDTH - GATEWAY.x - EDGE) / below.length);
  for (const [index, { address, name, ...one }] of below.entries()) {
    const state = isFrozen(address, system) ? "frozen" : one.state;
    const lines = [`${address} · ${t(state)}`];
    const place = { x: GATEWAY.x + index * step, y, width: step - 22, height: BELOW.height };
    plan.boxes.push({ ...place, kind: "below", size: "low", address, name, state, lines, more: "" });
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
    const key = `${gateway.address} ${link.address}`;
    const label = isLabelled ? said : "";
    plan.links.push({ key, link, path, said, label, isCalm: plan.layout.columns > 1, x: to.x - 10, y: y - 7 });
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
  const left = WIDTH - EDGE - columns * (width + gapX) + gapX - 8;
  const [y, middle] = [to.y + to.height + gapY / 2, (x + left) / 2];
  return `M${x} ${y0}C${middle} ${y0} ${middle} ${y} ${left} ${y}L${to.x + to.width / 2} ${y}v${-gapY / 2}`;
}

const centerX = (box) => box.x + box.width / 2;

// The faint lines: from the clients to the gateways, and a bus from everybody to the distributors.
function placeWires(plan) {
  const { inner, boxes, height } = plan;
  const bus = height - BELOW.height - EDGE - 22;
  const middle = EDGE + inner / 2;
  const ofKind = (kind) => boxes.filter((box) => box.kind === kind);
  const left = GATEWAY.x + GATEWAY.width / 2;
  const right = Math.max(left, ...boxes.map(centerX));
  const clients = ofKind("gateway").map((box) => `L${box.x} ${box.y + box.height / 2}`);
  // One line rises at each end of the bus, to the lowest box of its side.
  const rise = (kind, x) => ofKind(kind).length
    ? `M${x} ${bus}V${Math.max(...ofKind(kind).map((box) => box.y + box.height))}` : "";
  const rising = rise("gateway", left) + rise("instance", right);
  const falling = ofKind("below").map((box) => `M${centerX(box)} ${bus}V${box.y}`);
  plan.wires = {
    clients: clients.map((line) => `M${CLIENTS.x + CLIENTS.width} ${middle}${line}`).join(""),
    registry: `M${left} ${bus}H${right}${rising}${falling.join("")}`,
    pill: { ...CLIENTS, y: middle - CLIENTS.height / 2 },
    clientsName: { x: CLIENTS.x + CLIENTS.width / 2, y: middle + 5 },
    registryName: { x: right - 12, y: bus - 6 },
  };
}
