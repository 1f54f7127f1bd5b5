/** With the model behind the page (csp view --serve): a prompt of one's own, nodes switched off. */
const switchedOff = new Set();
let answer = null;

function buildLive() {
  if (!page.live) return;
  const first = current().prompts[0];
  const text = first ? first.tokens.map((id) => current().tokens[String(id)]).join("") : "";
  fill("live", html("h2", {}, "Try it"), html("textarea", { id: "live-prompt", rows: 4, "aria-label": "prompt" }, text),
    html("p", {}, html("button", { id: "live-run", onclick: runLive }, "run"), " ", html("button", { id: "live-switch", onclick: switchNode }, "switch selected node off / on"), " ", html("button", { id: "live-save", onclick: saveLabels }, "save labels")),
    html("p", { id: "live-off", class: "soft" }), html("div", { id: "live-result" }));
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ?? response.statusText);
  return found;
}

async function runLive() {
  try {
    answer = await post("run", { circuit: state.circuit, prompt: byId("live-prompt").value, off: [...switchedOff] });
    showLive();
  } catch (error) {
    answer = null;
    fill("live-result", html("p", { class: "minus" }, error.message));
  }
}

async function saveLabels() {
  const names = (kind) => Object.fromEntries(current().nodes.map((node) => [node.id, nameOf(state.circuit, node, kind)]).filter(([, text]) => text));
  try {
    await post("labels", { circuit: state.circuit, labels: names("label"), groups: names("group") });
    byId("announce").textContent = byId("live-off").textContent = "labels are in the circuit file";
  } catch (error) {
    byId("live-off").textContent = error.message;
  }
}

function switchNode() {
  if (!state.node) return;
  switchedOff.has(state.node) ? switchedOff.delete(state.node) : switchedOff.add(state.node);
  byId("live-off").textContent = switchedOff.size ? `off: ${[...switchedOff].join(", ")}` : "";
  refreshGraphs(new Set(["node"]));
  runLive();
}

/** Activations of the selected node along the prompt, and what comes next by the model and by the circuit. */
function showLive() {
  if (!page.live || !answer) return;
  const values = answer.activations[state.node];
  const most = strongest(values ?? []);
  const line = answer.tokens.map((text, i) => {
    const span = html("span", { class: "token", dir: "auto" }, text.replaceAll("\n", "↵\n"));
    if (values) {
      span.title = shown(values[i]);
      span.dataset.value = String(values[i]);
      span.style.background = `color-mix(in srgb, var(${values[i] < 0 ? "--minus" : "--plus"}) ${most ? Math.round((70 * Math.abs(values[i])) / most) : 0}%, transparent)`;
    }
    return span;
  });
  const rows = answer.next.map(({ text, model, circuit }) => html("tr", {}, html("td", { class: "code" }, visible(text)), html("td", { class: "number" }, shown(100 * model)), html("td", { class: "number" }, shown(100 * circuit))));
  fill("live-result", html("p", { class: "code" }, ...line), html("table", {}, html("tr", {}, ...["next token", "model, %", "circuit, %"].map((text) => html("th", {}, text))), rows));
}
