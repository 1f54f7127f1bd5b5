/** Where in the corpus the selected node is largest and smallest: token heat maps, the value on hover. */
function showContexts() {
  const circuit = current(), node = nodeOf(circuit, state.node);
  if (!node || (!node.largest.length && !node.smallest.length)) return fill("contexts");
  const most = strongest([...node.largest, ...node.smallest].flatMap((context) => context.values));
  const list = (title, contexts) => [html("h3", {}, title), ...contexts.map((context) => heatMap(circuit, context, most))];
  fill("contexts", html("h2", {}, "In the corpus"), ...list("Largest activations", node.largest), ...list("Smallest activations", node.smallest));
}

function heatMap(circuit, context, most) {
  const tokens = context.tokens.map((id, i) => token(circuit, id, context.values[i], most, i === context.at ? "meant" : ""));
  return html("p", { class: "code context" }, html("span", { class: "soft" }, `${shown(context.values[context.at])}  `), ...tokens);
}
