/** Labels and groups that a person wrote, as a file that `csp label` puts into the circuit. */
function exportLabels() {
  const circuit = current(), document_ = { format: "sparse_circuits.labels", task: circuit.task, weights: circuit.weights, labels: {}, groups: {} };
  for (const node of circuit.nodes) {
    for (const kind of ["label", "group"]) {
      const text = nameOf(state.circuit, node, kind);
      if (text) document_[`${kind}s`][node.id] = text;
    }
  }
  const link = html("a", { download: `${circuit.task}.labels.json`, href: URL.createObjectURL(new Blob([JSON.stringify(document_, null, 1)], { type: "application/json" })) });
  link.click();
  URL.revokeObjectURL(link.href);
}
