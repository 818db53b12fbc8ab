// The change feed of `users`, and a form that creates or renames a user.

import { byId, element, setText, sync } from "./dom.js";
import { isSecured, live, watch } from "./live.js";
import { inventEmail, send } from "./now.js";
import { t } from "./text.js";

const MAX_CHOICES = 50;
const MARKS = { created: "+", updated: "±", deleted: "−" };

function createRow(change) {
  const row = element("li", { class: "change-row", "data-seq": change.seq, "data-kind": change.kind });
  row.kind = element("span", { class: "kind" });
  row.append(
    element("span", { class: "seq" }, String(change.seq)), row.kind,
    element("span", { class: "user-id" }, `#${change.user_id}`),
    element("span", { class: "user-name", title: change.user?.name ?? "" }, change.user?.name ?? ""),
    element("span", { class: "user-email", title: change.user?.email ?? "" }, change.user?.email ?? ""));
  return row;
}

// The users that the form can rename, as the newest changes know them.
function knownUsers() {
  const users = new Map();
  for (const { user_id, kind, user } of live.changes) {
    if (!users.has(user_id)) users.set(user_id, kind === "deleted" ? null : (user?.name ?? ""));
  }
  const kept = [...users].filter(([, name]) => name !== null).slice(0, MAX_CHOICES);
  return kept.map(([id, name]) => ({ id, name }));
}

function renderForm() {
  byId("change-form").hidden = isSecured();
  const choices = [{ id: "" }, ...knownUsers()];
  sync(byId("change-user"), choices, ({ id }) => id, ({ id }) => element("option", { value: id }), (option, { id, name }) => {
    setText(option, id ? `#${id} ${name}` : t("new_user"));
  });
  const isNew = !byId("change-user").value;
  byId("change-email-field").hidden = !isNew;
  setText(byId("change-send"), t(isNew ? "create" : "rename"));
}

function render() {
  sync(byId("changes-list"), live.changes, (change) => `${change.seq} ${change.kind} ${change.user_id}`, createRow, (row, { kind }) => {
    setText(row.kind, `${MARKS[kind] ?? "?"} ${t(kind)}`);
  });
  const isOff = live.system?.changes === "off";
  setText(byId("changes-note"), isOff ? t("changes_off") : live.changes.length ? "" : t("changes_none"));
  renderForm();
}

async function submit(event) {
  event.preventDefault();
  const id = byId("change-user").value;
  const name = byId("change-name").value;
  const body = id ? { name } : { name, email: byId("change-email").value || inventEmail() };
  const request = id ? { method: "PATCH", path: `/users/${id}`, body } : { method: "POST", path: "/users", body };
  if (!(await send(byId("change-result"), request))) return;
  byId("change-name").value = byId("change-email").value = "";
  byId("change-name").focus();
}

byId("change-form").addEventListener("submit", submit);
byId("change-user").addEventListener("change", renderForm);
watch(["changes", "system", "language"], render);
