// Elements by name. Texts among the children become text.

export function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

export function box(name, className, ...children) {
  const made = element(name, ...children);
  made.className = className;
  return made;
}

// A button by what it does. Browsers let a page copy where it came over https or from this machine: [] elsewhere.
export function button(text, action) {
  if (action.startsWith("copy") && !navigator.clipboard) return [];
  const made = element("button", text);
  made.type = "button";
  made.dataset.action = action;
  return [made];
}
