/** What a node is called where nobody has named it: what it reads or writes, or where it is largest. */
const KINDS = { "attn.q": "query", "attn.k": "key", "attn.v": "value", "mlp.post_act": "neuron" };

function spoken(index, node) {
  return harmless(nameOf(index, node, "label") || ownWords(page.circuits[index], node));
}

function ownWords(circuit, node) {
  const text = (id) => `‘${visible(circuit.tokens[String(id)] ?? `#${id}`)}’`;
  const most = (weights) => weights.reduce((best, each) => (Math.abs(each.weight) > Math.abs(best.weight) ? each : best));
  if (node.unembedding.length) {
    const { token: id, weight } = most(node.unembedding);
    return `${weight > 0 ? "pushes" : "holds back"} ${text(id)}`;
  }
  if (node.embedding.length && !writtenBefore(circuit).has(`${node.site.split(".")[0]}.${pathOf(node.site)}:${node.index}`)) return `reads ${text(most(node.embedding).token)}`;
  const context = node.largest[0];
  if (context && context.values[context.at] > 0 && !kindOf(node.site).residual) return `at ${text(context.tokens[context.at])}`;
  return "";
}

const writers = new WeakMap();

/** Reads of the residual stream whose channel a node of the circuit has written to before. */
function writtenBefore(circuit) {
  if (!writers.has(circuit)) {
    const written = new Set(), found = new Set();
    for (const node of circuit.nodes) { // in forward order
      const writes = pathOf(node.site).endsWith("resid_delta");
      if (writes) written.add(node.index);
      else if (kindOf(node.site).residual && written.has(node.index)) found.add(`${node.site.split(".")[0]}.${pathOf(node.site)}:${node.index}`);
    }
    writers.set(circuit, found);
  }
  return writers.get(circuit);
}

/** A letter in a node that says what it is; residual ones have none. */
const letterOf = (node) => ({ "attn.q": "q", "attn.k": "k", "attn.v": "v" })[pathOf(node.site)] ?? "";
