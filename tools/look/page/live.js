// What the page knows: the state of the system, recent requests and changes, followed over one event stream.
//
// It tells the views what has changed, at most once per animation frame. It must not touch the document.
// Invariant: each list is bounded, however fast the events come.

const MAX_JOURNEYS = 200;
const MAX_CHANGES = 100;

export const live = {
  connected: null, // null until the first answer
  system: null,
  journeys: [], // newest first
  changes: [], // newest first
  lost: 0,
};

const views = [];
const changed = new Set();
let isScheduled = false;

// Calls `render` in the next frame after any of `topics` has changed.
export function watch(topics, render) {
  views.push({ topics, render });
}

export function touch(...topics) {
  for (const topic of topics) changed.add(topic);
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(renderChanged);
}

function renderChanged() {
  isScheduled = false;
  const topics = new Set(changed);
  changed.clear();
  for (const view of views) {
    if (view.topics.some((topic) => topics.has(topic))) view.render(topics);
  }
}

export const isSecured = () => live.system?.mode === "secured";

export async function getJson(path) {
  const response = await fetch(path, { cache: "no-store" });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.errormessage ?? `${response.status}`);
  return answer;
}

export async function postJson(path, value) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(value) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.errormessage ?? `${response.status}`);
  return answer;
}

// Joins two lists without doubles, newest first.
function merge(a, b, keyOf, limit) {
  const all = new Map([...b, ...a].map((item) => [keyOf(item), item]));
  return [...all.values()].sort((x, y) => keyOf(y) - keyOf(x)).slice(0, limit);
}

const addJourneys = (list) => (live.journeys = merge(list, live.journeys, (one) => one.number, MAX_JOURNEYS));
const addChanges = (list) => (live.changes = merge(list, live.changes, (one) => one.seq, MAX_CHANGES));

// The lists hold what happened before the page was opened, or while the connection was lost.
async function loadLists() {
  const [journeys, changes] = await Promise.allSettled([
    getJson(`/journeys.json?limit=${MAX_JOURNEYS}`),
    getJson("/changes.json"),
  ]);
  if (journeys.status === "fulfilled") addJourneys(journeys.value.journeys);
  if (changes.status === "fulfilled") addChanges(changes.value.changes);
  touch("journeys", "changes");
}

function setConnected(isConnected) {
  if (live.connected === isConnected) return;
  live.connected = isConnected;
  touch("system");
}

export function follow() {
  const events = new EventSource("/live");
  const on = (name, handle) => events.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  events.onopen = () => {
    // A new `look` begins to count its journeys at 1 again, so what was kept is no longer comparable.
    live.journeys = [];
    live.changes = [];
    setConnected(true);
    loadLists();
  };
  events.onerror = () => {
    setConnected(false);
    // The browser gives up after an answer that is no event stream, such as that of a proxy.
    if (events.readyState !== EventSource.CLOSED) return;
    setTimeout(follow, 2000);
  };
  on("system", (system) => {
    live.system = system;
    setConnected(true);
    touch("system");
  });
  on("journey", (journey) => {
    live.journeys.unshift(journey);
    live.journeys.length = Math.min(live.journeys.length, MAX_JOURNEYS);
    touch("journeys");
  });
  on("change", (change) => {
    addChanges([change]);
    touch("changes");
  });
  on("gap", ({ lost }) => {
    live.lost += lost;
    touch("journeys");
  });
}
