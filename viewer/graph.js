/** The whole circuit, drawn once for a circuit; what is selected, found, lit or hidden only changes classes. */
function drawGraph(index, space) {
  const circuit = page.circuits[index], plan = layOut(circuit, space);
  const most = strongest(circuit.links.map((link) => link.weight)) || 1;
  const effects = strongest(circuit.nodes.map((node) => node.effect ?? 0)) || 1;
  const parts = { lanes: svg("g", {}), edges: svg("g", {}), nodes: svg("g", {}) };
  for (const { layer, y, height } of plan.bands) parts.lanes.append(svg("rect", { class: "band", x: 0, y, width: plan.width, height, rx: 6 }), svg("text", { class: "layer", x: 8, y: y + 13 }, `layer ${layer}`));
  for (const row of plan.rows) parts.lanes.append(svg("text", { class: "row", x: LEFT - 24, y: row.y + 4, "text-anchor": "end" }, row.title));
  for (const { channel, x, top, bottom } of plan.lanes) {
    parts.lanes.append(svg("line", { class: "lane", x1: x, x2: x, y1: top, y2: bottom }, svg("title", {}, `residual channel ${channel}`)));
  }
  for (const box of plan.boxes) {
    parts.lanes.append(svg("rect", { class: "box", x: box.x, y: box.y, width: box.width, height: box.height, rx: 5 }), svg("text", { class: "head", x: box.x + 2, y: box.y - 3 }, `head ${box.head}`));
  }
  const edges = circuit.links.map((link) => drawEdge(link, plan, most)).filter(Boolean);
  parts.edges.append(...matches(circuit, plan), ...edges.map((edge) => edge.element));
  const nodes = new Map(circuit.nodes.map((node) => [node.id, drawNode(node, plan.places.get(node.id), effects)]));
  const groups = svg("g", {});
  parts.nodes.append(groups, ...nodes.values(), ...endsOf(circuit, plan));
  const root = svg("svg", { width: plan.width, height: plan.height, viewBox: `0 0 ${plan.width} ${plan.height}`, tabindex: 0, role: "application", "aria-label": `Circuit for ${circuit.task}, forward from bottom to top: arrow keys go from node to node, Escape lets go`, onkeydown: (event) => onKey(event, index, plan) }, parts.lanes, parts.edges, parts.nodes);
  const drawn = { index, circuit, root, nodes, edges, plan, groups, onward: null };
  nameNodes(drawn);
  listen(drawn);
  return drawn;
}

function listen(drawn) {
  const { root, index } = drawn;
  root.addEventListener("click", (event) => {
    const id = event.target.closest(".node")?.dataset.id, edge = event.target.closest(".edge");
    if (id) chooseNode(index, id);
    else if (edge && !edge.dataset.source.startsWith("token:") && !edge.dataset.target.startsWith("answer:") && index === state.circuit) switchEdge(edge.dataset.source, edge.dataset.target);
  });
  root.addEventListener("pointerover", (event) => {
    const over = event.target.closest(".node, .end");
    light(drawn, over ? over.dataset.id : null);
  });
  root.addEventListener("pointerleave", () => light(drawn, null));
}

/** Selects a node of a graph that is shown; the other graph stays beside it. */
function chooseNode(index, id) {
  update({ circuit: index, beside: index === state.beside ? state.circuit : state.beside, node: id });
}

function drawEdge(link, plan, most) {
  const from = plan.places.get(link.source), to = plan.places.get(link.target);
  if (!from || !to) return null;
  const middle = (from.y + to.y) / 2, width = 0.5 + (4 * Math.abs(link.weight)) / most;
  const element = svg("path", { class: `edge ${link.weight < 0 ? "negative" : "positive"} ${link.kind === "weight" ? "" : "end-edge"}`, d: `M${from.x} ${from.y}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`, "stroke-width": width.toFixed(2) }, svg("title", {}, `${link.source} → ${link.target}  ${shown(link.weight)}`));
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

/** Larger and darker: the loss rises more when the node is closed. Neurons are square. */
function drawNode(node, place, effects) {
  const share = Math.max(0, node.effect ?? 0) / effects, radius = 4 + 4 * Math.sqrt(share), letter = letterOf(node), square = pathOf(node.site) === "mlp.post_act";
  const shape = (name, size, more) => (square ? svg("rect", { class: name, r: size, x: -size, y: -size, width: 2 * size, height: 2 * size, rx: 2, ...more }) : svg("circle", { class: name, r: size, ...more }));
  const group = svg("g", { class: "node", transform: `translate(${place.x} ${place.y})` },
    shape("ring", radius, {}), shape("shade", radius - 1, { opacity: (0.1 + 0.8 * share).toFixed(2) }),
    letter ? svg("text", { class: `letter ${share > 0.4 ? "on-dark" : ""}`, y: 3, "text-anchor": "middle" }, letter) : null,
    svg("title", {}, node.id), svg("text", { class: "group", x: 8, y: -8 }), svg("text", { class: "label", x: radius + 3, y: 4 }));
  group.dataset.id = node.id;
  return group;
}

/** Texts of all nodes, those that have room for good, the others when they are lit; and the groups that a person made. */
function nameNodes(drawn) {
  const { circuit, index, nodes, plan } = drawn, texts = new Map(circuit.nodes.map((node) => [node.id, spoken(index, node)]));
  const plain = (text) => text.replace(/ \((keeps|F1) [^)]*\)$/, ""); // csp explain's score is in the title
  const short = (text) => (plain(text).length > 18 ? `${plain(text).slice(0, 17)}…` : plain(text));
  const room = withRoom(circuit.nodes, plan, new Map([...texts].map(([id, text]) => [id, short(text)])));
  for (const node of circuit.nodes) {
    const element = nodes.get(node.id), effect = node.effect === null ? "" : `, effect ${shown(node.effect)} nats`, kind = KINDS[pathOf(node.site)] ?? kindOf(node.site).title ?? node.site;
    element.querySelector(".label").textContent = short(texts.get(node.id));
    element.querySelector(".group").textContent = harmless(nameOf(index, node, "group")).slice(0, 8);
    element.querySelector("title").textContent = `${node.id} (${kind})${texts.get(node.id) ? ` “${texts.get(node.id)}”` : ""}${effect}`;
    element.classList.toggle("roomy", room.has(node.id));
  }
  drawn.texts = new Map([...texts].map(([id, text]) => [id, short(text)]));
  drawn.groups.replaceChildren(...groupsOf(circuit, index, plan));
}

/** A frame around the nodes of a group in each row. */
function groupsOf(circuit, index, plan) {
  const frames = new Map(); // group and row -> places
  for (const node of circuit.nodes) {
    const group = nameOf(index, node, "group"), place = plan.places.get(node.id);
    if (group) frames.set(`${place.y} ${group}`, [...(frames.get(`${place.y} ${group}`) ?? []), place]);
  }
  return [...frames].map(([key, places]) => {
    const xs = places.map((place) => place.x), left = Math.min(...xs) - 11;
    return svg("rect", { class: "frame", x: left, y: places[0].y - 12, width: Math.max(...xs) + 11 - left, height: 24, rx: 11 }, svg("title", {}, harmless(key.slice(key.indexOf(" ") + 1))));
  });
}

function endsOf(circuit, plan) {
  return [...plan.places].filter(([, place]) => place.node?.pseudo).map(([id, place]) => {
    const text = harmless(visible(circuit.tokens[String(place.node.index)] ?? ""));
    const element = svg("text", { class: "end", x: place.x, y: place.y + (id.startsWith("token:") ? 14 : -4), "text-anchor": "middle", direction: "ltr" }, svg("title", {}, `${id} ${text}`), text.length > 9 ? `${text.slice(0, 8)}…` : text);
    element.dataset.id = id;
    return element;
  });
}

/** node -> what it goes on to: along edges, along its channel, and from queries and keys to what their head moves. */
function onwardOf(circuit) {
  const found = new Map(), back = new Map();
  const add = (from, to, edge) => {
    for (const [map, a, b] of [[found, from, to], [back, to, from]]) {
      if (!map.has(a)) map.set(a, []);
      map.get(a).push([b, edge]);
    }
  };
  for (const { source, target } of circuit.links) add(source, target, true);
  const residual = circuit.nodes.filter((node) => kindOf(node.site).residual), places = new Map(circuit.stages.map((stage, i) => [stage.name, i]));
  for (const write of residual.filter((node) => node.site.endsWith("resid_delta"))) {
    for (const read of residual) if (read.index === write.index && !read.site.endsWith("resid_delta") && places.get(read.site) > places.get(write.site)) add(write.id, read.id, false);
  }
  for (const value of circuit.nodes.filter((node) => pathOf(node.site) === "attn.v")) {
    for (const node of circuit.nodes) if (node.head === value.head && node.site.split(".")[0] === value.site.split(".")[0] && ["attn.q", "attn.k"].includes(pathOf(node.site))) add(node.id, value.id, false);
  }
  return { found, back };
}

/** Every path through a node, or none. */
function light(drawn, id) {
  drawn.onward ??= onwardOf(drawn.circuit);
  const sides = (id ? [drawn.onward.found, drawn.onward.back] : []).map((map) => { // what it goes on to, and what comes to it; itself in both
    const left = [id], seen = new Set(left);
    while (left.length) {
      for (const [next] of map.get(left.pop()) ?? []) if (!seen.has(next)) { seen.add(next); left.push(next); }
    }
    return seen;
  });
  drawn.root.classList.toggle("lighting", sides.length > 0);
  for (const [node, element] of drawn.nodes) element.classList.toggle("lit", sides.some((side) => side.has(node)));
  for (const { link, element } of drawn.edges) element.classList.toggle("lit", sides.some((side) => side.has(link.source) && side.has(link.target)));
}

/** Classes by the state: selection and its neighbours, search, threshold, what was changed. */
function refreshGraph(drawn, found, shared) {
  const { circuit, index, nodes, edges, root } = drawn;
  const selected = nodes.has(state.node) && (index === state.circuit || sameModel(index, state.circuit)) ? state.node : "";
  const near = new Set(), changes = changesIn(index);
  for (const { link, element } of edges) {
    const on = selected !== "" && (link.source === selected || link.target === selected);
    if (on) near.add(link.source).add(link.target);
    element.classList.toggle("on", on);
    element.classList.toggle("hidden", Math.abs(link.weight) < state.threshold);
    element.classList.toggle("cut", edgeKey(link.source, link.target) in changes);
  }
  const named = withRoom(circuit.nodes.filter((node) => near.has(node.id)), drawn.plan, drawn.texts, false); // their labels do not lie on each other; the others are dimmed
  root.classList.toggle("chosen", selected !== "");
  root.classList.toggle("searching", state.search !== "");
  for (const node of circuit.nodes) {
    const classes = nodes.get(node.id).classList;
    classes.toggle("selected", node.id === selected);
    classes.toggle("near", near.has(node.id));
    classes.toggle("named", named.has(node.id));
    classes.toggle("found", found.has(node.id));
    classes.toggle("shared", shared.has(node.id));
    classes.toggle("off", changes[node.id] === "off");
    classes.toggle("held", node.id in changes && changes[node.id] !== "off");
  }
}

function onKey(event, index, plan) {
  const order = plan.rows.map((row) => [...row.nodes].sort((a, b) => plan.places.get(a.id).x - plan.places.get(b.id).x)).filter((row) => row.length);
  const own = index === state.circuit || sameModel(index, state.circuit) ? state.node : "";
  const at = order.findIndex((row) => row.some((node) => node.id === own));
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };
  if (event.key === "Escape") update({ node: "" });
  if (event.key === "x" && own && index === state.circuit) switchNode(own);
  if (!moves[event.key] || !order.length) return;
  event.preventDefault();
  if (at < 0) return chooseNode(index, order[0][0].id);
  const [forward, right] = moves[event.key];
  const row = order[Math.min(order.length - 1, Math.max(0, at + forward))];
  const here = order[at].findIndex((node) => node.id === state.node);
  const x = plan.places.get(state.node).x;
  const nearest = () => row.reduce((best, node) => (Math.abs(plan.places.get(node.id).x - x) < Math.abs(plan.places.get(best.id).x - x) ? node : best));
  chooseNode(index, (forward ? nearest() : row[Math.min(row.length - 1, Math.max(0, here + right))]).id);
}
