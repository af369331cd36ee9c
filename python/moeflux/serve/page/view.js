// The elements of messages.

import { box, button, element } from "./elements.js";
import { show } from "./markdown.js";

// A message as an item of the talk.
export function item(message) {
  return message.role === "user" ? question(message) : answer(message);
}

function question(message) {
  return box("li", "user", box("div", "text", message.content), box("div", "tools", ...button("Edit", "edit")));
}

function answer(message) {
  const reasoning = box("details", "reasoning", element("summary", "Reasoning"), box("div", "markdown"));
  const tools = box("div", "tools", box("span", "told"), ...button("Copy", "copy"), ...button("Retry", "retry"));
  const made = box("li", "assistant", reasoning, box("div", "markdown"), box("p", "failure"), tools);
  fill(made, message, false);
  return made;
}

// Shows what an answer has become. While it is written, its numbers are those of now.
export function fill(place, message, writing) {
  const [reasoning, text, failure, tools] = place.children;
  reasoning.hidden = !message.reasoning;
  if (message.reasoning) show(reasoning.lastElementChild, message.reasoning);
  const thinks = writing && !message.content; // open while there is nothing else to see
  if (thinks !== (reasoning.dataset.thinks === "true")) reasoning.open = thinks;
  reasoning.dataset.thinks = thinks;
  show(text, message.content);
  text.classList.toggle("writing", writing);
  failure.textContent = message.failure ?? "";
  failure.hidden = !message.failure;
  tools.firstElementChild.textContent = message.told ?? "";
  for (const tool of tools.querySelectorAll("button")) tool.hidden = writing;
}
