// Text with emphasis, code and links into nodes. Nodes are made one by one: no HTML is parsed, so
// that whatever a model writes is text.

import { element } from "./elements.js";

const LONGEST = 20000; // characters; more than that stays plain text
const SAFE = ["http:", "https:", "mailto:"];
// Each ends at the next of its own marks, so that a text of marks alone costs no more than another.
const FORMS = [
  [/\*\*(?=\S)((?:[^*]|\*(?!\*))+)\*\*/y, "strong"],
  [/__(?=\S)((?:[^_]|_(?!_))+)__(?!\w)/y, "strong"],
  [/~~(?=\S)([^~]+)~~/y, "del"],
  [/\*(?=\S)([^*]+)\*/y, "em"],
  [/_(?=\S)([^_]+)_(?!\w)/y, "em"],
];
const LINK = /!?\[([^[\]]{0,500})\]\(<?([^\s()<>]{0,2000}(?:\([^\s()<>]{0,200}\)[^\s()<>]{0,200})?)>?(?:\s+"[^"]{0,200}")?\)/y;
const BARE = /<?(https?:\/\/[^\s<>"'`]{1,2000})>?/y;
const PLAIN = /[^\\`*_~![<&h\n]+/y;
const ENTITY = /&(amp|lt|gt|quot|nbsp|#39);/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', nbsp: "\u00a0", "#39": "'" };
const ESCAPED = /\\([!-/:-@[-`{-~])/y;

// The nodes of a text.
export function inline(text, deep = 0) {
  if (text.length > LONGEST || deep > 4) return [document.createTextNode(text)];
  const nodes = [];
  let plain = "";
  const put = (node) => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
    nodes.push(node);
  };
  for (let at = 0; at < text.length;) {
    const found = code(text, at) ?? link(text, at, deep) ?? emphasis(text, at, deep) ?? line(text, at);
    if (found) {
      if (found.node) put(found.node);
      else plain += found.text;
      at = found.end;
    } else {
      const [some] = match(PLAIN, text, at) ?? match(/./suy, text, at);
      plain += some;
      at += some.length;
    }
  }
  if (plain) nodes.push(document.createTextNode(plain));
  return nodes;
}

function match(form, text, at) {
  form.lastIndex = at;
  return form.exec(text);
}

function code(text, at) {
  if (text[at] !== "`") return null;
  let end = at;
  while (text[end] === "`") end += 1;
  const mark = text.slice(at, end);
  let close = text.indexOf(mark, end);
  while (close >= 0 && text[close + mark.length] === "`") { // a longer run is none of these
    let past = close;
    while (text[past] === "`") past += 1;
    close = text.indexOf(mark, past);
  }
  if (close < 0) return { text: mark, end };
  return { node: element("code", text.slice(end, close).replace(/^ (.*\S.*) $/s, "$1")), end: close + mark.length };
}

// A link, if it leads to the web; else its source stays as text. Images are links: none is fetched.
function link(text, at, deep) {
  const named = match(LINK, text, at);
  if (named) {
    const end = at + named[0].length;
    if (!isSafe(named[2])) return { text: named[0], end };
    return { node: anchor(named[2], inline(named[1] || named[2], deep + 1)), end };
  }
  const bare = /\w/.test(text[at - 1] ?? "") ? null : match(BARE, text, at);
  if (!bare) return null;
  const url = bare[1].replace(/[.,;:!?)\]*_~]+$/, "");
  if (!isSafe(url)) return null;
  const whole = bare[0].startsWith("<") && bare[0].endsWith(">");
  const before = bare[0].startsWith("<") && !whole ? "<" : "";
  if (before) return { text: before, end: at + 1 };
  return { node: anchor(url, [document.createTextNode(url)]), end: at + (whole ? bare[0].length : url.length) };
}

function isSafe(url) {
  return URL.canParse(url) && SAFE.includes(new URL(url).protocol);
}

function anchor(url, children) {
  const made = element("a", ...children);
  Object.assign(made, { href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow" });
  return made;
}

function emphasis(text, at, deep) {
  if (!"*_~".includes(text[at])) return null;
  if (text[at] === "_" && /\w/.test(text[at - 1] ?? "")) return null; // snake_case
  for (const [form, name] of FORMS) {
    const found = match(form, text, at);
    if (found && /\S$/.test(found[1])) return { node: element(name, ...inline(found[1], deep + 1)), end: at + found[0].length };
  }
  return null;
}

// An escaped mark, a mark by its name, or the end of a line that is meant as one.
function line(text, at) {
  const escaped = match(ESCAPED, text, at);
  if (escaped) return { text: escaped[1], end: at + 2 };
  const named = match(ENTITY, text, at);
  if (named) return { text: ENTITIES[named[1]], end: at + named[0].length };
  return text[at] === "\n" ? { node: element("br"), end: at + 1 } : null;
}
