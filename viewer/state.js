/** What is looked at. It lives in the URL's fragment, so that a link shows the same view. Labels and groups are those that a person changed; changes are
 * what was done to a circuit: node -> "off" or the value that it is held at, "source>target" -> "off". */
const DEFAULTS = { circuit: 0, beside: -1, node: "", threshold: 0, search: "", pair: 0, run: "circuit", view: "circuit", theme: "", prompt: "", labels: {}, groups: {}, changes: {} };
let page = null; // the data
let wiring = null; // path of a node site in its layer -> what the page knows of it (page.py)
let state = structuredClone(DEFAULTS);
const listeners = [];

const pathOf = (site) => site.replace(/^\d+\./, "");
const kindOf = (site) => wiring[pathOf(site)] ?? {};

function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  const next = structuredClone(DEFAULTS);
  for (const [name, fallback] of Object.entries(DEFAULTS)) {
    if (!given.has(name)) continue;
    const text = given.get(name);
    if (typeof fallback === "number") next[name] = Number.isFinite(Number(text)) ? Number(text) : fallback;
    else if (typeof fallback === "string") next[name] = text;
    else next[name] = readNames(text);
  }
  if (!Number.isInteger(next.circuit) || !page.circuits[next.circuit]) next.circuit = 0;
  if (!Number.isInteger(next.beside) || !page.circuits[next.beside] || next.beside === next.circuit) next.beside = -1;
  state = next;
}

/** circuit -> node -> text; anything else in a fragment is ignored. */
function readNames(text) {
  const found = {};
  try {
    for (const [circuit, names] of Object.entries(JSON.parse(text))) {
      const fine = Object.entries(names).filter(([, name]) => typeof name === "string");
      found[circuit] = Object.fromEntries(fine);
    }
  } catch { /* a broken link shows the page as it came */ }
  return found;
}

function writeFragment() {
  const parts = new URLSearchParams();
  for (const [name, fallback] of Object.entries(DEFAULTS)) {
    const value = typeof fallback === "object" ? JSON.stringify(state[name]) : String(state[name]);
    if (value !== (typeof fallback === "object" ? "{}" : String(fallback))) parts.set(name, value);
  }
  history.replaceState(null, "", `#${parts}`);
}

/** Changes the state and lets every panel know which parts changed. */
function update(changes) {
  state = { ...state, ...changes };
  writeFragment();
  notify(new Set(Object.keys(changes)));
}

function notify(changed) {
  for (const listener of listeners) listener(changed);
}

const current = () => page.circuits[state.circuit];
const nodeOf = (circuit, id) => circuit.nodes.find((node) => node.id === id) || null;

/** A node's label or group: what a person wrote here, else what the file says. `kind` is "label" or "group". */
function nameOf(index, node, kind) {
  return state[`${kind}s`][String(index)]?.[node.id] ?? node[kind];
}

function rename(index, node, kind, text) {
  const names = structuredClone(state[`${kind}s`]);
  names[String(index)] = { ...names[String(index)], [node.id]: text };
  if (text === node[kind]) delete names[String(index)][node.id];
  if (!Object.keys(names[String(index)]).length) delete names[String(index)];
  update({ [`${kind}s`]: names });
}
