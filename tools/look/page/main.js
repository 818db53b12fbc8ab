// The live page of `look`. This module sets the language and the colours, and starts the rest.
//
// Data flows one way: `live.js` follows the event stream, and tells the views, which draw what they are told.
// Reading order: live.js, map.js, explain.js, journey.js.

import { byId, iconFor, setAttributes, setText } from "./dom.js";
import "./health.js";
import "./map.js";
import "./now.js";
import "./requests.js";
import "./changes.js";
import "./switches.js";
import { openJourney } from "./journey.js";
import { follow, isSecured, live, touch, watch } from "./live.js";
import { openNamedTab } from "./tabs.js";
import { chooseLanguage, language, setLanguage, store, stored, t } from "./text.js";

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

function setTheme(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}

function renderTexts() {
  document.title = t("title");
  for (const node of document.querySelectorAll("[data-t]")) setText(node, t(node.dataset.t));
  for (const node of document.querySelectorAll("[data-t-label]")) {
    setAttributes(node, { "aria-label": t(node.dataset.tLabel) });
  }
  setText(byId("language"), t("other_language"));
  setAttributes(byId("language"), { lang: language() === "en" ? "ko" : "en" });
  setText(byId("theme"), t(isDark() ? "theme_light" : "theme_dark"));
}

function renderConnection() {
  const [state, key] = live.connected === null ? ["silent", "connecting"]
    : live.connected ? ["up", "connected"] : ["down", "connection_lost"];
  const tag = byId("connection");
  document.body.classList.toggle("lost", live.connected === false);
  setText(byId("mode"), live.system ? t(isSecured() ? "secured" : "development") : "");
  if (tag.shown === t(key)) return;
  tag.shown = t(key);
  setAttributes(tag, { "data-state": state });
  tag.replaceChildren(iconFor(state), t(key));
}

byId("language").addEventListener("click", () => {
  setLanguage(language() === "en" ? "ko" : "en");
  store("lang", language());
  // The address would win over the choice at the next visit.
  const query = new URLSearchParams(location.search);
  if (query.has("lang")) query.set("lang", language());
  history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
  touch("language");
});

byId("theme").addEventListener("click", () => {
  setTheme(isDark() ? "light" : "dark");
  store("theme", document.documentElement.dataset.theme);
  touch("language");
});

watch(["language"], renderTexts);
watch(["system", "language"], renderConnection);

setTheme(stored("theme"));
chooseLanguage();
const named = openNamedTab();
touch("language", "system");
if (named !== null) openJourney(named);
follow();
