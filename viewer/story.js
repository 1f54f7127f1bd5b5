/** The circuit told step by step, in forward order: what each node reads, times what, and where that goes; each name a node, with its value on the prompt. */
const TERMS = 6, STEPS = 40; // of a line; lines that are shown at first
let allLines = false;

function showStory() {
  const circuit = current(), lines = storyLines(circuit), strong = importantLines(lines);
  const left = lines.length - strong.length, shownLines = allLines ? lines : strong;
  const stages = [...new Set(shownLines.map((line) => line.stage))];
  fill("story",
    html("h2", {}, "Step by step"),
    html("p", { class: "soft" }, `What each node adds up, in the order in which the network computes${said() ? "; in brackets its value at the last token of the prompt above" : ""}.`),
    html("div", { class: "steps" }, stages.map((stage) => [html("h3", {}, stage), ...shownLines.filter((line) => line.stage === stage).map((line) => storyLine(circuit, line))])),
    circuit.program ? html("details", { id: "program" }, html("summary", {}, `A simpler program: ${circuit.simpler}`), html("pre", { class: "code" }, circuit.program)) : null,
    left > 0 ? html("p", {}, html("button", { id: "story-all", onclick: () => { allLines = !allLines; showStory(); } }, allLines ? "fewer" : `${left} more lines, of nodes that matter less`)) : null);
}

/** The lines of the nodes that matter most, and answers. */
function importantLines(lines) {
  const ranked = [...lines].sort((a, b) => b.effect - a.effect).slice(0, STEPS);
  return lines.filter((line) => ranked.includes(line));
}

function storyLines(circuit) {
  const into = new Map();
  for (const link of circuit.links) {
    if (!into.has(link.target)) into.set(link.target, []);
    into.get(link.target).push(link);
  }
  const lines = circuit.nodes.map((node) => ({ node, id: node.id, effect: node.effect ?? 0, stage: stageOf(node), terms: into.get(node.id) ?? [] }));
  const answers = [...into].filter(([id]) => id.startsWith("answer:")).map(([id, terms]) => ({ node: null, id, effect: Infinity, stage: "answers", terms }));
  return [...lines.filter((line) => line.terms.length || line.node.embedding.length), ...answers];
}

function stageOf(node) {
  const [layer] = node.site.split("."), title = kindOf(node.site).title ?? node.site;
  if (node.head !== null) return `layer ${layer}, head ${node.head}`;
  return /^\d+$/.test(layer) ? `layer ${layer}, ${title}` : title;
}

function storyLine(circuit, { node, id, terms }) {
  const sorted = [...terms].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)), rest = sorted.length - TERMS;
  const told = sorted.slice(0, TERMS).flatMap(({ source, weight }, i) => [`${weight < 0 ? " − " : i ? " + " : " "}${shown(Math.abs(weight))} · `, nameButton(circuit, source)]);
  const does = node === null ? " = " : { "attn.q": " asks ", "attn.k": " is found by ", "attn.v": " hands on " }[pathOf(node.site)] ?? (kindOf(node.site).residual && node.site.endsWith("resid_delta") ? " adds " : pathOf(node.site) === "mlp.post_act" ? " fires on " : " reads ");
  const value = said()?.now.activations[id]?.at(-1);
  const read = node && !terms.some((link) => link.kind === "weight") && kindOf(node.site).residual && !node.site.endsWith("resid_delta");
  const from = read && written(circuit, node) ? [told.length ? ", and " : "", "what was written there"] : [];
  return html("p", { class: `step ${id === state.node ? "selected" : ""}` }, nameButton(circuit, id), value === undefined ? null : html("span", { class: "value" }, ` (${shown(value)})`), does, ...told, ...(rest > 0 ? [` and ${rest} more`] : []), ...from);
}

const written = (circuit, node) => writtenBefore(circuit).has(`${node.site.split(".")[0]}.${pathOf(node.site)}:${node.index}`);

/** A node by its short name: channel, query, key, value, neuron; a token or an answer by its text. */
function nameButton(circuit, id) {
  if (/^(token|answer):/.test(id)) return html("span", { class: "code", dir: "auto" }, visible(circuit.tokens[id.split(":")[1]] ?? id));
  const node = nodeOf(circuit, id);
  if (!node) return html("span", { class: "soft" }, id);
  const label = nameOf(state.circuit, node, "label"), kind = KINDS[pathOf(node.site)] ?? "channel";
  const button = html("button", { class: "link", dir: "auto", title: id, onclick: () => update({ node: id }) }, label ? harmless(label) : `${kind} ${node.index}`);
  return button;
}
