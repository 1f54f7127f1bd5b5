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

/** Draws the chosen graphs anew, each as large as its pane. */
function drawGraphs() {
  const frame = byId("graphs"), shown_ = panes(), space = { width: Math.max(520, frame.clientWidth / shown_.length - 24), height: Math.max(360, frame.clientHeight - 20) };
  drawnGraphs = shown_.map((index) => drawGraph(index, space));
  const name = (drawn) => (shown_.length > 1 ? html("h3", {}, [drawn.circuit.task, drawn.circuit.model].filter(Boolean).join(" · ")) : null);
  fill("graphs", drawnGraphs.map((drawn) => html("div", { class: "pane" }, name(drawn), drawn.root)));
  fitGraph(0.7);
}

function refreshGraphs(changed) {
  for (const drawn of drawnGraphs) {
    const beside = drawn.index === state.circuit ? state.beside : state.circuit;
    if (changed.has("labels") || changed.has("groups")) nameNodes(drawn);
    refreshGraph(drawn, searchNodes(drawn.index), sharedNodes(drawn.index, beside));
  }
}
