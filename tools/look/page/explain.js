// Unfolds an explanation into a flat list of steps and the lanes that they touch. It does not touch the document.
//
// The steps of another process have times of its own clock. They are placed between the request and its reply: the
// time that remains is network and waiting, and each way gets half. Such times are estimates (`src/gateway/diagram.rs`).

const DATABASE = "database";
const CLIENT = 0;
const GATEWAY = 1;

// Services can report each other's steps to any depth. Nobody reads more than this.
const MAX_STEPS = 400;

// `{ lanes: [{ key, name, address, box }], steps: [{ at_us, took_us, isEstimate, lane, from, to, text, … }] }`.
// `lane` is where the step happens; `from` and `to` are the ends of its arrow, or the same lane.
export function unfold(journey) {
  const lanes = [
    { key: "client", name: "client", address: "", box: null },
    { key: "gateway", name: "gateway", address: journey.gateway, box: journey.gateway },
  ];
  const story = { lanes, steps: [] };
  const arrow = (from, to, at_us, text) =>
    ({ at_us, took_us: 0, isEstimate: false, lane: GATEWAY, from, to, text, file: "" });
  story.steps.push(arrow(CLIENT, GATEWAY, 0, `${journey.method} ${journey.path}`));
  addSteps(story, journey.explain ?? [], 0, GATEWAY, false);
  const end_us = Math.max(journey.took_us, ...story.steps.map((step) => step.at_us));
  story.steps.push({ ...arrow(GATEWAY, CLIENT, end_us, ""), status: journey.status });
  return story;
}

function findLane(story, key, name, address, box) {
  const known = story.lanes.findIndex((lane) => lane.key === key);
  if (known < 0) return story.lanes.push({ key, name, address, box }) - 1;
  if (name) story.lanes[known].name = name;
  return known;
}

const processLane = (story, peer, name) => findLane(story, `process ${peer}`, name, peer, peer);

// Adds the steps of the process in lane `me`. Its clock began at `base_us`.
function addSteps(story, explained, base_us, me, isEstimate) {
  let before_us = 0;
  const sent = [];
  for (const one of explained) {
    if (story.steps.length >= MAX_STEPS) return;
    const step = {
      at_us: base_us + one.at_us, took_us: Math.max(0, one.at_us - before_us), isEstimate,
      lane: me, from: me, to: me, text: one.text, file: one.file, bytes: one.bytes, packet: one.packet,
    };
    before_us = one.at_us;
    if (one.place === DATABASE) {
      step.lane = step.from = step.to = findLane(story, `database ${me}`, DATABASE, "", story.lanes[me].box);
    }
    if (one.to !== undefined) {
      step.to = processLane(story, one.to, "");
      sent.push({ peer: one.to, at_us: one.at_us });
    } else if (one.from !== undefined) {
      step.from = processLane(story, one.from, "");
      const sent_us = sent.findLast(({ peer }) => peer === one.from)?.at_us ?? 0;
      addNested(story, one, base_us, sent_us, step);
    }
    story.steps.push(step);
  }
}

// Adds the steps of the process that replied, between the request and the reply.
function addNested(story, one, base_us, sent_us, reply) {
  const nested = one.explain ?? [];
  if (!nested.length) return;
  const lane = processLane(story, one.from, nested[0].place ?? "");
  const network_us = Math.max(0, one.at_us - sent_us - nested.at(-1).at_us);
  const half_us = Math.floor(network_us / 2);
  addSteps(story, nested, base_us + sent_us + half_us, lane, true);
  reply.network_us = network_us;
  reply.took_us = half_us;
}
