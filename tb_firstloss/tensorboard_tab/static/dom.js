// Elements, and numbers as text. Names come from other people's files, so text enters the page only
// as text nodes and attributes.

export const element = (name, ...rest) => fill(document.createElement(name), ...rest);
export const svg = (name, ...rest) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), ...rest);

function fill(node, attributes = {}, ...children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

export function text(value) {
  if (value == null) return "";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  if (Number.isFinite(value)) return value.toPrecision(6);
  return Number.isNaN(value) ? "NaN" : value > 0 ? "inf" : "-inf";
}
