// The page: a talk with the model that the server has.

import { bytes, seconds, told } from "./meter.js";
import { chat, get } from "./server.js";
import { loadSettings, loadTalk, request, saveSettings, saveTalk } from "./store.js";
import { fill, item } from "./view.js";

const at = (id) => document.getElementById(id);
const list = at("talk"), scroll = at("scroll"), question = at("question"), dialog = at("settings");
const form = dialog.querySelector("form");
const THEMES = ["", "light", "dark"];
const NEAR = 80; // pixels from the end within which the page follows what is written
const LOOK = 5000; // milliseconds between two looks at the server

let messages = loadTalk();
let settings = loadSettings();
let writing = null; // the AbortController of the answer that is being written
let edited = null; // the index of the question that is edited
let load = "";
let known = false; // whether the model's line is complete

function draw() {
  list.replaceChildren(...messages.map(item));
  scroll.scrollTop = scroll.scrollHeight;
}

function follow(change) {
  const near = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR;
  change();
  if (near) scroll.scrollTop = scroll.scrollHeight;
}

function setBusy(controller) {
  writing = controller;
  at("send").hidden = !!writing;
  at("stop").hidden = !writing;
  list.setAttribute("aria-busy", String(!!writing));
}

// Asks for an answer to the talk as it is, and shows it as it comes.
async function ask() {
  const message = { role: "assistant", content: "" };
  const asked = request(messages, settings);
  messages.push(message);
  const place = item(message);
  list.append(place);
  const controller = new AbortController();
  setBusy(controller);
  const begin = performance.now();
  let first = 0, count = 0, drawn = 0, timings = null;
  const paint = () => { drawn = 0; follow(() => fill(place, message, true)); };
  const clock = setInterval(() => {
    const now = performance.now();
    message.told = first ? `${count} pieces, ${(count / ((now - first) / 1000 || 1)).toFixed(1)}/s`
      : `reading the prompt, ${seconds((now - begin) / 1000)}${load}`;
    drawn ||= requestAnimationFrame(paint);
  }, 500);
  follow(() => fill(place, message, true));
  try {
    for await (const chunk of chat(asked, settings.key, controller.signal)) {
      const delta = chunk.choices[0]?.delta ?? {};
      if (delta.content || delta.reasoning_content) {
        first ||= performance.now();
        count += 1;
      }
      message.content += delta.content ?? "";
      if (delta.reasoning_content) message.reasoning = (message.reasoning ?? "") + delta.reasoning_content;
      timings = chunk.timings ?? timings;
      drawn ||= requestAnimationFrame(paint);
    }
  } catch (error) {
    if (!controller.signal.aborted) message.failure = error.message;
    if (error.status === 401 && !dialog.open) dialog.showModal();
  }
  clearInterval(clock);
  cancelAnimationFrame(drawn);
  message.told = timings ? told(timings) : controller.signal.aborted ? "stopped" : "";
  setBusy(null);
  follow(() => fill(place, message, false));
  saveTalk(messages);
  look();
}

function send() {
  const text = question.value.trim();
  if (!text || writing) return;
  if (edited !== null) messages.length = edited;
  leaveEdit();
  question.value = "";
  messages.push({ role: "user", content: text });
  draw();
  saveTalk(messages);
  ask();
}

function edit(index) {
  if (writing || messages[index]?.role !== "user") return;
  edited = index;
  at("editing").hidden = false;
  question.value = messages[index].content;
  question.focus();
}

function leaveEdit() {
  edited = null;
  at("editing").hidden = true;
}

function retry(index) {
  if (writing) return;
  leaveEdit(); // what is edited may be among what goes
  messages.length = index;
  draw();
  ask();
}

function copy(text, button) {
  navigator.clipboard?.writeText(text).then(() => {
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }, () => {});
}

list.addEventListener("click", ({ target }) => {
  const action = target.dataset?.action;
  const index = [...list.children].indexOf(target.closest("#talk > li"));
  if (action === "edit") edit(index);
  if (action === "retry") retry(index);
  if (action === "copy") copy(messages[index].content, target);
  if (action === "copy-code") copy(target.closest(".code").querySelector("code").textContent, target);
});

at("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
question.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !question.value) {
    event.preventDefault();
    edit(messages.findLastIndex((message) => message.role === "user"));
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || dialog.open) return;
  if (writing) writing.abort();
  else if (edited !== null) { leaveEdit(); question.value = ""; }
});
at("stop").addEventListener("click", () => writing?.abort());
at("leave").addEventListener("click", () => { leaveEdit(); question.value = ""; question.focus(); });
at("new").addEventListener("click", () => {
  writing?.abort();
  messages = [];
  leaveEdit();
  draw();
  saveTalk(messages);
  question.focus();
});

at("open-settings").addEventListener("click", () => dialog.showModal());
form.addEventListener("input", () => { keep({ ...settings, ...Object.fromEntries(new FormData(form)) }); });
at("reset").addEventListener("click", (event) => {
  event.preventDefault();
  for (const field of form.elements) if (field.name) field.value = "";
  keep({ theme: settings.theme, key: "" });
});
dialog.addEventListener("close", look);

function keep(next) {
  settings = next;
  saveSettings(settings);
}

function setTheme(name = "") {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  at("theme").textContent = `Theme: ${name || "auto"}`;
}

at("theme").addEventListener("click", () => {
  keep({ ...settings, theme: THEMES[(THEMES.indexOf(settings.theme ?? "") + 1) % THEMES.length] });
  setTheme(settings.theme);
});

// Shows what is served and how it does.
async function look() {
  const state = at("state");
  try {
    const health = await get("health");
    const [name] = Object.keys(health.models);
    const { running, waiting, state: word, detail } = health.models[name];
    load = waiting ? `; ${running} running, ${waiting} waiting` : "";
    state.textContent = word === "ok" ? `${running} running, ${waiting} waiting` : `${word}: ${detail}`;
    state.classList.toggle("bad", word !== "ok");
    if (known) return;
    at("model").textContent = name;
    const { meta } = (await get("v1/models", settings.key)).data[0];
    at("model").textContent = `${name}, ${bytes(meta.memory)}, context ${meta.context}`;
    known = true;
  } catch (error) {
    known = false; // another server may come
    state.textContent = error.status === 401 ? "a key is wanted: Settings" : error.message;
    state.classList.add("bad");
  }
}

for (const field of form.elements) if (field.name) field.value = settings[field.name] ?? "";
setTheme(settings.theme);
draw();
look();
setInterval(() => { if (!document.hidden) look(); }, LOOK);
question.focus();
