/** The task's paired prompts: what is answered, the selected node along both, and their difference. */
function showPrompts() {
  const circuit = current();
  if (!circuit.prompts.length) return fill("prompts");
  const pairs = circuit.prompts.length / 2, pair = chosenPair(circuit);
  const node = nodeOf(circuit, state.node), rows = [2 * pair, 2 * pair + 1];
  const values = node ? rows.map((row) => node[state.run === "model" ? "model" : "circuit"][row]) : null;
  const most = values ? strongest(values.flat()) : 0;
  fill("prompts",
    html("h2", {}, "Prompts of the task"),
    html("p", {}, html("label", {}, "pair ", picker("pair-select", [...Array(pairs).keys()].map((i) => [i, `${i + 1} of ${pairs}`]), pair, (value) => update({ pair: Number(value) }))), " ",
      html("label", {}, "activations in ", picker("run-select", [["circuit", "the circuit"], ["model", "the whole model"]], state.run, (value) => update({ run: value })))),
    rows.map((row, side) => promptLine(circuit, rows, side, values?.[side], most)),
    values ? differenceLine(circuit, rows, values) : html("p", { class: "soft" }, "Select a node to see its activations here."));
}

const chosenPair = (circuit) => Math.min(Math.max(0, Math.trunc(state.pair)), circuit.prompts.length / 2 - 1);

function picker(id, options, chosen, onpick) {
  return html("select", { id, onchange: (event) => onpick(event.target.value) }, options.map(([value, text]) => html("option", { value, selected: String(value) === String(chosen) }, String(text))));
}

/** Prompts of a pair are compared from their ends: both end where the answer comes. */
function aligned(circuit, rows, side, i) {
  const [own, other] = [circuit.prompts[rows[side]].tokens, circuit.prompts[rows[1 - side]].tokens];
  return other[other.length - own.length + i];
}

function promptLine(circuit, rows, side, values, most) {
  const prompt = circuit.prompts[rows[side]];
  const tokens = prompt.tokens.map((id, i) => token(circuit, id, values?.[i], most, aligned(circuit, rows, side, i) === id ? "" : "differs"));
  const share = `${shown(100 * prompt.circuit)} % circuit, ${shown(100 * prompt.model)} % model`;
  return html("div", { class: "prompt" }, html("p", { class: "code" }, ...tokens, " ▸ ", token(circuit, prompt.answer, null, 0, "meant")), html("p", { class: "soft" }, `right answer rather than `, token(circuit, prompt.other), `: ${share}`));
}

function differenceLine(circuit, rows, [first, second]) {
  const tokens = circuit.prompts[rows[0]].tokens, shift = second.length - first.length;
  const differences = tokens.map((_, i) => (i + shift in second ? first[i] - second[i + shift] : null));
  const most = strongest(differences.filter((each) => each !== null));
  return html("div", { class: "difference" }, html("h3", {}, "First minus second"), html("p", { class: "code" }, ...tokens.map((id, i) => token(circuit, id, differences[i], most))));
}
