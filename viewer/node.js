/** The selected node: what it is, what it reads and writes, its tokens, the names that a person gives it. */
function showNode() {
  const circuit = current(), node = nodeOf(circuit, state.node);
  byId("details").classList.toggle("chosen", node !== null);
  if (!node) return fill("node", html("h2", {}, "No node selected"), html("p", { class: "soft" }, "Click a node, or use the arrow keys in the graph."));
  const facts = [["site", node.site], ["head", node.head], ["effect: loss rises by, when closed", node.effect === null ? null : `${shown(node.effect)} nats`], ["mean over the corpus", shown(node.mean)], ["not 0 at", node.active === null ? null : `${shown(100 * node.active)} % of tokens`]];
  fill("node",
    html("h2", {}, node.id), html("p", { class: "soft", dir: "auto" }, spoken(state.circuit, node)),
    html("table", {}, facts.filter(([, value]) => value !== null).map(([name, value]) => html("tr", {}, html("td", { class: "soft" }, name), html("td", {}, String(value))))),
    canRun() ? html("p", { id: "node-changes", class: "bar" }, changeButtons(node)) : null, canRun() ? html("div", { id: "node-effect" }) : null,
    nameField(node, "label"), nameField(node, "group"),
    weightTable("Reads", "reads", node.reads, circuit), tokenTable("Embedding of its channel", "embedding", node.embedding, circuit),
    weightTable("Writes", "writes", node.writes, circuit), tokenTable("Unembedding of its channel", "unembedding", node.unembedding, circuit));
}

/** Off, or held at a value (where the page runs the model itself), and back. */
function changeButtons(node) {
  const now = changesIn(state.circuit)[node.id], field = html("input", { id: "hold-at", type: "number", step: "any", value: now && now !== "off" ? now : "", "aria-label": "value to hold it at", placeholder: "value" });
  const hold = () => (Number.isFinite(field.valueAsNumber) ? change(node.id, String(field.valueAsNumber)) : null);
  field.addEventListener("keydown", (event) => { if (event.key === "Enter") hold(); });
  return [html("button", { onclick: () => switchNode(node.id), title: "off: held at its mean over the corpus" }, now === "off" ? "switch on" : "switch off"),
    ...(runsHere(state.circuit) ? [field, html("button", { id: "hold", onclick: hold }, "hold at it")] : []),
    ...(now === undefined ? [] : [html("button", { onclick: () => change(node.id, null) }, "undo")])];
}

/** An edge of the circuit, which can be cut where the page runs the model. */
function cutButton(source, target) {
  if (!runsHere(state.circuit)) return null;
  const cut = edgeKey(source, target) in changesIn(state.circuit);
  return html("button", { class: "cut", title: cut ? "put the edge back" : "cut the edge", "aria-label": `${cut ? "put back" : "cut"} ${source} to ${target}`, onclick: () => switchEdge(source, target) }, cut ? "put back" : "cut");
}

/** Names or changes are others now: the fields are not built anew, as the next one may just be getting the focus. */
function refreshNames() {
  const node = nodeOf(current(), state.node);
  if (node && byId("node-changes") && document.activeElement?.id !== "hold-at") fill("node-changes", changeButtons(node));
  if (node) for (const row of document.querySelectorAll("#node tr[data-source]")) row.querySelector(".cut")?.replaceWith(cutButton(row.dataset.source, row.dataset.target));
  for (const kind of node ? ["label", "group"] : []) {
    const field = byId(`${kind}-input`);
    if (field && field !== document.activeElement) field.value = nameOf(state.circuit, node, kind);
  }
}

function nameField(node, kind) {
  const index = state.circuit;
  const input = html("input", { id: `${kind}-input`, maxlength: 200, dir: "auto", value: nameOf(index, node, kind), onchange: (event) => rename(index, node, kind, event.target.value) });
  return html("p", {}, html("label", { for: `${kind}-input` }, `${kind}: `), input);
}

/** The circuit's own edges first, all of them; then the largest of the others. Those within the circuit can be gone to; the others are said to be outside. */
function weightTable(title, name, largest, circuit) {
  const [here, there] = name === "reads" ? ["target", "source"] : ["source", "target"];
  const own = circuit.links.filter((link) => link.kind === "weight" && link[here] === state.node).map((link) => ({ node: link[there], weight: link.weight })).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  const edges = new Set(own.map((each) => each.node)), weights = [...own, ...largest.filter((each) => !edges.has(each.node))];
  if (!weights.length) return null;
  const inside = new Set(circuit.nodes.map((node) => node.id));
  const rows = weights.map(({ node, weight }) => {
    const [source, target] = name === "reads" ? [node, state.node] : [state.node, node], drawn = edges.has(node);
    const row = html("tr", {}, html("td", { class: `number ${weight < 0 ? "minus" : "plus"}` }, shown(weight)), html("td", {}, inside.has(node) ? nodeButton(node) : html("span", { class: "soft" }, `${node} (outside)`), " ", drawn ? cutButton(source, target) : null));
    if (drawn) Object.assign(row.dataset, { source, target });
    return row;
  });
  return html("div", { class: name }, html("h3", {}, title), html("table", {}, rows));
}

function tokenTable(title, name, weights, circuit) {
  if (!weights.length) return null;
  const rows = weights.map((each) => html("tr", {}, html("td", { class: `number ${each.weight < 0 ? "minus" : "plus"}` }, shown(each.weight)), html("td", { class: "code" }, token(circuit, each.token))));
  return html("div", { class: name }, html("h3", {}, title), html("table", {}, rows));
}

function nodeButton(id) {
  const node = nodeOf(current(), id), text = node ? spoken(state.circuit, node) : "";
  return html("button", { class: "link", dir: "auto", onclick: () => update({ node: id }) }, text ? `${id} ${text}` : id);
}
