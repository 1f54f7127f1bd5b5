/** The pattern of the selected node's head on the first prompts: in the whole model, and in the circuit. */
function showAttention() {
  const circuit = current(), node = nodeOf(circuit, state.node);
  const layer = node && Number(node.site.split(".")[0]);
  const found = node && node.head !== null ? circuit.attention.filter((each) => each.layer === layer && each.head === node.head) : [];
  if (!found.length) return fill("attention");
  const title = html("h2", {}, `Attention of head ${node.head} in layer ${layer}`), pair = chosenPair(circuit);
  const chosen = found.find((each) => each.prompt === 2 * pair), other = found.find((each) => each.prompt === 2 * pair + 1);
  if (!chosen) return fill("attention", title, html("p", { class: "soft" }, `This page has attention for the first ${found.length / 2} of the pairs only.`));
  fill("attention", title, ...[chosen, other].filter(Boolean).map((each) => html("div", {}, html("h3", {}, `${each === chosen ? "first" : "second"} prompt of pair ${pair + 1}: whole model, then circuit; rows look at columns`), pattern(circuit, each, "model"), " ", pattern(circuit, each, "circuit"))));
}

/** Rows are the tokens that look, columns those looked at; shares in percent. */
function pattern(circuit, each, run) {
  const rows = each[run], size = Math.max(3, Math.min(12, 180 / rows.length));
  const text = (i) => visible(circuit.tokens[String(circuit.prompts[each.prompt].tokens[i])] ?? "");
  const cells = rows.flatMap((row, i) => row.map((share, j) => {
    if (!share) return null;
    const cell = svg("rect", { x: j * size, y: i * size, width: size, height: size, fill: "var(--plus)", opacity: share / 100 }, svg("title", {}, `${text(i)} looks at ${text(j)}: ${share} %`));
    return cell;
  }));
  const side = rows.length * size;
  return svg("svg", { class: `pattern ${run}`, width: side + 1, height: side + 1, role: "img", "aria-label": `attention in the ${run}` }, svg("rect", { class: "box", width: side, height: side }), cells);
}
