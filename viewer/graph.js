/** The whole circuit, drawn once for a circuit; what is selected, found or hidden only changes classes. */
function drawGraph(index) {
  const circuit = page.circuits[index];
  const plan = layOut(circuit);
  const most = strongest(circuit.links.map((link) => link.weight)) || 1;
  const effects = strongest(circuit.nodes.map((node) => node.effect ?? 0)) || 1;
  const parts = { lanes: svg("g", {}), edges: svg("g", {}), nodes: svg("g", {}) };
  for (const row of plan.rows) parts.lanes.append(svg("text", { class: "row", x: 6, y: row.y + 4 }, row.title));
  for (const { channel, x, top, bottom } of plan.lanes) {
    parts.lanes.append(svg("line", { class: "lane", x1: x, x2: x, y1: top, y2: bottom }, svg("title", {}, `residual channel ${channel}`)));
  }
  for (const box of plan.boxes) {
    parts.lanes.append(svg("rect", { class: "box", x: box.x, y: box.y, width: box.width, height: box.height, rx: 5 }), svg("text", { class: "row", x: box.x + 2, y: box.y - 3 }, `head ${box.head}`));
  }
  const edges = circuit.links.map((link) => drawEdge(link, plan, most)).filter(Boolean);
  parts.edges.append(...matches(circuit, plan), ...edges.map((edge) => edge.element));
  const nodes = new Map(circuit.nodes.map((node) => [node.id, drawNode(node, index, plan.places.get(node.id), effects)]));
  parts.nodes.append(...nodes.values(), ...endsOf(circuit, plan));
  const root = svg("svg", { width: plan.width, height: plan.height, viewBox: `0 0 ${plan.width} ${plan.height}`, tabindex: 0, role: "application", "aria-label": `Circuit for ${circuit.task}: arrow keys go from node to node, Escape lets go`, onkeydown: (event) => onKey(event, index, plan) }, parts.lanes, parts.edges, parts.nodes);
  root.addEventListener("click", (event) => {
    const id = event.target.closest(".node")?.dataset.id;
    if (id) chooseNode(index, id);
  });
  return { index, circuit, root, nodes, edges, plan };
}

/** Selects a node of a graph that is shown; the other graph stays beside it. */
function chooseNode(index, id) {
  update({ circuit: index, beside: index === state.beside ? state.circuit : state.beside, node: id });
}

function drawEdge(link, plan, most) {
  const from = plan.places.get(link.source), to = plan.places.get(link.target);
  if (!from || !to) return null;
  const middle = (from.y + to.y) / 2;
  const width = 0.6 + (3.4 * Math.abs(link.weight)) / most;
  const element = svg("path", { class: `edge ${link.weight < 0 ? "negative" : "positive"}`, d: `M${from.x} ${from.y}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`, "stroke-width": width.toFixed(2) }, svg("title", {}, `${link.source} → ${link.target}  ${shown(link.weight)}`));
  element.dataset.source = link.source;
  element.dataset.target = link.target;
  return { link, element };
}

/** Channel i of q meets channel i of k in the attention scores. */
function matches(circuit, plan) {
  return circuit.nodes.filter((node) => kindOf(node.site).meets).flatMap((node) => {
    const site = node.site.slice(0, -pathOf(node.site).length) + kindOf(node.site).meets;
    const other = plan.places.get(`${site}:${node.index}`), own = plan.places.get(node.id);
    return other ? [svg("path", { class: "match", d: `M${own.x} ${own.y}Q${(own.x + other.x) / 2} ${own.y + 26} ${other.x} ${other.y}` })] : [];
  });
}

/** Larger and darker: the loss rises more when the node is closed. */
function drawNode(node, index, place, effects) {
  const share = Math.max(0, node.effect ?? 0) / effects;
  const radius = 4 + 4 * Math.sqrt(share);
  const group = svg("g", { class: "node", transform: `translate(${place.x} ${place.y})` },
    svg("circle", { class: "ring", r: radius }), svg("circle", { class: "shade", r: radius - 1, opacity: (0.1 + 0.8 * share).toFixed(2) }),
    svg("title", {}, node.id), svg("text", { class: "group", x: 8, y: -6 }), svg("text", { class: "label", x: 9, y: 13 }));
  group.dataset.id = node.id;
  nameNode(group, node, index);
  return group;
}

function nameNode(element, node, index) {
  const label = harmless(nameOf(index, node, "label"));
  element.querySelector(".label").textContent = label.length > 18 ? `${label.slice(0, 17)}…` : label;
  element.querySelector(".group").textContent = harmless(nameOf(index, node, "group")).slice(0, 8);
  const kind = node.site.split(".").pop();
  const effect = node.effect === null ? "" : `, effect ${shown(node.effect)} nats`;
  element.querySelector("title").textContent = `${node.id} (${kind})${label ? ` “${label}”` : ""}${effect}`;
}

function endsOf(circuit, plan) {
  return [...plan.places].filter(([, place]) => place.node?.pseudo).map(([id, place]) => {
    const text = harmless(visible(circuit.tokens[String(place.node.index)] ?? ""));
    return svg("text", { class: "end", x: place.x, y: place.y + (id.startsWith("token:") ? -4 : 14), "text-anchor": "middle", direction: "ltr" }, svg("title", {}, `${id} ${text}`), text.length > 8 ? `${text.slice(0, 7)}…` : text);
  });
}

/** Classes by the state: selection and its neighbours, search, threshold, names. */
function refreshGraph(drawn, found, shared) {
  const { circuit, index, nodes, edges, root } = drawn;
  const selected = nodes.has(state.node) && (index === state.circuit || sameModel(index, state.circuit)) ? state.node : "";
  const near = new Set();
  for (const { link, element } of edges) {
    const on = selected !== "" && (link.source === selected || link.target === selected);
    if (on) near.add(link.source).add(link.target);
    element.classList.toggle("on", on);
    element.classList.toggle("hidden", Math.abs(link.weight) < state.threshold);
  }
  root.classList.toggle("chosen", selected !== "");
  root.classList.toggle("searching", state.search !== "");
  for (const node of circuit.nodes) {
    const classes = nodes.get(node.id).classList;
    classes.toggle("selected", node.id === selected);
    classes.toggle("near", near.has(node.id));
    classes.toggle("found", found.has(node.id));
    classes.toggle("shared", shared.has(node.id));
    classes.toggle("off", offIn(index).has(node.id));
  }
}

function onKey(event, index, plan) {
  const order = plan.rows.map((row) => [...row.nodes].sort((a, b) => plan.places.get(a.id).x - plan.places.get(b.id).x)).filter((row) => row.length);
  const own = index === state.circuit || sameModel(index, state.circuit) ? state.node : "";
  const at = order.findIndex((row) => row.some((node) => node.id === own));
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (event.key === "Escape") update({ node: "" });
  if (!moves[event.key] || !order.length) return;
  event.preventDefault();
  if (at < 0) return chooseNode(index, order[0][0].id);
  const [down, right] = moves[event.key];
  const row = order[Math.min(order.length - 1, Math.max(0, at + down))];
  const here = order[at].findIndex((node) => node.id === state.node);
  const x = plan.places.get(state.node).x;
  const nearest = () => row.reduce((best, node) => (Math.abs(plan.places.get(node.id).x - x) < Math.abs(plan.places.get(best.id).x - x) ? node : best));
  chooseNode(index, (down ? nearest() : row[Math.min(row.length - 1, Math.max(0, here + right))]).id);
}
