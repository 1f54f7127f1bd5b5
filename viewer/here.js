/** The model in the page itself (model.js): what `csp view --serve` answers, computed here, in a worker where there is one, and checked against the numbers
 * that the page came with. The functions up to `answerOf` run in the worker; it has this same script, and no page. */
const NEXT = 8; // likeliest next tokens that are shown
const LETTERS = 64; // of a token, at most on the average
const engines = new Map(); // in the worker: place among page.models -> {model, tokenizer, longest, whole}

async function loadEngine({ place, text }) {
  const packed = JSON.parse(text);
  const model = new Model(packed.config, await unpacked(packed.weights));
  engines.set(place, { model, tokenizer: new Tokenizer(packed.tokenizer), longest: packed.longest, whole: null });
  return true;
}

function softmax(logits) {
  const shares = new Float64Array(logits.length);
  let most = -Infinity, total = 0;
  for (const each of logits) if (each > most) most = each;
  for (let i = 0; i < shares.length; i++) total += shares[i] = Math.exp(logits[i] - most);
  for (let i = 0; i < shares.length; i++) shares[i] /= total;
  return shares;
}

/** The likeliest tokens by either of two distributions, at most as many as are wanted. */
function likeliest(a, b, count) {
  const most = Float64Array.from(a, (share, i) => Math.max(share, b[i])), least = most.slice().sort().at(-count);
  return [...most.keys()].filter((id) => most[id] >= least).sort((i, j) => most[j] - most[i] || i - j).slice(0, count);
}

function rankOf(shares, id) {
  let place = 1;
  for (const each of shares) if (each > shares[id]) place++;
  return place;
}

/** The whole model on a prompt, as it is; the last one is kept, since every change of a circuit asks for it again. */
function wholeOn(engine, ids) {
  const key = ids.join();
  if (!engine.whole || engine.whole.key !== key) engine.whole = { key, found: runPrompt(engine.model, ids, {}, { last: true }) };
  return engine.whole.found;
}

/** What the job changes, as model.js runs it: edges that were cut get the model's own weight. */
function changedRun(engine, run, { held, cut }) {
  const edges = new Map([...(run.cut ?? [])].map(([name, list]) => [name, [...list]]));
  for (const [source, s, target, t] of cut) {
    const name = `${source}->${target}`;
    edges.set(name, [...(edges.get(name) ?? []), [s, t, engine.model.weight(source, s, target, t)]]);
  }
  return { ...run, held: new Map([...(run.held ?? []), ...held]), cut: edges };
}

function idsOf(engine, prompt) {
  if (prompt.length > LETTERS * engine.longest) throw new Error(`The prompt has ${prompt.length.toLocaleString("en")} characters, and room is for ${engine.longest} tokens; give a shorter one.`);
  const ids = engine.tokenizer.encode(prompt);
  if (ids.length < 1 || ids.length > engine.longest) throw new Error(`The prompt has ${ids.length} tokens; give 1 to ${engine.longest}.`);
  return ids;
}

/** A prompt through the model and through the circuit, with and without what was changed. */
function runJob(job) {
  const engine = engines.get(job.place), ids = idsOf(engine, job.prompt), begun = performance.now();
  const whole = wholeOn(engine, ids), scales = job.frozen ? whole.steps.map((step) => step.scales) : null;
  const changed = job.changes.held.size > 0 || job.changes.cut.length > 0;
  const model = changed ? runPrompt(engine.model, ids, changedRun(engine, { means: job.run.means }, job.changes), { last: true }) : whole;
  const circuit = runPrompt(engine.model, ids, changed ? changedRun(engine, job.run, job.changes) : job.run, { scales, last: true });
  const of = (found) => Object.fromEntries(job.nodes.map(([id, site, index]) => [id, found.steps.map(({ sites }) => sites.get(site)[index])]));
  const [a, b] = [softmax(model.logits), softmax(circuit.logits)], likely = likeliest(a, b, NEXT).filter((id) => !job.answers.includes(id));
  const embedded = ids.map((id, t) => engine.model.embedded(id, t));
  return {
    embedded: Object.fromEntries(job.channels.map((channel) => [channel, embedded.map((x) => x[channel] ?? 0)])),
    tokens: ids.map((id) => engine.tokenizer.decode([id])), ids, activations: of(circuit), activationsInModel: of(model),
    attention: Object.fromEntries(job.heads.map(([layer, head]) => [`${layer}.${head}`, circuit.steps.map((step) => Array.from(step.attention[layer][head]))])),
    next: [...job.answers, ...likely].map((id) => ({
      id, text: engine.tokenizer.decode([id]), answer: job.answers.includes(id), model: a[id], circuit: b[id], modelRank: rankOf(a, id), circuitRank: rankOf(b, id),
    })),
    milliseconds: performance.now() - begun,
  };
}

/** Tokens that the model, or the circuit, goes on with, each its likeliest, to the end of the line. */
function completeJob(job) {
  const engine = engines.get(job.place), ids = idsOf(engine, job.prompt), all = [...ids];
  const plain = engine.model.begin(), own = engine.model.begin(), changed = changedRun(engine, job.who === "circuit" ? job.run : { means: job.run.means }, job.changes);
  let logits = null;
  const feed = (id) => {
    const record = { sites: new Map(), scales: [], attention: [] };
    if (job.who === "circuit" && job.frozen) engine.model.step(plain, id, { record });
    logits = engine.model.step(own, id, { ...changed, scales: job.who === "circuit" && job.frozen ? record.scales : null });
  };
  ids.forEach(feed);
  let text = "";
  while (all.length < Math.min(engine.longest, ids.length + job.count)) {
    const next = logits.reduce((best, each, i) => (each > logits[best] ? i : best), 0);
    all.push(next);
    text = engine.tokenizer.decode(all.slice(ids.length));
    if (text.includes("\n")) break;
    feed(next);
  }
  return text;
}

/** The largest difference between what the page says of its prompts and what is computed here: shares of the right answer, in the model and in the circuit. */
function checkJob({ place, run, frozen, prompts }) {
  const { model } = engines.get(place);
  let worst = 0;
  for (const { tokens, answer, other, model: whole, circuit: own } of prompts) {
    const share = (logits) => 1 / (1 + Math.exp(logits[other] - logits[answer])), plain = runPrompt(model, tokens, {}, { last: true });
    const found = runPrompt(model, tokens, run, { scales: frozen ? plain.steps.map((step) => step.scales) : null, record: false, last: true });
    worst = Math.max(worst, Math.abs(share(plain.logits) - whole), Math.abs(share(found.logits) - own));
  }
  return worst;
}

const JOBS = { load: loadEngine, run: runJob, complete: completeJob, check: checkJob };

async function answerOf({ kind, job }) {
  try {
    return { found: await JOBS[kind](job) };
  } catch (error) {
    return { error: error.message };
  }
}

// ---- in the page

const loaded = new Map(); // place -> promise
let queue = [], flying = null, worker = null; // {kind, job, resolve, reject}; one at a time is under way

/** A worker with this page's own script; null where the browser gives none, and the page computes itself. */
function workerHere() {
  if (worker !== null) return worker || null;
  try {
    const script = [...document.scripts].find((each) => each.type === "").textContent;
    worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
    worker.addEventListener("message", ({ data }) => settle(data));
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      const left = [flying, ...queue].filter(Boolean);
      worker = false;
      [queue, flying] = [[], null];
      loaded.clear();
      checked.clear();
      for (const each of left) each.reject(new Error("The worker that runs the model could not be begun; try once more."));
    });
  } catch {
    worker = false;
  }
  return worker || null;
}

/** Jobs in turn, checks last. A prompt that waits for its turn makes place for a newer one. */
function ask(kind, job) {
  return new Promise((resolve, reject) => {
    if (kind === "run") {
      for (const each of queue.filter((waiting) => waiting.kind === "run")) each.reject(new Error("A newer prompt took its place."));
      queue = queue.filter((waiting) => waiting.kind !== "run");
    }
    queue.push({ kind, job, resolve, reject });
    queue.sort((a, b) => (a.kind === "check") - (b.kind === "check"));
    goOn();
  });
}

async function goOn() {
  if (flying || !queue.length) return;
  const own = flying = queue.shift(), { kind, job } = own, there = workerHere();
  if (there) there.postMessage({ kind, job });
  else {
    const answer = await answerOf({ kind, job });
    if (flying === own) settle(answer);
  }
}

function settle({ found, error }) {
  const { resolve, reject } = flying;
  flying = null;
  if (error === undefined) resolve(found);
  else reject(new Error(error));
  goOn();
}

function modelHere(place) {
  if (!loaded.has(place)) loaded.set(place, ask("load", { place, text: page.models[place] }));
  return loaded.get(place);
}

const runsHere = (index) => page.circuits[index].runtime !== null;
const runtimes = new Map();

/** The circuit as model.js runs it: which nodes are open, what the others are held at, which edges are cut. */
function runtimeOf(index) {
  if (!runtimes.has(index)) {
    const circuit = page.circuits[index], runtime = JSON.parse(circuit.runtime), hold = new Map(), all = new Map();
    for (const [site, means] of Object.entries(runtime.means)) all.set(site, Float64Array.from(means, Math.fround)); // nine digits name a float32
    for (const [site, means] of all) hold.set(site, { open: new Uint8Array(means.length), fill: means });
    for (const { site, index: node } of circuit.nodes) hold.get(site).open[node] = 1;
    runtimes.set(index, { place: runtime.model, frozen: runtime.frozen, run: { hold, cut: new Map(Object.entries(runtime.cut)), means: all } });
  }
  return runtimes.get(index);
}

/** The state's changes of a circuit: nodes held at their mean, or at a value; edges that are cut. */
function changesOf(index) {
  const held = new Map(), cut = [], { means } = runtimeOf(index).run;
  const parts = (id) => [id.slice(0, id.lastIndexOf(":")), Number(id.slice(id.lastIndexOf(":") + 1))];
  for (const [key, value] of Object.entries(changesIn(index))) {
    if (key.includes(">")) {
      const [from, to] = key.split(">").map(parts);
      cut.push([...from, ...to]);
    } else {
      const [site, node] = parts(key);
      held.set(site, [...(held.get(site) ?? []), [node, value === "off" ? means.get(site)[node] : Number(value)]]);
    }
  }
  return { held, cut };
}

const answersOf = (circuit) => [...new Set(circuit.prompts.flatMap(({ answer, other }) => [answer, other]))].slice(0, 12);

/** plain: without what was changed. */
async function jobOf(index, prompt, plain = false) {
  const circuit = page.circuits[index], runtime = runtimeOf(index);
  await modelHere(runtime.place);
  const heads = new Map(circuit.nodes.filter((node) => node.head !== null).map((node) => [`${node.site.split(".")[0]}.${node.head}`, [Number(node.site.split(".")[0]), node.head]]));
  return {
    ...runtime, prompt, changes: plain ? { held: new Map(), cut: [] } : changesOf(index), nodes: circuit.nodes.map(({ id, site, index: node }) => [id, site, node]),
    channels: [...new Set(circuit.nodes.filter(readsResidual).map((node) => node.index))], answers: answersOf(circuit), heads: [...heads.values()],
  };
}

const runHere = async (index, prompt, plain) => ask("run", await jobOf(index, prompt, plain));
const completeHere = async (index, prompt, who, count) => ask("complete", { ...(await jobOf(index, prompt)), who, count });

const checked = new Map(); // circuit -> promise

function checkHere(index) {
  if (!checked.has(index)) {
    const runtime = runtimeOf(index);
    checked.set(index, modelHere(runtime.place).then(() => ask("check", { ...runtime, prompts: page.circuits[index].prompts })));
  }
  return checked.get(index);
}
