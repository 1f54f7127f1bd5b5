/** Elements are made here, and text only ever becomes text. */
function make(namespace, name, attributes, children) {
  const element = namespace ? document.createElementNS(namespace, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : harmless(child))));
  return element;
}

/** Characters that turn the direction of what follows are named instead: isolation does not hold against those that are left open. */
const harmless = (text) => String(text).replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (mark) => `‹U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);

const html = (name, attributes, ...children) => make(null, name, attributes, children);
const svg = (name, attributes, ...children) => make("http://www.w3.org/2000/svg", name, attributes, children);
const byId = (id) => document.getElementById(id);

/** New content for a panel; what had the focus in it has it again, if it is still there. */
function fill(id, ...children) {
  const active = document.activeElement?.id;
  byId(id).replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (active && document.activeElement?.id !== active) byId(active)?.focus();
}

/** Numbers with a true minus sign and at most four significant digits. */
function shown(value) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

/** White space that could not be seen is drawn. */
const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "·");

/** A token as text, shaded by a value if one is given: blue above zero, orange below, as strong as its share of `largest`. */
function token(circuit, id, value, largest, classes) {
  const text = circuit.tokens[String(id)] ?? `#${id}`;
  const span = html("span", { class: `token ${classes || ""}`, dir: "auto" }, text.replaceAll("\n", "↵\n"));
  if (value !== undefined && value !== null) {
    shade(span, value, largest);
    span.title = `${visible(text)}  ${shown(value)}`;
  }
  return span;
}

function shade(span, value, largest) {
  const share = largest > 0 ? Math.round((70 * Math.abs(value)) / largest) : 0;
  span.dataset.value = String(value);
  span.title = shown(value);
  span.style.background = `color-mix(in srgb, var(${value < 0 ? "--minus" : "--plus"}) ${share}%, transparent)`;
}

const strongest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
