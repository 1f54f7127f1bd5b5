/** What verification found, verdict first. */
function showReport() {
  const { report, task } = current();
  const proved = current().certified ? html("p", { id: "certified" }, `csp prove: right on ${current().certified}.`) : null;
  if (!report) return fill("report", html("h2", {}, "Verification"), proved, html("p", { class: "soft" }, `Not verified yet: low loss alone proves little. csp verify checks the circuit for ${task}.`));
  const tables = report.tables.map(({ title, rows }) => html("div", {}, html("h3", {}, title), html("table", {}, rows.map((row, i) => html("tr", {}, row.map((cell) => html(i ? "td" : "th", {}, cell)))))));
  fill("report", html("h2", {}, `Verification: ${report.headline}`), proved, ...report.verdict.map((text) => html("p", {}, text)), html("details", {}, html("summary", {}, "All numbers"), ...tables));
}

/** Below the title: the task, the size in the README's terms, the levels. */
function showSubtitle() {
  const circuit = current(), edges = circuit.links.filter((link) => link.kind === "weight").length;
  byId("subtitle").textContent = [circuit.description, `${circuit.nodes.length} nodes, ${edges} edges`, circuit.model].filter(Boolean).join(" · ");
  const chip = (text) => {
    const [level, rest = ""] = text.split(/: (.*)/s), [word] = rest.split(/[;,]/);
    return html("li", { class: word.trim() === "yes" ? "reached" : "", title: text }, `${level}: ${word}`);
  };
  fill("levels", ...(circuit.report ? circuit.report.verdict.slice(0, 6).map(chip) : []));
}
