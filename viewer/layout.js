/**
 * Where everything stands. A row for each stage, in forward order (q, k and v share one, grouped by head); residual nodes stand in the lane of their
 * channel, which runs through the layers; inner nodes, tokens and answers near what they are linked to.
 */
const LEFT = 120, TOP = 34, ROW = 62, INNER = 18;

function layOut(circuit) {
  const residual = (node) => kindOf(node.site).residual;
  const channels = [...new Set(circuit.nodes.filter(residual).map((node) => node.index))].sort((a, b) => a - b);
  const step = Math.min(44, Math.max(16, 900 / Math.max(1, channels.length)));
  const lane = new Map(channels.map((channel, i) => [channel, LEFT + i * step]));
  const places = new Map(); // id -> {x, y}
  const rows = rowsOf(circuit);
  rows.forEach((row, i) => { row.y = TOP + i * ROW; });
  for (const row of rows) {
    for (const node of row.nodes.filter(residual)) places.set(node.id, { x: lane.get(node.index), y: row.y, row });
  }
  const linked = neighbours(circuit);
  const boxes = [];
  for (const row of rows) {
    const groups = row.groups ?? row.nodes.filter((node) => !residual(node)).map((node) => ({ nodes: [node], width: INNER }));
    placeRow(row, groups, linked, places, boxes);
  }
  const width = Math.max(...[...places.values()].map((place) => place.x), LEFT) + 90;
  return { rows, lanes: lanesOf(channels, lane, circuit, places), places, boxes, width, height: TOP + rows.length * ROW };
}

/** Rows that have something in them. */
function rowsOf(circuit) {
  const ends = (kind) => [...new Set(circuit.links.filter((link) => link.kind === kind).map((link) => (kind === "embedding" ? link.source : link.target)))];
  const rows = [];
  const at = (name, title) => rows.find((row) => row.name === name) ?? rows[rows.push({ name, title, nodes: [] }) - 1];
  const pseudo = (id) => ({ id, site: id.split(":")[0], index: Number(id.split(":")[1]), pseudo: true });
  at("tokens", "tokens").groups = ends("embedding").map((id) => ({ nodes: [pseudo(id)], width: 58 }));
  for (const stage of circuit.stages) {
    const found = circuit.nodes.filter((node) => node.site === stage.name);
    if (!found.length) continue;
    const isHead = kindOf(stage.name).heads;
    const row = isHead ? at(`${stage.layer}.heads`, `${stage.layer}  heads`) : at(stage.name, `${stage.layer ?? ""}  ${kindOf(stage.name).title ?? stage.kind}`.trim());
    row.nodes.push(...found);
  }
  at("answers", "answers").groups = ends("unembedding").map((id) => ({ nodes: [pseudo(id)], width: 58 }));
  for (const row of rows.filter((each) => each.name.endsWith(".heads"))) row.groups = byHead(row.nodes);
  return rows.filter((row) => row.nodes.length || row.groups?.length);
}

function byHead(nodes) {
  const heads = [...new Set(nodes.map((node) => node.head))].sort((a, b) => a - b);
  return heads.map((head) => {
    const own = nodes.filter((node) => node.head === head);
    return { head, nodes: own, width: INNER * own.length + 24 };
  });
}

function neighbours(circuit) {
  const found = new Map();
  for (const { source, target } of circuit.links) {
    for (const [a, b] of [[source, target], [target, source]]) found.set(a, [...(found.get(a) ?? []), b]);
  }
  return found;
}

/** Groups side by side, each as near to the middle of what it is linked to as the others let it. */
function placeRow(row, groups, linked, places, boxes) {
  const wish = (group) => {
    const xs = group.nodes.flatMap((node) => linked.get(node.id) ?? []).map((id) => places.get(id)?.x).filter((x) => x !== undefined);
    return xs.length ? xs.reduce((sum, x) => sum + x, 0) / xs.length : LEFT;
  };
  const wished = groups.map((group) => ({ group, x: wish(group) })).sort((a, b) => a.x - b.x);
  let end = -Infinity;
  for (const each of wished) {
    each.start = Math.max(each.x - each.group.width / 2, end);
    end = each.start + each.group.width;
  }
  const excess = wished.reduce((sum, each) => sum + each.start + each.group.width / 2 - each.x, 0) / Math.max(1, wished.length);
  const shift = wished.length ? Math.max(-excess, LEFT - 14 - wished[0].start) : 0;
  for (const { group, start: begin } of wished) {
    const inner = group.head === undefined ? group.width / 2 : 12 + INNER / 2;
    group.nodes.forEach((node, i) => places.set(node.id, { x: begin + shift + inner + i * INNER, y: row.y, row, node }));
    if (group.head !== undefined) boxes.push({ head: group.head, x: begin + shift + 4, y: row.y - 16, width: group.width - 8, height: 32 });
  }
}

/** Each channel from the first to the last row where the circuit has a node of it; from the top if tokens write to it. */
function lanesOf(channels, lane, circuit, places) {
  return channels.map((channel) => {
    const own = circuit.nodes.filter((node) => places.get(node.id)?.x === lane.get(channel) && node.index === channel);
    const ys = own.map((node) => places.get(node.id).y);
    return { channel, x: lane.get(channel), top: Math.min(...ys), bottom: Math.max(...ys) };
  });
}
