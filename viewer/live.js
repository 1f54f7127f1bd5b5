/** With the model in the page, or behind it (csp view --serve): a prompt of one's own, nodes switched off. */
const switchedOff = new Map(); // circuit -> nodes
const answers = new Map(); // circuit -> what the server said last

function offIn(index) {
  if (!switchedOff.has(index)) switchedOff.set(index, new Set());
  return switchedOff.get(index);
}

const canRun = () => page.live || runsHere(state.circuit);

/** The panel of the chosen circuit, with what was tried on it before. */
function buildLive() {
  if (!canRun()) return fill("live");
  if (byId("live").dataset.circuit === String(state.circuit)) return;
  byId("live").dataset.circuit = String(state.circuit);
  const first = current().prompts[0];
  const text = first ? first.tokens.map((id) => current().tokens[String(id)]).join("") : "";
  fill("live", html("h2", {}, "Try it"), html("textarea", { id: "live-prompt", rows: 4, "aria-label": "prompt" }, answers.get(state.circuit)?.prompt ?? text),
    html("p", {}, html("button", { id: "live-run", onclick: runLive }, "run"), " ", html("button", { id: "live-switch", onclick: () => switchNode(state.node) }, "switch selected node off / on"), " ", page.live ? html("button", { id: "live-save", onclick: saveLabels }, "save labels") : null),
    html("p", { id: "live-off", class: "soft" }), html("p", { id: "live-said", class: "soft" }), html("div", { id: "live-result" }));
  showOff();
  if (!page.live) sayChecked(state.circuit);
}

async function sayChecked(circuit) {
  try {
    const worst = await checkHere(circuit);
    if (state.circuit === circuit) byId("live-said").textContent = `The model runs in this page. Checked on the prompts below: largest difference to PyTorch ${shown(worst)}.`;
  } catch (error) {
    byId("live-said").textContent = error.message;
  }
}

function showOff() {
  const off = [...offIn(state.circuit)];
  byId("live-off").replaceChildren(...(off.length ? ["off: ", ...off.flatMap((id) => [html("button", { title: "switch it on again", onclick: () => switchNode(id) }, id), " "])] : []));
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ?? response.statusText);
  return found;
}

async function runLive() {
  const circuit = state.circuit, prompt = byId("live-prompt").value;
  try {
    const asked = { circuit, prompt, off: [...offIn(circuit)] };
    answers.set(circuit, { prompt, ...(await (page.live ? post("run", asked) : runHere(asked))) });
    showLive();
  } catch (error) {
    answers.delete(circuit);
    fill("live-result", html("p", { class: "minus" }, error.message));
  }
}

async function saveLabels() {
  const names = (kind) => Object.fromEntries(current().nodes.map((node) => [node.id, nameOf(state.circuit, node, kind)]).filter(([, text]) => text));
  try {
    await post("labels", { circuit: state.circuit, labels: names("label"), groups: names("group") });
    byId("live-said").textContent = "labels are in the circuit file";
  } catch (error) {
    byId("live-said").textContent = error.message;
  }
}

function switchNode(id) {
  if (!id) return;
  const off = offIn(state.circuit);
  if (!off.delete(id)) off.add(id);
  showOff();
  refreshGraphs(new Set(["node"]));
  runLive();
}

/** Activations of the selected node along the prompt, and what comes next by the model and by the circuit. */
function showLive() {
  const answer = answers.get(state.circuit);
  if (!canRun()) return;
  if (!answer) return fill("live-result");
  const values = answer.activations[state.node];
  const most = strongest(values ?? []);
  const line = answer.tokens.map((text, i) => {
    const span = html("span", { class: "token", dir: "auto" }, text.replaceAll("\n", "↵\n"));
    if (values) shade(span, values[i], most);
    return span;
  });
  const rows = answer.next.map(({ text, answer: wanted, model, circuit }) => html("tr", {}, html("td", { class: "code" }, visible(text), wanted ? " (an answer)" : ""), html("td", { class: "number" }, shown(100 * model)), html("td", { class: "number" }, shown(100 * circuit))));
  fill("live-result", html("p", { class: "code" }, ...line), html("table", {}, html("tr", {}, ...["next token", "model, %", "circuit, %"].map((text) => html("th", {}, text))), rows));
}
