// What is visible without a click, beside the map: the numbers, the latest packet, and the first request.

import { byId, element, setText, showPacket, sync } from "./dom.js";
import { getJson, isSecured, live, postJson, watch } from "./live.js";
import { openJourney } from "./journey.js";
import { number, t } from "./text.js";

const NAMES = ["Kim", "Lee", "Park", "Choi", "Jung", "Ada", "Grace", "Alan"];

function figures({ totals, gateways }) {
  const in_flight = gateways.reduce((sum, gateway) => sum + gateway.in_flight, 0);
  return [
    ["per_second", number(totals.requests_per_second)],
    ["p50", number(totals.p50_ms, 2)],
    ["p99", number(totals.p99_ms, 2)],
    ["failed_per_second", number(totals.failed_per_second)],
    ["in_flight", number(in_flight)],
  ];
}

function createFigure([key]) {
  const box = element("div", { "data-figure": key });
  box.term = element("dt");
  box.value = element("dd");
  box.append(box.value, box.term);
  return box;
}

function renderNumbers() {
  sync(byId("numbers"), figures(live.system), ([key]) => key, createFigure, (box, [key, value]) => {
    setText(box.term, t(key));
    setText(box.value, value);
  });
}

function renderLatest() {
  const { latest } = live.system;
  const packet = byId("latest-packet");
  const isShown = Boolean(latest?.packet);
  packet.classList.toggle("quiet", !isShown);
  setText(byId("latest-way"), latest ? t("latest_way", latest) : "");
  if (isShown) return showPacket(packet, latest.packet);
  packet.shown = null;
  const isHidden = isSecured() || live.system.gateways.some((gateway) => gateway.journeys === "hidden");
  setText(packet, t(isHidden ? "latest_hidden" : "latest_none"));
}

function render() {
  if (!live.system) return;
  renderNumbers();
  renderLatest();
  byId("send-first").hidden = isSecured();
}

// Shows the answer of `POST /send` in `place`, with a button that leads to its journey.
export async function send(place, request) {
  place.hidden = false;
  setText(place, t("sending"));
  try {
    const { status, id, body } = await postJson("/send", request);
    showAnswer(place, status, id, body.trimEnd());
    return status < 400;
  } catch (error) {
    setText(place, t("failed_to", { message: error.message }));
    return false;
  }
}

function showAnswer(place, status, id, body) {
  const word = element("strong", { class: "answer" }, t("answer", { status }));
  const open = element("button", { type: "button", class: "journey-open" }, t("show_journey"));
  open.addEventListener("click", () => openJourneyOf(place, id));
  const shownBody = element("code", { class: "body", title: body, tabindex: 0 }, body);
  place.replaceChildren(word, " ", element("code", { class: "request-id" }, id), " ", shownBody, open);
  place.translateAnswer = () => {
    setText(word, t("answer", { status }));
    setText(open, t("show_journey"));
  };
}

// The journey of a request comes a moment after its answer, or never if too many came in this second.
async function openJourneyOf(place, id) {
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const { journeys } = await getJson(`/journeys.json?id=${encodeURIComponent(id)}`).catch(() => ({ journeys: [] }));
    const journey = journeys.find((one) => one.id === id);
    if (journey) return openJourney(journey.number);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  setText(place, t("not_sampled"));
}

export const inventEmail = () => `user-${Math.random().toString(36).slice(2, 8)}@example.com`;

byId("send-first").addEventListener("click", () => {
  const name = NAMES[Math.floor(Math.random() * NAMES.length)];
  send(byId("send-result"), { method: "POST", path: "/users", body: { name, email: inventEmail() } });
});

watch(["system", "language"], render);
watch(["language"], () => {
  for (const place of document.querySelectorAll(".result")) place.translateAnswer?.();
});
