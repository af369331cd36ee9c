// Shows Markdown that grows: blocks that have not changed keep their elements.

import { grow } from "./blocks.js";
import { box, button, element } from "./elements.js";
import { inline } from "./inline.js";

const shown = new WeakMap(); // what grow() made of a place's text

// Makes the children of `place` those of a text.
export function show(place, text) {
  const before = shown.get(place);
  const now = grow(before, text);
  now.blocks.forEach((block, i) => {
    const index = now.kept + i, old = place.children[index];
    if (old && before?.blocks[index - before.kept]?.source === block.source) return;
    const made = build(block);
    if (old) old.replaceWith(made);
    else place.append(made);
  });
  while (place.children.length > now.kept + now.blocks.length) place.lastElementChild.remove();
  shown.set(place, now);
}

const BUILDERS = {
  heading: (block) => element(`h${Math.min(block.level + 1, 6)}`, ...inline(block.text)),
  rule: () => element("hr"),
  quote: (block) => element("blockquote", ...block.blocks.map(build)),
  paragraph: (block) => element("p", ...inline(block.text)),
  code,
  list,
  table,
};

function build(block) {
  return BUILDERS[block.kind](block);
}

function code({ language, text }) {
  const head = element("div", element("span", language), ...button("Copy", "copy-code"));
  return box("div", "code", head, element("pre", element("code", text)));
}

function list({ ordered, start, items }) {
  const made = element(ordered ? "ol" : "ul", ...items.map(item));
  if (ordered && start !== 1) made.start = start;
  return made;
}

// The first paragraph of an item is its text, without space around it.
function item(inner) {
  const [first, ...rest] = inner;
  const text = first?.kind === "paragraph" ? inline(first.text) : first ? [build(first)] : [];
  return element("li", ...text, ...rest.map(build));
}

function table({ head, rows }) {
  const row = (cells, name) => element("tr", ...cells.map((text) => element(name, ...inline(text))));
  const made = element("table", element("thead", row(head, "th")), element("tbody", ...rows.map((cells) => row(cells, "td"))));
  return box("div", "table", made);
}
