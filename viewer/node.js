/** The selected node: what it is, what it reads and writes, its tokens, the names that a person gives it. */
function showNode() {
  const circuit = current(), node = nodeOf(circuit, state.node);
  if (!node) return fill("node", html("h2", {}, "No node selected"), html("p", { class: "soft" }, "Click a node, or use the arrow keys in the graph."));
  const facts = [["site", node.site], ["head", node.head], ["effect: loss rises by, when closed", node.effect === null ? null : `${shown(node.effect)} nats`], ["mean over the corpus", shown(node.mean)], ["not 0 at", node.active === null ? null : `${shown(100 * node.active)} % of tokens`]];
  fill("node",
    html("h2", {}, node.id),
    html("table", {}, facts.filter(([, value]) => value !== null).map(([name, value]) => html("tr", {}, html("td", { class: "soft" }, name), html("td", {}, String(value))))),
    nameField(node, "label"), nameField(node, "group"),
    weightTable("Reads", "reads", node.reads, circuit), tokenTable("Embedding of its channel", "embedding", node.embedding, circuit),
    weightTable("Writes", "writes", node.writes, circuit), tokenTable("Unembedding of its channel", "unembedding", node.unembedding, circuit));
}

/** Names changed: the fields are not built anew, as the next one may just be getting the focus. */
function refreshNames() {
  const node = nodeOf(current(), state.node);
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

/** Those within the circuit can be gone to; the others are said to be outside. */
function weightTable(title, name, weights, circuit) {
  if (!weights.length) return null;
  const inside = new Set(circuit.nodes.map((node) => node.id));
  const rows = weights.map(({ node, weight }) => html("tr", {}, html("td", { class: `number ${weight < 0 ? "minus" : "plus"}` }, shown(weight)), html("td", {}, inside.has(node) ? nodeButton(node) : html("span", { class: "soft" }, `${node} (outside)`))));
  return html("div", { class: name }, html("h3", {}, title), html("table", {}, rows));
}

function tokenTable(title, name, weights, circuit) {
  if (!weights.length) return null;
  const rows = weights.map((each) => html("tr", {}, html("td", { class: `number ${each.weight < 0 ? "minus" : "plus"}` }, shown(each.weight)), html("td", { class: "code" }, token(circuit, each.token))));
  return html("div", { class: name }, html("h3", {}, title), html("table", {}, rows));
}

function nodeButton(id) {
  const node = nodeOf(current(), id), label = node && nameOf(state.circuit, node, "label");
  return html("button", { class: "link", dir: "auto", onclick: () => update({ node: id }) }, label ? `${id} ${label}` : id);
}
