/** With the model in the page, or behind it (csp view --serve): a prompt of one's own, nodes and edges switched off, nodes held at values, completion. */
const results = new Map(); // circuit -> what was said last: {prompt, changes, now, before} or {error}
const COMPLETED = 24; // tokens, at most
let runs = 0, completed = { circuit: -1, prompt: "", lines: {} };

const changesIn = (index) => state.changes[String(index)] ?? {};
const offIn = (index) => Object.keys(changesIn(index)).filter((key) => changesIn(index)[key] === "off" && !key.includes(">"));
const canRun = () => page.live || runsHere(state.circuit);

/** Sets or takes back a change of the chosen circuit: "off", a number as text, or null. */
function change(key, value) {
  if (!canRun() || !key) return;
  const all = structuredClone(state.changes), own = { ...changesIn(state.circuit) };
  delete own[key];
  if (value !== null) own[key] = value;
  all[String(state.circuit)] = own;
  if (!Object.keys(own).length) delete all[String(state.circuit)];
  update({ changes: all });
}

const switchNode = (id) => change(id, changesIn(state.circuit)[id] === "off" ? null : "off");
const edgeKey = (source, target) => `${source}>${target}`;
const switchEdge = (source, target) => runsHere(state.circuit) && change(edgeKey(source, target), changesIn(state.circuit)[edgeKey(source, target)] ? null : "off");

/** The prompt that is run: a person's, or the first of the task. */
function promptText() {
  const first = current().prompts[0];
  return state.prompt || (first ? first.tokens.map((id) => current().tokens[String(id)]).join("") : "");
}

/** What was said of the chosen circuit, if it is of the prompt and the changes that the page shows now; a page that runs by itself is about to say it anew, and keeps the last until then. */
function said() {
  const known = results.get(state.circuit), own = known?.now && (!page.live || (known.prompt === byId("live-prompt")?.value && known.changes === JSON.stringify(changesIn(state.circuit))));
  return own ? known : null;
}

function buildLive() {
  if (!canRun()) {
    runs++; // what is under way has no place here
    delete byId("live").dataset.circuit;
    return fill("live");
  }
  if (byId("live").dataset.circuit === String(state.circuit)) return;
  byId("live").dataset.circuit = String(state.circuit);
  const who = (name) => html("button", { onclick: () => completeLive(name), title: `the rest of the line, as the ${name} goes on` }, name);
  fill("live", html("h2", {}, "Try it"),
    html("textarea", { id: "live-prompt", rows: 4, spellcheck: "false", "aria-label": "prompt", oninput: soon }, promptText()),
    html("p", { class: "bar" }, html("button", { id: "live-run", onclick: () => setPrompt(byId("live-prompt").value) }, "run"), html("button", { id: "live-switch", onclick: () => switchNode(state.node) }, "switch selected node off / on"),
      page.live ? html("button", { id: "live-save", onclick: saveLabels }, "save labels") : html("span", { id: "live-complete" }, "complete the line: ", who("model"), " ", who("circuit"))),
    html("div", { id: "live-completed" }), html("p", { id: "live-off", class: "bar soft" }), html("div", { id: "live-result" }), html("p", { id: "live-said", class: "soft" }));
  if (!page.live) sayChecked(state.circuit);
}

let later = 0;

/** While it is typed, not at every key. */
function soon() {
  clearTimeout(later);
  if (!page.live) later = setTimeout(() => setPrompt(byId("live-prompt").value), 250);
}

function setPrompt(text) {
  clearTimeout(later);
  if (text === "" || text === promptText()) runLive();
  else update({ prompt: text });
}

async function sayChecked(circuit) {
  const say = (text) => { if (state.circuit === circuit && byId("live-said")) byId("live-said").textContent = text; };
  if (!page.circuits[circuit].prompts.length) return say("The model runs in this page.");
  try {
    say(`The model runs in this page. Checked on the prompts below: largest difference to PyTorch ${shown(await checkHere(circuit))}.`);
  } catch (error) {
    say(error.message);
  }
}

function showChanges() {
  if (!byId("live-off")) return;
  const own = Object.entries(changesIn(state.circuit)), cut = own.filter(([key]) => key.includes(">")), off = own.filter(([key, value]) => value === "off" && !key.includes(">")), held = own.filter(([, value]) => value !== "off");
  const undo = (key, text) => html("button", { title: "a click takes it back", onclick: () => change(key, null) }, text);
  byId("live-off").replaceChildren(
    ...(off.length ? ["off: ", ...off.flatMap(([key]) => [undo(key, key), " "])] : []),
    ...(cut.length ? ["cut: ", ...cut.flatMap(([key]) => [undo(key, key.replace(">", " → ")), " "])] : []),
    ...(held.length ? ["held: ", ...held.flatMap(([key, value]) => [undo(key, `${key} at ${value}`), " "])] : []));
}

async function post(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ?? response.statusText);
  return found;
}

/** The chosen prompt, as things are now and, if something was changed, as they were. */
async function runLive() {
  if (!canRun() || !byId("live-prompt")) return;
  const circuit = state.circuit, prompt = byId("live-prompt").value, own = ++runs, changes = JSON.stringify(changesIn(circuit)), known = results.get(circuit);
  if (prompt !== promptText()) { // it stays when another circuit is looked at, and in the link
    state.prompt = prompt;
    writeFragment();
  }
  const run = (plain) => (page.live ? post("run", { circuit, prompt, off: plain ? [] : offIn(circuit) }) : runHere(circuit, prompt, plain));
  try {
    const before = changes === "{}" ? null : known?.now && known.prompt === prompt ? known.before : await run(true);
    if (own !== runs) return;
    const now = await run(false);
    if (own !== runs) return;
    results.set(circuit, { prompt, changes, now, before: before ?? now });
  } catch (error) {
    if (own !== runs) return;
    results.set(circuit, { error: error.message });
  }
  notify(new Set(["result"]));
}

async function completeLive(who) {
  const circuit = state.circuit, prompt = byId("live-prompt").value;
  try {
    const text = await completeHere(circuit, prompt, who, COMPLETED);
    if (state.circuit !== circuit || byId("live-prompt")?.value !== prompt) return; // somebody has typed on
    const take = () => { byId("live-prompt").value = prompt + text; setPrompt(prompt + text); }, ended = text.includes("\n") ? "" : "…";
    completed = { circuit, prompt, lines: { ...(completed.circuit === circuit && completed.prompt === prompt ? completed.lines : {}), [who]: [text, ended, take] } };
    showCompleted();
  } catch (error) {
    if (state.circuit === circuit && byId("live-said")) byId("live-said").textContent = error.message;
  }
}

/** How the line goes on by the model and by the circuit, beside each other; taken into the prompt by a click. */
function showCompleted() {
  if (!byId("live-completed")) return;
  const own = completed.circuit === state.circuit && completed.prompt === byId("live-prompt").value ? Object.entries(completed.lines) : [];
  fill("live-completed", own.map(([who, [text, ended, take]]) => html("p", {}, `${who}: `, html("span", { class: "code", dir: "auto" }, visible(text), ended), " ", html("button", { onclick: take, title: `add it to the prompt${ended ? `; cut off after ${COMPLETED} tokens` : ""}` }, "add"))));
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

/** Activations of the selected node along the prompt, and what comes next by the model and by the circuit. */
function showLive() {
  if (!canRun()) return;
  const { error } = results.get(state.circuit) ?? {}, known = said();
  showCompleted();
  if (!known) return fill("live-result", error === undefined ? null : html("p", { class: "minus" }, error));
  const { now, before } = known, values = now.activations[state.node], most = strongest(values ?? []);
  const line = now.tokens.map((text, i) => {
    const span = html("span", { class: "token", dir: "auto" }, text.replaceAll("\n", "↵\n"));
    if (values) shade(span, values[i], most);
    return span;
  });
  fill("live-result",
    html("p", { class: "code" }, ...line), values ? html("p", { class: "soft" }, `shaded by ${state.node} in the circuit; at the last token ${shown(values.at(-1))}`) : null,
    preferences(known), nextTable(now, before));
  if (byId("node-effect")) fill("node-effect", Object.keys(changesIn(state.circuit)).length ? preferences(known, "effect") : null);
}

/** The two answers that are compared: those that are likeliest, in the model and in the circuit, before anything is changed. */
const comparedIn = ({ now, before }) => (before ?? now).next.filter((each) => each.answer).sort((a, b) => b.model + b.circuit - a.model - a.circuit).slice(0, 2);

/** Between the answers alone: shares of the two that are likeliest, in the model and in the circuit. */
function preferences({ now, before }, name = "preference") {
  const among = (found) => found.next.filter((each) => each.answer), pair = comparedIn({ now, before });
  if (pair.length < 2) return null;
  const share = (found, run) => {
    const [one, two] = pair.map(({ text }) => among(found).find((each) => each.text === text)?.[run] ?? 0);
    return one / (one + two);
  };
  const bar = (run) => {
    const own = share(now, run), was = before && before !== now ? share(before, run) : null;
    return html("tr", {}, html("td", {}, run), html("td", { class: "share" }, svg("svg", { width: 120, height: 10, role: "img", "aria-label": `${shown(100 * own)} %` }, svg("rect", { class: "ground", width: 120, height: 10 }), svg("rect", { class: "part", width: 120 * own, height: 10 }))), number(100 * own, was === null ? null : 100 * was));
  };
  return html("div", { class: name }, html("h3", {}, `${visible(pair[0].text)} rather than ${visible(pair[1].text)}, %`), html("table", {}, bar("model"), bar("circuit")));
}

/** A cell with a number, and how much it has changed. */
function number(value, was = null) {
  const cell = html("td", { class: "number" }, shown(value)), by = was === null ? 0 : value - was;
  cell.dataset.value = String(value);
  if (Math.abs(by) >= 0.005) cell.append(html("span", { class: by > 0 ? "plus" : "minus" }, ` ${by > 0 ? "+" : ""}${shown(Number(by.toPrecision(2)))}`));
  return cell;
}

function nextTable(now, before) {
  const was = (text, run) => (before && before !== now ? 100 * (before.next.find((each) => each.text === text)?.[run] ?? NaN) : null);
  const seen = (value) => (Number.isNaN(value) ? null : value);
  const rank = (each, run) => (each.answer && each[`${run}Rank`] ? html("span", { class: "soft" }, `#${each[`${run}Rank`]} `) : null);
  const cell = (each, run) => {
    const made = number(100 * each[run], seen(was(each.text, run)));
    const place = rank(each, run);
    if (place) made.prepend(place);
    return made;
  };
  const rows = now.next.map((each) => html("tr", {}, html("td", { class: "code" }, visible(each.text), each.answer ? " (an answer)" : ""), cell(each, "model"), cell(each, "circuit")));
  return html("table", { id: "next" }, html("tr", {}, ...["next token", "model, %", "circuit, %"].map((text) => html("th", {}, text))), rows);
}
