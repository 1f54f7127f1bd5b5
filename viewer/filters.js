/** The bar above the graph: which circuit, threshold of edges, search, zoom, labels out, colours. */
const LISTED = 8; // of what is found
let zoom = 1;

function buildFilters() {
  const many = page.circuits.length > 1;
  const options = page.circuits.map((circuit, i) => [i, `${circuit.task} (${circuit.model || "model"})`]);
  const choose = (value) => update({ circuit: Number(value), beside: Number(value) === state.beside ? -1 : state.beside, node: "", threshold: 0 });
  fill("filters",
    many ? html("label", {}, "circuit ", picker("circuit-select", options, state.circuit, choose)) : null,
    html("label", {}, "hide edges under ", html("input", { id: "threshold", type: "range", min: 0, max: 1000, value: 0, oninput: (event) => update({ threshold: fromSlider(event.target.value) }) }), html("output", { id: "threshold-shown" })),
    html("label", {}, "search ", html("input", { id: "search", type: "search", placeholder: "node, label, group, token", oninput: (event) => update({ search: event.target.value }) })),
    html("span", { id: "found-count", class: "soft" }), html("span", { id: "found-list" }),
    html("button", { id: "zoom-out", "aria-label": "smaller", onclick: () => zoomBy(1 / 1.25) }, "−"), html("button", { id: "zoom-in", "aria-label": "larger", onclick: () => zoomBy(1.25) }, "+"),
    html("button", { id: "zoom-fit", onclick: () => fitGraph() }, "fit"),
    html("span", { id: "view-choice" }),
    html("button", { id: "export-labels", onclick: exportLabels }, "export labels"),
    html("button", { id: "theme", onclick: () => update({ theme: isDark() ? "light" : "dark" }) }, "dark / light"));
}

/** Squared, so that the many small weights are told apart. */
const largestWeight = () => strongest(current().links.map((link) => link.weight)) || 1;
const fromSlider = (value) => Number((largestWeight() * (Number(value) / 1000) ** 2).toPrecision(4));
const toSlider = (threshold) => Math.round(1000 * Math.sqrt(Math.max(0, threshold) / largestWeight()));

function showFilters() {
  const edges = current().links.filter((link) => link.kind === "weight"), ends = current().links.length - edges.length;
  const hidden = edges.filter((link) => Math.abs(link.weight) < state.threshold).length, left = current().links.filter((link) => link.kind !== "weight" && Math.abs(link.weight) >= state.threshold).length;
  byId("threshold").value = toSlider(state.threshold);
  byId("threshold-shown").textContent = ` ${shown(state.threshold)} (${edges.length - hidden} of ${edges.length} edges shown, and lines of ${left < ends ? `${left} of ` : ""}${ends} embedding and unembedding weights)`;
  const views = [["circuit", "on all prompts"], ["prompt", "on this prompt"]];
  fill("view-choice", ...(runsHere(state.circuit) ? ["graph: ", picker("view-select", views, viewed(), (value) => update({ view: value }))] : []));
  if (document.activeElement !== byId("search")) byId("search").value = state.search;
  if (byId("circuit-select")) byId("circuit-select").value = String(state.circuit);
  const found = searchNodes(state.circuit);
  byId("found-count").textContent = state.search ? `${found.size} found${found.size > LISTED ? `, the first ${LISTED}:` : ""}` : "";
  byId("found-list").replaceChildren(...[...found].slice(0, LISTED).flatMap((id) => [nodeButton(id), " "]));
}

/** Nodes whose id, label, group or tokens contain what is searched for. */
function searchNodes(index) {
  const wanted = state.search.toLowerCase(), circuit = page.circuits[index];
  if (!wanted) return new Set();
  const text = (id) => circuit.tokens[String(id)] ?? "";
  const words = (node) => [node.id, nameOf(index, node, "label"), nameOf(index, node, "group"), ...[...node.largest, ...node.smallest].map((context) => text(context.tokens[context.at])), ...[...node.embedding, ...node.unembedding].map((each) => text(each.token))];
  return new Set(circuit.nodes.filter((node) => words(node).some((word) => word.toLowerCase().includes(wanted))).map((node) => node.id));
}

function zoomBy(factor) {
  zoom = Math.min(4, Math.max(0.1, zoom * factor));
  for (const { root, plan } of drawnGraphs) {
    root.setAttribute("width", plan.width * zoom);
    root.setAttribute("height", plan.height * zoom);
  }
}

/** As large as the panes are wide, within reason. */
function fitGraph(least = 0.1) {
  const pane = document.querySelector(".pane"), widest = Math.max(...drawnGraphs.map(({ plan }) => plan.width));
  zoomBy(Math.min(1.6, Math.max(least, (pane.clientWidth - 20) / widest)) / zoom);
}

const isDark = () => (state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
const showTheme = () => { document.documentElement.dataset.theme = isDark() ? "dark" : "light"; };
