// The talk and the settings, kept in this browser. The key goes with the tab.

const TALK = "moeflux.talk";
const SETTINGS = "moeflux.settings";
const KEY = "moeflux.key";
export const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];

function read(name, fallback, fits) {
  try {
    const found = JSON.parse(localStorage.getItem(name));
    return fits(found) ? found : fallback;
  } catch {
    return fallback;
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch { /* full, or forbidden: the talk goes on without */ }
}

const isText = (value) => value === undefined || typeof value === "string";
const isMessage = (m) => (m?.role === "user" || m?.role === "assistant") && typeof m.content === "string"
  && isText(m.reasoning) && isText(m.told) && isText(m.failure);

// Messages: {role, content} and of answers reasoning, told (numbers in words), failure.
export function loadTalk() {
  return read(TALK, [], (value) => Array.isArray(value) && value.every(isMessage));
}

export function saveTalk(messages) {
  write(TALK, messages);
}

export function loadSettings() {
  const found = read(SETTINGS, {}, (value) => value !== null && typeof value === "object" && Object.values(value).every(isText));
  return { ...found, key: sessionStorage.getItem(KEY) ?? "" };
}

export function saveSettings({ key, ...rest }) {
  sessionStorage.setItem(KEY, key);
  write(SETTINGS, rest);
}

// The body of a request for an answer to these messages.
export function request(messages, settings) {
  const said = messages.map(({ role, content, reasoning }) => ({ role, content, ...(reasoning && { reasoning_content: reasoning }) }));
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  const body = { model: "moeflux", messages: [...system, ...said], stream: true };
  for (const name of NUMBERS) if (settings[name]) body[name] = Number(settings[name]);
  if (settings.enable_thinking) body.enable_thinking = settings.enable_thinking === "true";
  return body;
}
