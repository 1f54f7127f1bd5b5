/**
 * The prompt's own graph: nodes by position, and what flows along each edge there: weight times how far the source is from its mean; along attention, times
 * the share that the later token gives; a token's embedding, as it is, to every read of its channel. From the two answers that are compared back, each
 * node hands its part on to what flows into it, by size; drawn is what has the largest part. (Queries and keys decide the shares of attention; they have no flow of their own.)
 */
const FLOWS = 120; // that are drawn
const viewed = () => (runsHere(state.circuit) ? state.view : "circuit");

function showFlow() {
  const shows = viewed() === "prompt", panel = byId("flow"), hidden = byId("graphs").hidden;
  byId("graphs").hidden = shows;
  panel.hidden = !shows;
  if (!shows) {
    if (hidden) drawGraphs(); // nothing has a size while it is hidden
    return fill("flow");
  }
  const { error } = results.get(state.circuit) ?? {}, known = said();
  if (!known) return fill("flow", html("p", { class: error === undefined ? "soft" : "minus" }, error ?? "The prompt is being run."));
  const { now } = known, flows = influences(flowsOf(current(), known), current(), now), kept = flows.slice(0, FLOWS), total = flows.reduce((sum, each) => sum + each.part, 0);
  const share = total ? kept.reduce((sum, each) => sum + each.part, 0) / total : 0;
  fill("flow",
    html("p", { class: "soft" }, `The ${kept.length} largest of ${flows.length} flows to ${comparedIn(known).map((each) => `‘${visible(each.text)}’`).join(" and ")} on this prompt, ${shown(100 * share)} % of all: the wider, the larger its part; blue raises what it goes to.`),
    drawFlow(current(), now, kept));
  const pane = panel.querySelector(".pane");
  pane.scrollLeft = pane.scrollWidth; // to the answers, at the last token
}

/** [{source, from, target, to, flow}], positions from and to; only what differs from the mean counts, since that is what the circuit moves. */
function flowsOf(circuit, known) {
  const { now } = known, found = [], last = now.tokens.length - 1, nodes = new Map(circuit.nodes.map((node) => [node.id, node])), stage = new Map(circuit.stages.map(({ name }, i) => [name, i]));
  const off = (id, t) => now.activations[id][t] - (nodes.get(id).mean ?? 0), add = (source, from, target, to, flow) => { if (flow) found.push({ source, from, target, to, flow }); };
  const compared = new Set(comparedIn(known).map(({ id }) => `answer:${id}`));
  for (const { source, target, weight, kind } of circuit.links) {
    if (kind === "embedding") continue; // of some tokens, below of all
    if (kind === "unembedding") {
      if (compared.has(target)) add(source, last, target, last, weight * off(source, last));
    }
    else if (pathOf(nodes.get(source).site) === "attn.v") {
      const shares = now.attention[`${source.split(".")[0]}.${nodes.get(source).head}`];
      for (let to = 0; to <= last; to++) for (let from = 0; from <= to; from++) add(source, from, target, to, weight * shares[to][from] * off(source, from));
    } else for (let t = 0; t <= last; t++) add(source, t, target, t, weight * off(source, t));
  }
  const residual = circuit.nodes.filter((node) => kindOf(node.site).residual), writes = residual.filter((node) => node.site.endsWith("resid_delta"));
  for (const read of residual.filter(readsResidual)) {
    now.embedded[read.index].forEach((value, t) => add(`token:${now.ids[t]}`, t, read.id, t, value));
    for (const write of writes) if (write.index === read.index && stage.get(write.site) < stage.get(read.site)) for (let t = 0; t <= last; t++) add(write.id, t, read.id, t, off(write.id, t));
  }
  return found;
}

/** A token or an answer by its text, a node by its id. */
function flowName(circuit, now, id) {
  const [kind, own] = id.split(":"), at = now.ids.indexOf(Number(own));
  return kind === "token" || kind === "answer" ? `‘${visible(kind === "token" && at >= 0 ? now.tokens[at] : circuit.tokens[own] ?? id)}’` : id;
}

/** What leads to a dot, and where it leads, on this prompt. */
function lightFlow(root, flows, lines, key) {
  const ends = flows.map(({ source, from, target, to }) => [`${source} ${from}`, `${target} ${to}`]), lit = new Set();
  for (const [here, there] of key ? [[0, 1], [1, 0]] : []) {
    const left = [key], seen = new Set(left);
    while (left.length) {
      const now = left.pop();
      ends.forEach((pair, i) => {
        if (pair[here] !== now) return;
        lit.add(i);
        if (!seen.has(pair[there])) { seen.add(pair[there]); left.push(pair[there]); }
      });
    }
  }
  root.classList.toggle("lighting", Boolean(key));
  const dots = new Set([key, ...[...lit].flatMap((i) => ends[i])]);
  flows.forEach((_, i) => lines.at(-1 - i).classList.toggle("lit", lit.has(i))); // drawn in reverse
  for (const dot of root.querySelectorAll(".node")) dot.classList.toggle("lit", dots.has(dot.dataset.key));
}

const nodesIn = (row) => [...row.nodes, ...(row.groups ?? []).flatMap((group) => group.nodes)];
const rowByNode = (rows) => new Map(rows.flatMap((row, i) => nodesIn(row).map((node) => [node.id, i])));

/** The graph's rows, with the prompt's own tokens. */
function flowRows(circuit, now) {
  const tokens = [...new Set(now.ids)].map((id) => ({ nodes: [{ id: `token:${id}` }] }));
  return [{ name: "tokens", title: "tokens", layer: null, nodes: [], groups: tokens }, ...rowsOf(circuit).filter((row) => row.name !== "tokens")];
}

/** The flows with their part in the answers, the largest first: rows from the top, since all flows go up. */
function influences(flows, circuit, now) {
  const rowOf = rowByNode(flowRows(circuit, now));
  const into = new Map(), part = new Map();
  for (const each of flows) {
    const key = `${each.target} ${each.to}`;
    if (!into.has(key)) into.set(key, []);
    into.get(key).push(each);
    if (each.target.startsWith("answer:")) part.set(key, 1);
  }
  const keys = [...into.keys()].sort((a, b) => rowOf.get(b.slice(0, b.lastIndexOf(" "))) - rowOf.get(a.slice(0, a.lastIndexOf(" "))));
  for (const key of keys) {
    const own = part.get(key) ?? 0, total = into.get(key).reduce((sum, each) => sum + Math.abs(each.flow), 0);
    for (const each of into.get(key)) {
      each.part = own * Math.abs(each.flow) / total;
      const source = `${each.source} ${each.from}`;
      part.set(source, (part.get(source) ?? 0) + each.part);
    }
  }
  return flows.filter((each) => each.part > 0).sort((a, b) => b.part - a.part);
}

function drawFlow(circuit, now, flows) {
  const drawn = new Set(flows.flatMap(({ source, target }) => [source, target]));
  const has = (row) => nodesIn(row).some((node) => drawn.has(node.id));
  const rows = flowRows(circuit, now).filter(has), column = Math.max(40, (byId("flow").clientWidth - LEFT - 40) / now.tokens.length);
  const high = Math.min(100, Math.max(46, (byId("flow").clientHeight - 90) / Math.max(1, rows.length))), height = rows.length * high + 30;
  const rowOf = rowByNode(rows);
  const last = now.tokens.length - 1, y = (id) => 20 + (rows.length - 1 - rowOf.get(id)) * high;
  const seen = new Map(); // "id t" -> flow through it
  for (const { source, from, target, to, flow } of flows) for (const key of [`${source} ${from}`, `${target} ${to}`]) seen.set(key, (seen.get(key) ?? 0) + Math.abs(flow));
  const cells = new Map(); // row and position -> ids
  for (const key of seen.keys()) {
    const at = key.lastIndexOf(" "), cell = `${rowOf.get(key.slice(0, at))} ${key.slice(at + 1)}`;
    cells.set(cell, [...(cells.get(cell) ?? []), key.slice(0, at)]);
  }
  const places = new Map();
  for (const [cell, ids] of cells) {
    const t = Number(cell.split(" ")[1]);
    ids.sort().forEach((id, i) => places.set(`${id} ${t}`, { x: LEFT + t * column + (column * (i + 1)) / (ids.length + 1), y: y(id) + (ids.length > 4 ? (i % 3) * 9 - 9 : 0) }));
  }
  const most = strongest(flows.map((each) => each.part)) || 1, width = LEFT + column * now.tokens.length + 20;
  const lines = [...flows].reverse().map(({ source, from, target, to, flow, part }) => {
    const a = places.get(`${source} ${from}`), b = places.get(`${target} ${to}`), middle = (a.y + b.y) / 2;
    return svg("path", { class: `edge ${flow < 0 ? "negative" : "positive"}`, d: `M${a.x} ${a.y}C${a.x} ${middle} ${b.x} ${middle} ${b.x} ${b.y}`, "stroke-width": (0.5 + 5 * Math.sqrt(part / most)).toFixed(2) }, svg("title", {}, harmless(`${flowName(circuit, now, source)} at token ${from + 1} → ${flowName(circuit, now, target)} at token ${to + 1}: ${shown(flow)}`)));
  });
  const ids = [...places.keys()];
  const dots = [...places].map(([key, { x, y: at }]) => {
    const id = key.slice(0, key.lastIndexOf(" ")), t = Number(key.slice(key.lastIndexOf(" ") + 1)), node = nodeOf(circuit, id);
    const name = node ? `${spoken(state.circuit, node)} ${id} at token ${t + 1}: ${shown(now.activations[id][t])}` : flowName(circuit, now, id);
    const onkeydown = (event) => { if (event.key === "Enter") update({ node: id }); if (event.key === "x") switchNode(id); };
    const dot = svg("g", { class: `node ${id === state.node ? "selected" : ""} ${changesIn(state.circuit)[id] === "off" ? "off" : ""}`, transform: `translate(${x} ${at})`, ...(node ? { tabindex: 0, role: "button", "aria-label": harmless(name), onclick: () => update({ node: id }), onkeydown } : {}) }, svg("circle", { class: "ring", r: 5 }), node && ids.length < 60 ? svg("text", { class: "label", x: 8, y: 4 }, spoken(state.circuit, node).slice(0, 14)) : null, svg("title", {}, harmless(name)));
    dot.dataset.id = id;
    dot.dataset.key = key;
    return dot;
  });
  const words = now.tokens.map((text, t) => svg("text", { class: "end", x: LEFT + (t + 0.5) * column, y: height + 2, "text-anchor": "middle" }, harmless(visible(text)).slice(0, Math.max(3, Math.floor(column / 7)))));
  const answers = [...places].filter(([key]) => key.startsWith("answer:")).map(([key, { x, y: at }]) => svg("text", { class: "end", x, y: at - 8, "text-anchor": "middle" }, harmless(visible(circuit.tokens[key.slice(7, key.lastIndexOf(" "))] ?? ""))));
  const stripes = now.tokens.map((_, t) => svg("rect", { class: t % 2 ? "" : "band", fill: "none", x: LEFT + t * column, y: 0, width: column, height: height + 8 }));
  const wider = width > byId("flow").clientWidth; // the rows' names stand at both ends, since one of them is out of sight
  const titled = (x, anchor) => rows.map((row, i) => svg("text", { class: "row", x, y: 24 + (rows.length - 1 - i) * high, "text-anchor": anchor }, row.layer === null || row.layer === undefined ? row.title : `${row.layer} ${row.title}`));
  const titles = [...titled(LEFT - 12, "end"), ...(wider ? titled(width - 8, "start") : [])], whole = width + (wider ? LEFT : 0);
  const root = svg("svg", { class: "flow", width: whole, height: height + 14, viewBox: `0 0 ${whole} ${height + 14}`, role: "img", "aria-label": `The circuit on this prompt of ${last + 1} tokens` }, stripes, titles, lines, dots, words, answers);
  root.addEventListener("pointerover", (event) => lightFlow(root, flows, lines, event.target.closest(".node")?.dataset.key));
  root.addEventListener("pointerleave", () => lightFlow(root, flows, lines, null));
  return html("div", { class: "pane" }, root);
}
