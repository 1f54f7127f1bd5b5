/** Two circuits side by side: two tasks in one model, where nodes can be the same, or one task in two models, where only sizes compare. */
let drawnGraphs = [];

const sameModel = (a, b) => page.circuits[a].weights !== "" && page.circuits[a].weights === page.circuits[b].weights;

function sharedNodes(a, b) {
  if (b < 0 || !sameModel(a, b)) return new Set();
  const other = new Set(page.circuits[b].nodes.map((node) => node.id));
  return new Set(page.circuits[a].nodes.map((node) => node.id).filter((id) => other.has(id)));
}

function buildCompare() {
  if (page.circuits.length < 2) return fill("compare");
  const others = page.circuits.map((circuit, i) => [i, `${circuit.task} (${circuit.model || "model"})`]).filter(([i]) => i !== state.circuit);
  fill("compare", html("label", {}, "beside it ", picker("beside-select", [[-1, "nothing"], ...others], state.beside, (value) => update({ beside: Number(value) }))), html("span", { id: "shared-count" }));
}

function showCompare() {
  buildCompare();
  if (state.beside < 0) return;
  const [one, two] = [page.circuits[state.circuit], page.circuits[state.beside]];
  const size = (circuit) => `${circuit.nodes.length} nodes, ${circuit.links.filter((link) => link.kind === "weight").length} edges`;
  let text = `${one.task}: ${size(one)}; ${two.task}: ${size(two)}; `;
  if (sameModel(state.circuit, state.beside)) {
    const key = (link) => `${link.source} ${link.target}`;
    const edges = new Set(two.links.filter((link) => link.kind === "weight").map(key));
    const shared = one.links.filter((link) => link.kind === "weight" && edges.has(key(link))).length;
    text += `shared: ${sharedNodes(state.circuit, state.beside).size} nodes (ringed), ${shared} edges`;
  } else text += "two models: their nodes are not the same things";
  byId("shared-count").textContent = text;
}

/** The circuits that are drawn, always in the order of the page, so that none changes places when it is clicked. */
const panes = () => [state.circuit, state.beside].filter((index) => index >= 0).sort((a, b) => a - b);

/** Draws the chosen graphs anew. */
function drawGraphs() {
  drawnGraphs = panes().map(drawGraph);
  fill("graphs", drawnGraphs.map((drawn) => html("div", { class: "pane" }, html("h3", {}, [drawn.circuit.task, drawn.circuit.model].filter(Boolean).join(" · ")), drawn.root)));
  fitGraph(0.7);
}

function refreshGraphs(changed) {
  for (const drawn of drawnGraphs) {
    const beside = drawn.index === state.circuit ? state.beside : state.circuit;
    if (changed.has("labels") || changed.has("groups")) for (const node of drawn.circuit.nodes) nameNode(drawn.nodes.get(node.id), node, drawn.index);
    refreshGraph(drawn, searchNodes(drawn.index), sharedNodes(drawn.index, beside));
  }
}
