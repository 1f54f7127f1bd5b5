/** The model in the page itself (model.js): what `csp view --serve` answers, computed here, and checked against the numbers that the page came with. */
const here = new Map(); // place among page.models -> promise of {model, tokenizer}
const NEXT = 8; // likeliest next tokens that are shown

const runsHere = (index) => page.circuits[index].runtime !== null;

function modelHere(place) {
  if (!here.has(place)) here.set(place, loadHere(JSON.parse(page.models[place])));
  return here.get(place);
}

async function loadHere(packed) {
  return { model: new Model(packed.config, await unpacked(packed.weights)), tokenizer: new Tokenizer(packed.tokenizer), longest: packed.longest };
}

/** The circuit as model.js runs it: which nodes are open, what the others are held at, which edges are cut. */
function circuitRun(index, off) {
  const circuit = page.circuits[index], runtime = JSON.parse(circuit.runtime), hold = new Map();
  for (const [site, means] of Object.entries(runtime.means)) hold.set(site, { open: new Uint8Array(means.length), fill: means });
  for (const { id, site, index: node } of circuit.nodes) if (!off.has(id)) hold.get(site).open[node] = 1;
  return { run: { hold, cut: new Map(Object.entries(runtime.cut)), means: new Map(Object.entries(runtime.means)) }, frozen: runtime.frozen, model: runtime.model };
}

/** The whole model with nodes held at the circuit's means. */
function wholeRun(index, off) {
  const held = new Map(), { means } = JSON.parse(page.circuits[index].runtime);
  for (const { id, site, index: node } of page.circuits[index].nodes) {
    if (off.has(id)) held.set(site, [...(held.get(site) ?? []), [node, means[site][node]]]);
  }
  return { held };
}

function softmax(logits) {
  const most = logits.reduce((largest, each) => Math.max(largest, each), -Infinity), raised = logits.map((each) => Math.exp(each - most));
  const total = raised.reduce((sum, each) => sum + each, 0);
  return raised.map((each) => each / total);
}

async function runHere({ circuit: index, prompt, off }) {
  const circuit = page.circuits[index], closed = new Set(off), { run, frozen, model: place } = circuitRun(index, closed);
  const { model, tokenizer, longest } = await modelHere(place);
  const ids = tokenizer.encode(prompt);
  if (ids.length < 1 || ids.length > longest) throw new Error(`The prompt has ${ids.length} tokens; give 1 to ${longest}.`);
  const whole = softmax(runPrompt(model, ids, wholeRun(index, closed), { record: false }).logits), found = runPrompt(model, ids, run, { frozen });
  const own = softmax(found.logits), answers = [...new Set(circuit.prompts.flatMap(({ answer, other }) => [answer, other]))].slice(0, 12);
  const likely = [...whole.keys()].sort((a, b) => Math.max(whole[b], own[b]) - Math.max(whole[a], own[a])).slice(0, NEXT).filter((id) => !answers.includes(id));
  return {
    tokens: ids.map((id) => tokenizer.decode([id])),
    activations: Object.fromEntries(circuit.nodes.map(({ id, site, index: node }) => [id, found.steps.map(({ sites }) => sites.get(site)[node])])),
    next: [...answers, ...likely].map((id) => ({ text: tokenizer.decode([id]), answer: answers.includes(id), model: whole[id], circuit: own[id] })),
  };
}

/** The largest difference between what the page says of its prompts and what is computed here: shares of the right answer, in the model and in the circuit. */
async function checkHere(index) {
  const circuit = page.circuits[index], { run, frozen, model: place } = circuitRun(index, new Set()), { model } = await modelHere(place);
  let worst = 0;
  for (const { tokens, answer, other, model: whole, circuit: own } of circuit.prompts) {
    const share = (logits) => 1 / (1 + Math.exp(logits[other] - logits[answer]));
    worst = Math.max(worst, Math.abs(share(runPrompt(model, tokens, {}, { record: false }).logits) - whole), Math.abs(share(runPrompt(model, tokens, run, { frozen, record: false }).logits) - own));
  }
  return worst;
}
