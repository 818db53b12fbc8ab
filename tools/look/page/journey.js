// One journey: a request, replayed step by step over lanes, one lane for each process, or shown as a timeline.
//
// The steps come from `unfold`. The map marks the process of the current step.

import { byId, element, isMotionReduced, milliseconds, setAttributes, setText, shape, showPacket, sync } from "./dom.js";
import { unfold } from "./explain.js";
import { getJson, isSecured, watch } from "./live.js";
import { markStep } from "./map.js";
import { currentTab, onTab, openTab } from "./tabs.js";
import { t } from "./text.js";

// Slow motion: a microsecond becomes this many milliseconds, within bounds.
const MS_PER_US = 8;
const SHORTEST_MS = 700;
const LONGEST_MS = 2400;

const MAX_SOURCES = 40;
const sources = new Map(); // file → promise of its text

let journey = null;
let story = null;
let current = 0;
let timer = null;
let isTimeline = false;
let generation = 0; // a new one ends the animation of the step before

export async function openJourney(number) {
  pause();
  openTab("journey", `journey-${number}`);
  byId("journey").scrollIntoView({ block: "nearest" });
  try {
    journey = await getJson(`/journeys/${number}.json`);
  } catch {
    journey = story = null;
    markStep(null);
    return render();
  }
  story = unfold(journey);
  current = 0;
  render();
}

const nameOf = (lane) => (["client", "gateway", "database"].includes(lane.name) ? t(lane.name) : lane.name || lane.address);
const portOf = (lane) => lane.address.slice(lane.address.lastIndexOf(":"));
const textOf = (step) => (step.status ? t("the_answer", step) : step.text);
const isArrow = (step) => step.from !== step.to;

function dwell(step) {
  const speed = Number(byId("journey-speed").value);
  return Math.min(LONGEST_MS, Math.max(SHORTEST_MS, step.took_us * MS_PER_US)) / speed;
}

// ---- playing

function play() {
  if (!story) return;
  if (current >= story.steps.length - 1) current = -1;
  const next = () => {
    show(current + 1);
    timer = current < story.steps.length - 1 ? setTimeout(next, dwell(story.steps[current])) : null;
    renderControls();
  };
  next();
}

function pause() {
  clearTimeout(timer);
  timer = null;
  renderControls();
}

function stepTo(index) {
  pause();
  if (story) show(Math.min(story.steps.length - 1, Math.max(0, index)));
}

// Makes a step the current one: in the list, in the detail and on the map.
function show(index) {
  current = index;
  generation += 1;
  for (const [at, row] of [...byId("journey-steps").children].entries()) {
    row.classList.toggle("future", at > current);
    setAttributes(row.button, { "aria-current": at === current ? "step" : null });
    if (at === current) scrollTo(row);
  }
  const step = story.steps[current];
  for (const [lane, head] of [...byId("journey-lanes").children].entries()) {
    setAttributes(head, { "data-active": step.lane === lane });
  }
  renderDetail(step);
  if (currentTab() === "journey") mark(step);
  if (isArrow(step)) moveMark(byId("journey-steps").children[current], step, generation);
}

// Only the list scrolls, not the page.
function scrollTo(row) {
  const list = byId("journey-steps");
  const [top, bottom] = [row.offsetTop, row.offsetTop + row.offsetHeight];
  if (top < list.scrollTop) list.scrollTop = top;
  if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

function mark(step) {
  const [from, to] = [story.lanes[step.from].address, story.lanes[step.to].address];
  const isForward = from === journey.gateway;
  const link = isArrow(step) ? (isForward ? `${from} ${to}` : `${to} ${from}`) : null;
  markStep({ box: story.lanes[step.lane].box, link, isForward, duration_ms: Math.min(900, dwell(step)) });
}

// ---- rows

const center = (lane) => ((lane + 0.5) / story.lanes.length) * 100;

function drawLanes(step) {
  const svg = shape("svg", { class: "row-lanes", height: 28, "aria-hidden": "true" });
  for (const lane of story.lanes.keys()) {
    const x = `${center(lane)}%`;
    svg.append(shape("line", { class: "lifeline", x1: x, x2: x, y1: 0, y2: 28 }));
  }
  if (!isArrow(step)) {
    svg.append(shape("circle", { class: "dot", cx: `${center(step.lane)}%`, cy: 14, r: 5 }));
    return svg;
  }
  const [from, to] = [center(step.from), center(step.to)];
  const head = to > from ? "M0 0L-9 -5V5Z" : "M0 0L9 -5V5Z";
  svg.append(
    shape("line", { class: "arrow", x1: `${from}%`, x2: `${to}%`, y1: 14, y2: 14 }),
    shape("svg", { x: `${to}%`, y: 14, overflow: "visible" }, shape("path", { class: "head", d: head })),
  );
  svg.mark = shape("text", { class: "travelling", x: `${(from + to) / 2}%`, y: 14, dy: "0.35em", "text-anchor": "middle" });
  svg.mark.textContent = step.packet === undefined ? "" : "¶";
  svg.append(svg.mark);
  return svg;
}

function drawBar(step) {
  const svg = shape("svg", { class: "row-bar", height: 28, "aria-hidden": "true" });
  const total = Math.max(1, story.steps.at(-1).at_us);
  const begin = Math.max(0, step.at_us - step.took_us);
  const width = Math.max(0.4, ((step.at_us - begin) / total) * 100);
  const x = Math.min(99.6, (begin / total) * 100);
  svg.append(
    shape("line", { class: "lifeline", x1: 0, x2: "100%", y1: 27.5, y2: 27.5 }),
    shape("rect", {
      class: `bar${step.isEstimate ? " estimate" : ""}`, x: `${x}%`, width: `${width}%`, y: 7, height: 14, rx: 2,
    }),
  );
  return svg;
}

function moveMark(row, step, mine) {
  const mark = row?.svg.mark;
  if (!mark || isMotionReduced()) return;
  const [from, to] = [center(step.from), center(step.to)];
  const [began, lasts] = [performance.now(), Math.min(900, dwell(step))];
  const frame = (now) => {
    const part = Math.min(1, (now - began) / lasts);
    const isOver = part >= 1 || mine !== generation;
    setAttributes(mark, { x: `${isOver ? (from + to) / 2 : from + (to - from) * part}%` });
    if (!isOver) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}

const shownTime = (step) => `${step.isEstimate ? "≈" : ""}${milliseconds(step.at_us)}`;
const tookMark = (step) => (step.network_us !== undefined ? "≈" : "+");

function createRow(step) {
  const row = element("li");
  row.svg = isTimeline ? drawBar(step) : drawLanes(step);
  row.button = element("button", { type: "button", class: "step-row" },
    element("span", { class: "time" }, shownTime(step)),
    element("span", { class: "took" }, `${tookMark(step)}${step.took_us}`),
    row.svg,
    element("span", { class: "what" }, isTimeline ? `${nameOf(story.lanes[step.lane])}: ${textOf(step)}` : textOf(step)));
  row.button.addEventListener("click", () => stepTo(story.steps.indexOf(step)));
  row.append(row.button);
  return row;
}

function renderLaneHeads() {
  const heads = story.lanes.map((lane) =>
    element("span", { "data-lane": lane.address || lane.name, class: "lane-head", title: lane.address },
      element("b", {}, nameOf(lane)), element("small", {}, portOf(lane))));
  byId("journey-lanes").replaceChildren(...heads);
  byId("journey-lanes").hidden = isTimeline;
  byId("journey-body").classList.toggle("timeline", isTimeline);
  byId("journey-body").style.setProperty("--share", isTimeline ? 0.45 : Math.min(0.72, 0.155 * story.lanes.length));
}

// ---- the detail of the current step

const detail = {
  title: element("h2", { id: "journey-where" }),
  text: element("p", { id: "journey-text" }),
  times: element("p", { id: "journey-times", class: "quiet" }),
  packetTitle: element("h3"),
  packet: element("pre", { id: "journey-packet", class: "packet" }),
  sourceTitle: element("h3", { id: "journey-file" }),
  source: element("pre", { id: "journey-source", class: "source", tabindex: 0 }),
};

function renderDetail(step) {
  const [from, to] = [story.lanes[step.from], story.lanes[step.to]];
  const where = isArrow(step) ? `${nameOf(from)} → ${nameOf(to)} ${to.address}` : `${nameOf(from)} ${from.address}`;
  setText(detail.title, `${t("step_of", { n: current + 1, all: story.steps.length })} · ${where}`);
  setText(detail.text, textOf(step));
  const times = [t("at", { ms: shownTime(step) }), t("took", { us: `${tookMark(step).replace("+", "")}${step.took_us}` })];
  if (step.network_us !== undefined) times.push(t("network", { us: step.network_us }));
  else if (step.isEstimate) times.push(t("estimate"));
  setText(detail.times, times.join(" · "));
  detail.packetTitle.hidden = detail.packet.hidden = step.packet === undefined;
  if (step.packet) showPacket(detail.packet, step.packet);
  else if (step.packet === "") {
    detail.packet.shown = null;
    setText(detail.packet, t("latest_hidden"));
  }
  setText(detail.packetTitle, t("packet", { bytes: step.bytes }));
  renderSource(step.file);
}

async function renderSource(file) {
  detail.sourceTitle.hidden = detail.source.hidden = !file;
  if (!file || detail.source.file === file) return;
  detail.source.file = file;
  detail.sourceTitle.replaceChildren(element("span", {}, `${t("source")} `), element("code", {}, file));
  setText(detail.source, t("loading"));
  const text = await loadSource(file);
  if (detail.source.file !== file) return;
  // Each line is an element, so that the style sheet can number the lines.
  const lines = text === null ? [element("i", {}, t("source_none"))]
    : text.split("\n").map((line) => element("span", { class: "source-line" }, line.replaceAll("\t", "    ")));
  detail.source.replaceChildren(...lines);
  detail.source.scrollTop = 0;
}

// The name comes from another process, so it must not lead out of `/source/`. Missing files are remembered too.
function loadSource(file) {
  if (isSecured() || !/^[\w\-/]+\.rs$/.test(file)) return null;
  if (sources.has(file)) return sources.get(file);
  if (sources.size >= MAX_SOURCES) sources.delete(sources.keys().next().value);
  const text = fetch(`/source/${file}`).then((response) => (response.ok ? response.text() : null)).catch(() => null);
  sources.set(file, text);
  return text;
}

// ---- everything

function renderControls() {
  const isPlaying = timer !== null;
  setText(byId("journey-play"), `${isPlaying ? "❚❚" : "▶"} ${t(isPlaying ? "pause" : "play")}`);
  setText(byId("journey-back"), `◀ ${t("back")}`);
  setText(byId("journey-step"), `${t("step")} ▶`);
  setText(byId("journey-view"), t(isTimeline ? "view_lanes" : "view_timeline"));
}

function renderTitle() {
  const took = element("b", {}, `${milliseconds(journey.took_us)} ms`);
  byId("journey-title").replaceChildren(
    element("b", { class: "path", title: journey.path }, `${journey.method} ${journey.path}`),
    element("b", {}, `→ ${journey.status}`), took, element("code", {}, journey.id));
  setAttributes(byId("journey-json"), { href: `/journeys/${journey.number}.json` });
}

function render() {
  renderControls();
  byId("journey-none").hidden = story !== null;
  byId("journey-body").hidden = story === null;
  const isGone = journey === null && /^#journey-\d/.test(location.hash);
  setText(byId("journey-none"), t(isGone ? "journey_gone" : "journey_none"));
  if (!story) return;
  renderTitle();
  renderLaneHeads();
  detail.source.file = null;
  sync(byId("journey-steps"), [], () => "", createRow);
  sync(byId("journey-steps"), story.steps, (step) => story.steps.indexOf(step), createRow);
  show(current);
}

function onKey(event) {
  if (event.target.closest("input, select, pre")) return;
  if (event.key === "ArrowRight") stepTo(current + 1);
  else if (event.key === "ArrowLeft") stepTo(current - 1);
  else return;
  event.preventDefault();
}

byId("journey-detail").append(...Object.values(detail));
byId("journey-play").addEventListener("click", () => (timer === null ? play() : pause()));
byId("journey-step").addEventListener("click", () => stepTo(current + 1));
byId("journey-back").addEventListener("click", () => stepTo(current - 1));
byId("journey-view").addEventListener("click", () => {
  isTimeline = !isTimeline;
  render();
});
byId("journey-body").addEventListener("keydown", onKey);
onTab((name) => {
  pause();
  if (name === "journey" && story) mark(story.steps[current]);
  else markStep(null);
});
watch(["language"], render);
