/** What verification found, verdict first. */
function showReport() {
  const { report, task } = current();
  if (!report) return fill("report", html("h2", {}, "Verification"), html("p", { class: "soft" }, `Not verified yet: low loss alone proves little. csp verify checks the circuit for ${task}.`));
  const tables = report.tables.map(({ title, rows }) => html("div", {}, html("h3", {}, title), html("table", {}, rows.map((row, i) => html("tr", {}, row.map((cell) => html(i ? "td" : "th", {}, cell)))))));
  fill("report", html("h2", {}, `Verification: ${report.headline}`), ...report.verdict.map((text) => html("p", {}, text)), html("details", {}, html("summary", {}, "All numbers"), ...tables));
}
