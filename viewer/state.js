/** What is looked at. It lives in the URL's fragment, so that a link shows the same view. Labels and groups are those that a person changed; changes are
 * what was done to a circuit: node -> "off" or the value that it is held at, "source>target" -> "off". */
const DEFAULTS = { circuit: 0, beside: -1, node: "", threshold: 0, search: "", pair: 0, run: "circuit", view: "circuit", theme: "", prompt: "", labels: {}, groups: {}, changes: {} };
const STEPS_BACK = ["circuit", "node", "view", "prompt", "changes"];
let page = null; // the data
let wiring = null; // path of a node site in its layer -> what the page knows of it (page.py)
let state = structuredClone(DEFAULTS);
const listeners = [];

const pathOf = (site) => site.replace(/^\d+\./, "");
const kindOf = (site) => wiring[pathOf(site)] ?? {};
const readsResidual = (node) => Boolean(kindOf(node.site).residual) && !node.site.endsWith("resid_delta");

function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  const next = structuredClone(DEFAULTS);
  for (const [name, fallback] of Object.entries(DEFAULTS)) {
    if (!given.has(name)) continue;
    const text = given.get(name);
    if (typeof fallback === "number") next[name] = Number.isFinite(Number(text)) ? Number(text) : fallback;
    else if (typeof fallback === "string") next[name] = text;
    else next[name] = readNames(name, text);
  }
  if (!Number.isInteger(next.circuit) || !page.circuits[next.circuit]) next.circuit = 0;
  if (!Number.isInteger(next.beside) || !page.circuits[next.beside] || next.beside === next.circuit) next.beside = -1;
  state = next;
}

/** circuit -> node or edge -> what was said of it. Of a link only what this page has and can do is taken: nodes that there are, edges of the circuit, "off" or a
 * number; anything else is ignored. */
function readNames(kind, text) {
  const found = {};
  let given = null;
  try {
    given = JSON.parse(text);
  } catch { /* a broken link shows the page as it came */ }
  if (given === null || typeof given !== "object") return found;
  page.circuits.forEach((circuit, i) => {
    if (!Object.hasOwn(given, i) || given[i] === null || typeof given[i] !== "object") return;
    const nodes = new Set(circuit.nodes.map((node) => node.id)), edges = new Set(circuit.links.filter((link) => link.kind === "weight").map((link) => edgeKey(link.source, link.target)));
    const isNumber = (value) => value.trim() !== "" && Number.isFinite(Number(value)), can = runsHere(i);
    const fine = ([id, value]) => typeof value === "string" && (kind !== "changes" ? nodes.has(id) : value === "off" ? nodes.has(id) || (can && edges.has(id)) : can && nodes.has(id) && isNumber(value));
    const own = Object.entries(given[i]).filter(fine);
    if (own.length) found[i] = Object.fromEntries(own);
  });
  return found;
}

/** step: one that the browser's back button takes back. */
function writeFragment(step = false) {
  const parts = new URLSearchParams();
  for (const [name, fallback] of Object.entries(DEFAULTS)) {
    const value = typeof fallback === "object" ? JSON.stringify(state[name]) : String(state[name]);
    if (value !== (typeof fallback === "object" ? "{}" : String(fallback))) parts.set(name, value);
  }
  if (`#${parts}` !== location.hash) history[step ? "pushState" : "replaceState"](null, "", `#${parts}`);
}

/** Changes the state and lets every panel know which parts changed, if any did. */
function update(changes) {
  const changed = new Set(Object.keys(changes).filter((name) => changes[name] !== state[name]));
  if (!changed.size) return;
  state = { ...state, ...changes };
  writeFragment(STEPS_BACK.some((name) => changed.has(name)));
  notify(changed);
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
