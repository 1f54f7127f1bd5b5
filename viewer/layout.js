/**
 * Where everything stands, as the network is: tokens at the bottom, answers at the top, a row for each stage (q, k and v share one, grouped by head). Nodes
 * of the residual stream stand in the lane of their channel, which runs through the layers; the others near what they are linked to. Tokens and answers
 * stand by weight, the heaviest first.
 */
const LEFT = 128, RIGHT = 60, TOP = 30, LABEL = 6.1; // LABEL: of a letter

function layOut(circuit, space) {
  const residual = (node) => kindOf(node.site).residual;
  const rows = rowsOf(circuit), linked = neighbours(circuit), places = new Map(), boxes = []; // places: id -> {x, y, row}
  const high = Math.min(112, Math.max(44, (space.height - TOP - 20) / Math.max(1, rows.length)));
  for (const row of rows) row.inner = Math.min(20, Math.max(11, (space.width - LEFT - RIGHT) / Math.max(1, row.nodes.length + 2 * (row.groups?.length ?? 0))));
  rows.forEach((row, i) => { row.y = TOP + (rows.length - 1 - i) * high + 14; });
  const channels = [...new Set(circuit.nodes.filter(residual).map((node) => node.index))].sort((a, b) => a - b);
  const step = Math.max(15, (space.width - LEFT - RIGHT) / Math.max(1, channels.length));
  let order = channels;
  for (let round = 0; round < 4; round++) { // lanes by where what they are linked to stands, and that by its lanes
    const lane = new Map(order.map((channel, i) => [channel, LEFT + (i + 0.5) * step]));
    places.clear();
    boxes.length = 0;
    for (const row of rows) for (const node of row.nodes.filter(residual)) places.set(node.id, { x: lane.get(node.index), y: row.y, row, node });
    for (const row of rows) {
      const groups = row.groups ?? row.nodes.filter((node) => !residual(node)).map((node) => ({ nodes: [node], width: row.inner + 6 }));
      placeRow(row, groups, linked, places, boxes, space.width);
    }
    if (round < 3) order = pulled(order, lane, circuit, linked, places);
  }
  const width = Math.max(space.width, ...[...places.values()].map((place) => place.x + RIGHT));
  const lane = new Map(order.map((channel, i) => [channel, LEFT + (i + 0.5) * step]));
  return { rows, lanes: lanesOf(channels, lane, circuit, places), places, boxes, bands: bandsOf(rows, high), width, height: TOP + rows.length * high + 20 };
}

/** Channels in the order of the mean place of what their nodes are linked to. */
function pulled(order, lane, circuit, linked, places) {
  const xs = new Map(order.map((channel) => [channel, [lane.get(channel)]]));
  for (const node of circuit.nodes) {
    if (!kindOf(node.site).residual) continue;
    for (const id of linked.get(node.id) ?? []) if (places.has(id)) xs.get(node.index).push(places.get(id).x);
  }
  const mean = (channel) => xs.get(channel).reduce((sum, x) => sum + x, 0) / xs.get(channel).length;
  return [...order].sort((a, b) => mean(a) - mean(b));
}

/** Rows that have something in them, in forward order. */
function rowsOf(circuit) {
  const ends = (kind) => {
    const weight = new Map();
    for (const link of circuit.links) {
      if (link.kind !== kind) continue;
      const id = kind === "embedding" ? link.source : link.target;
      weight.set(id, (weight.get(id) ?? 0) + Math.abs(link.weight));
    }
    return [...weight.keys()].sort((a, b) => weight.get(b) - weight.get(a));
  };
  const rows = [];
  const at = (name, title, layer) => rows.find((row) => row.name === name) ?? rows[rows.push({ name, title, layer, nodes: [] }) - 1];
  const pseudo = (id) => ({ id, site: id.split(":")[0], index: Number(id.split(":")[1]), pseudo: true });
  at("tokens", "tokens", null).groups = ends("embedding").map((id) => ({ nodes: [pseudo(id)], width: 64 }));
  for (const stage of circuit.stages) {
    const found = circuit.nodes.filter((node) => node.site === stage.name);
    if (!found.length) continue;
    const isHead = kindOf(stage.name).heads;
    const row = isHead ? at(`${stage.layer}.heads`, "heads", stage.layer) : at(stage.name, kindOf(stage.name).title ?? stage.kind, stage.layer);
    row.nodes.push(...found);
  }
  at("answers", "answers", null).groups = ends("unembedding").map((id) => ({ nodes: [pseudo(id)], width: 64 }));
  for (const row of rows.filter((each) => each.name.endsWith(".heads"))) row.groups = byHead(row.nodes);
  return rows.filter((row) => row.nodes.length || row.groups?.length);
}

function byHead(nodes) {
  const heads = [...new Set(nodes.map((node) => node.head))].sort((a, b) => a - b);
  return heads.map((head) => {
    const own = nodes.filter((node) => node.head === head);
    return { head, nodes: own, width: null };
  });
}

function neighbours(circuit) {
  const found = new Map();
  for (const { source, target } of circuit.links) {
    for (const [a, b] of [[source, target], [target, source]]) {
      if (!found.has(a)) found.set(a, []);
      found.get(a).push(b);
    }
  }
  return found;
}

/** Groups side by side, each as near to the middle of what it is linked to as the others let it; tokens and answers evenly. */
function placeRow(row, groups, linked, places, boxes, width) {
  const wish = (group) => {
    const xs = group.nodes.flatMap((node) => linked.get(node.id) ?? []).map((id) => places.get(id)?.x).filter((x) => x !== undefined);
    return xs.length ? xs.reduce((sum, x) => sum + x, 0) / xs.length : LEFT;
  };
  for (const group of groups) group.width = group.head === undefined ? group.width : row.inner * group.nodes.length + 24;
  const room = width - LEFT - RIGHT, even = row.layer === null && groups.length && groups[0].nodes[0].pseudo;
  const each = Math.max(64, Math.min(150, room / Math.max(1, groups.length)));
  const wished = even ? groups.map((group, i) => ({ group, x: LEFT + (i + 0.5) * each })) : groups.map((group) => ({ group, x: wish(group) })).sort((a, b) => a.x - b.x);
  let end = -Infinity;
  for (const one of wished) {
    one.start = Math.max(one.x - one.group.width / 2, end);
    end = one.start + one.group.width;
  }
  const excess = wished.reduce((sum, one) => sum + one.start + one.group.width / 2 - one.x, 0) / Math.max(1, wished.length);
  const shift = wished.length ? Math.max(-excess, LEFT - 14 - wished[0].start) : 0;
  for (const { group, start: begin } of wished) {
    const inner = group.head === undefined ? group.width / 2 : 12 + row.inner / 2;
    group.nodes.forEach((node, i) => places.set(node.id, { x: begin + shift + inner + i * row.inner, y: row.y, row, node }));
    if (group.head !== undefined) boxes.push({ head: group.head, x: begin + shift + 4, y: row.y - 16, width: group.width - 8, height: 32 });
  }
}

/** Each channel from the first to the last row where the circuit has a node of it. */
function lanesOf(channels, lane, circuit, places) {
  return channels.map((channel) => {
    const own = circuit.nodes.filter((node) => kindOf(node.site).residual && node.index === channel);
    const ys = own.map((node) => places.get(node.id).y);
    return { channel, x: lane.get(channel), top: Math.min(...ys), bottom: Math.max(...ys) };
  });
}

/** Layers, from their first row to their last. */
function bandsOf(rows, high) {
  const layers = [...new Set(rows.map((row) => row.layer).filter((layer) => layer !== null && layer !== undefined))];
  return layers.map((layer) => {
    const ys = rows.filter((row) => row.layer === layer).map((row) => row.y);
    return { layer, y: Math.min(...ys) - high / 2 + 3, height: Math.max(...ys) - Math.min(...ys) + high - 6 };
  });
}

/** Which nodes' texts have room: the more a node matters, the sooner it is asked. texts: id -> text. */
function withRoom(nodes, plan, texts, apart = true) {
  const taken = new Map(), chosen = new Set(); // y -> spans
  for (const place of plan.places.values()) {
    if (!taken.has(place.y)) taken.set(place.y, []);
    if (apart) taken.get(place.y).push([place.x - 7, place.x + 7]);
  }
  for (const node of [...nodes].sort((a, b) => (b.effect ?? 0) - (a.effect ?? 0))) {
    const { x, y } = plan.places.get(node.id), text = texts.get(node.id), span = [x + 9, x + 13 + LABEL * text.length];
    if (!text || taken.get(y).some(([from, to]) => from < span[1] && span[0] < to)) continue;
    taken.get(y).push(span);
    chosen.add(node.id);
  }
  return chosen;
}
