// Markdown into blocks: plain data, no elements. Whatever the text, the time of a call is linear in it.

const DEEPEST = 8; // quotes and lists within each other
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\s]{0,40})/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:[ \t]+|$)/;
const LONGEST = 2000; // characters of a line that may be more than text

// Blocks of lines: {kind, lines} with their own fields, and the source that each was made from.
export function blocks(text) {
  return parse(text.split("\n"), 0);
}

// The blocks of a text that may have grown since `before`, the result of the last call: the first
// `kept` are as they were, `blocks` come behind them. Further text cannot change the first `settled`.
export function grow(before, text) {
  const same = before && text.slice(0, before.prefix.length) === before.prefix; // startsWith takes a hundred times as long
  const kept = same ? before.settled : 0;
  const prefix = same ? before.prefix : "";
  const lines = text.slice(prefix.length).split("\n");
  const found = parse(lines, 0);
  // What ends a block are its next line and, behind a blank one, the line after that: both must be
  // whole, so neither is the last.
  const whole = found.filter(({ end }) => end + 1 < lines.length - 1);
  const end = whole.length ? whole[whole.length - 1].end : 0;
  const length = lines.slice(0, end).reduce((sum, line) => sum + line.length + 1, 0);
  return { kept, blocks: found, settled: kept + whole.length, prefix: text.slice(0, prefix.length + length) };
}

function parse(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) { at += 1; continue; }
    const [block, end] = take(lines, at, depth);
    found.push({ ...block, end, source: lines.slice(at, end).join("\n") });
    at = end;
  }
  return found;
}

function take(lines, at, depth) {
  const line = lines[at];
  if (line.length > LONGEST) return paragraph(lines, at);
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = (heading[2] ?? "").trim().replace(/[ \t]#{1,6}$/, "");
    return [{ kind: "heading", level: heading[1].length, text }, at + 1];
  }
  if (RULE.test(line)) return [{ kind: "rule" }, at + 1];
  if (QUOTE.test(line) && depth < DEEPEST) return quote(lines, at, depth);
  if (ITEM.test(line) && depth < DEEPEST) return list(lines, at, depth);
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at);
}

function code(lines, at, [, mark, language]) {
  const inner = [];
  let end = at + 1;
  for (; end < lines.length; end += 1) {
    const close = lines[end].trim();
    if (close.length >= mark.length && close === mark[0].repeat(close.length)) return [{ kind: "code", language, text: inner.join("\n") }, end + 1];
    inner.push(lines[end]);
  }
  return [{ kind: "code", language, text: inner.join("\n") }, end]; // it is still being written
}

function quote(lines, at, depth) {
  const inner = [];
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) inner.push(lines[end++].replace(QUOTE, ""));
  return [{ kind: "quote", blocks: parse(inner, depth + 1) }, end];
}

function list(lines, at, depth) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const start = ordered ? parseInt(lines[at].trim(), 10) : 1;
  const items = [];
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || RULE.test(lines[end]) || /\d/.test(item[2]) !== ordered) break;
    const width = item[1].length + item[2].length + 1;
    const inner = [lines[end++].slice(item[0].length)];
    while (end < lines.length && belongs(lines, end, width)) inner.push(dedent(lines[end++], width));
    while (inner.length && !inner[inner.length - 1].trim()) inner.pop();
    items.push(parse(inner, depth + 1));
  }
  return [{ kind: "list", ordered, start, items }, end];
}

// Whether a line goes on with an item whose text begins at this column.
function belongs(lines, at, width) {
  const line = lines[at];
  if (!line.trim()) { // a blank line does where what follows it is indented, or an item
    const next = lines[at + 1] ?? "";
    return next.trim() !== "" && (indent(next) >= Math.min(width, 2) || ITEM.test(next));
  }
  if (indent(line) >= Math.min(width, 2)) return true;
  const lazy = lines[at - 1].trim() !== "" && !starts(line);
  return lazy;
}

function indent(line) {
  return line.length - line.trimStart().length;
}

function dedent(line, width) {
  return line.slice(Math.min(indent(line), width));
}

// Whether a line begins a block of its own, in the middle of a paragraph too.
function starts(line) {
  return line.length <= LONGEST && [FENCE, HEADING, RULE, QUOTE, ITEM].some((form) => form.test(line));
}

function isTable(lines, at) {
  const next = lines[at + 1];
  if (next === undefined || next.length > LONGEST || !lines[at].includes("|")) return false;
  return /^[\s|:-]+$/.test(next) && next.includes("-") && cells(next).every((cell) => /^:?-+:?$/.test(cell))
    && cells(next).length === cells(lines[at]).length;
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table(lines, at) {
  const head = cells(lines[at]);
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].includes("|") && lines[end].length <= LONGEST; end += 1) rows.push(cells(lines[end]).slice(0, head.length));
  return [{ kind: "table", head, rows }, end];
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !starts(lines[end])) end += 1;
  return [{ kind: "paragraph", text: lines.slice(at, end).join("\n") }, end];
}
