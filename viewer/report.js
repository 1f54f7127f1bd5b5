/** What verification found, verdict first. */
function showReport() {
  const { report, task } = current();
  const proved = current().certified ? html("p", { id: "certified" }, `csp prove: right on ${current().certified}.`) : null;
  const worst = worstPrompts();
  if (!report) return fill("report", html("h2", {}, "Verification"), proved, worst, html("p", { class: "soft" }, `Not verified yet: low loss alone proves little. csp verify checks the circuit for ${task}.`));
  const tables = report.tables.map(({ title, rows }) => html("div", {}, html("h3", {}, title), html("table", {}, rows.map((row, i) => html("tr", {}, row.map((cell) => html(i ? "td" : "th", {}, cell)))))));
  fill("report", html("h2", {}, `Verification: ${report.headline}`), proved, worst, ...report.verdict.map((text) => html("p", {}, text)), html("details", {}, html("summary", {}, "All numbers"), ...tables));
}

/** Of all prompts that were run those on which the circuit is worst; where the page can run them, a click away. */
function worstPrompts() {
  const { worst } = current();
  if (!worst.length) return null;
  const wrong = worst.filter((each) => each.margin <= 0).length, heads = ["prompt", "right", "other", "circuit", "model"];
  const put = (text) => { byId("live-prompt").value = text; setPrompt(text); byId("live").scrollIntoView({ block: "nearest" }); };
  const rows = worst.map((each) => html("tr", {}, html("td", { class: "code", dir: "auto" }, canRun() ? html("button", { class: "link", onclick: () => put(each.prompt) }, visible(each.prompt)) : visible(each.prompt)),
    ...[each.right, each.wrong].map((text) => html("td", { class: "code", dir: "auto" }, visible(text))), ...[each.margin, each.model_margin].map((value) => html("td", { class: `number ${value > 0 ? "plus" : "minus"}` }, shown(value)))));
  return html("details", { id: "worst" }, html("summary", {}, wrong ? `Where it fails: the ${worst.length} worst of all prompts that were run, ${wrong === worst.length ? "all" : wrong} of them wrong` : `Where it is weakest: the ${worst.length} prompts on which it is least sure`),
    html("p", { class: "soft" }, "The right answer's logit above the other's, in the circuit and in the model.", counted()), html("table", {}, html("tr", {}, heads.map((text) => html("th", {}, text))), rows));
}

/** A certificate's circuit is a function of its prompt alone; where it was pruned with the model's own scales, what is run above has those. */
function counted() {
  const { norms } = current();
  if (!norms || !runsHere(state.circuit) || !runtimeOf(state.circuit).frozen) return null;
  return ` Here, as in its program, the circuit's norms are ${norms === "own" ? "its own" : "held at their means over the corpus"}; where a prompt is tried above, they are the whole model's on that prompt, so its numbers are others.`;
}

/** Below the title: the task, the size in the README's terms, the levels. */
function showSubtitle() {
  const circuit = current(), edges = circuit.links.filter((link) => link.kind === "weight").length;
  byId("subtitle").textContent = [circuit.description, `${circuit.nodes.length} nodes, ${edges} edges`, circuit.model].filter(Boolean).join(" · ");
  const chip = (text) => {
    const [level, rest = ""] = text.split(/: (.*)/s), [word] = rest.split(/[;,]/);
    return html("li", { class: word.trim() === "yes" ? "reached" : "", title: text }, html("button", { class: "link", onclick: () => byId("report").scrollIntoView() }, `${level}: ${word}`));
  };
  const show = () => { byId("worst").open = true; byId("worst").scrollIntoView(); }, wrong = circuit.worst.some((each) => each.margin <= 0);
  const where = circuit.worst.length ? html("li", { id: "to-worst" }, html("button", { class: "link", onclick: show }, wrong ? "where it fails ↓" : "where it is weakest ↓")) : null;
  fill("levels", ...(circuit.report ? circuit.report.verdict.slice(0, 6).map(chip) : []), where);
}
