// The map: every process as a box, and the links between gateways and instances.
//
// It draws what `layOut` has placed, and marks the box of the current step of a journey. It knows nothing of requests.

import { byId, drawIcon, isMotionReduced, setAttributes, setText, shape, sync, visible } from "./dom.js";
import { WIDTH, layOut } from "./layout.js";
import { live, touch, watch } from "./live.js";
import { t } from "./text.js";

let active = null; // the current step: { box, link, isForward, duration_ms }

// From the back to the front.
const layers = { wires: shape("g"), links: shape("g"), boxes: shape("g"), packet: shape("g") };
const packet = shape("text", { class: "travelling", "text-anchor": "middle", dy: "0.35em" }, "¶");
const wires = {
  clients: shape("path", { class: "wire" }),
  registry: shape("path", { class: "wire registry" }),
  pill: shape("rect", { class: "clients", rx: 21 }),
  clientsName: shape("text", { "text-anchor": "middle", "font-size": 14.5 }),
  registryName: shape("text", { class: "registry-name", "text-anchor": "end", "font-size": 12.5 }),
};

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
    "aria-label": `${box.name} ${box.lines.join(", ")}`,
  });
  setText(group.title, [box.name, ...box.lines, box.more].filter(Boolean).join(" · "));
  setAttributes(group.frame, { width: box.width, height: box.height });
  setAttributes(drawIcon(group.icon, box.state), {
    transform: `translate(7 ${place.first - 13 * place.icon}) scale(${place.icon})`,
  });
  for (const [index, text] of group.texts.entries()) {
    const kind = Math.min(1, index);
    const size = place.sizes[kind];
    // A small box has no room beside its icon for the second line.
    const x = isSmall && index ? 8 : left - (isSmall ? 4 : 0);
    setAttributes(text, { x, y: place.first + index * place.line, "font-size": size });
    const said = index ? box.lines[index - 1] ?? "" : box.name;
    setText(text, shorten(said, (box.width - x - 4) / (size * LETTERS[kind])));
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
    class: `link${link.in_flight ? " busy" : ""}${isCalm ? " calm" : ""}`,
    "data-link": key, "data-state": link.state, "data-active": active?.link === key,
  });
  setText(group.title, `${key}: ${said}`);
  setAttributes(group.path, { d: path });
  setAttributes(group.label, { x, y });
  setText(group.label, label);
}

function drawWires({ clients, registry, pill, clientsName, registryName }) {
  setAttributes(wires.clients, { d: clients });
  setAttributes(wires.registry, { d: registry });
  setAttributes(wires.pill, pill);
  setAttributes(wires.clientsName, clientsName);
  setAttributes(wires.registryName, registryName);
  setText(wires.clientsName, t("clients"));
  setText(wires.registryName, t("registers"));
}

// The height that the map would have if it filled its card. In a narrow window it is as high as it wants to be.
function roomInCard() {
  const { width, height } = byId("map").getBoundingClientRect();
  const fills = matchMedia("(min-width: 1000px) and (min-height: 640px)").matches;
  return width && fills ? (WIDTH * height) / width : 0;
}

function render() {
  if (!live.system) return;
  const plan = layOut(live.system, roomInCard());
  setAttributes(byId("map"), { viewBox: `0 0 ${WIDTH} ${plan.height}` });
  drawWires(plan.wires);
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
layers.wires.append(...Object.values(wires));
addEventListener("resize", () => touch("system"));
watch(["system", "language"], render);
