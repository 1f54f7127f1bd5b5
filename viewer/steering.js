/** Under bridges: what the decoder's direction of the selected node does to the answers of the dense model. */
function showSteering() {
  const circuit = current(), node = nodeOf(circuit, state.node), found = node?.steering;
  if (!found) return fill("steering");
  const percent = (value) => shown(100 * value);
  const rows = found.strengths.map((strength, i) => html("tr", {}, [shown(strength), percent(found.answer[i] ?? 0), percent(found.other[i] ?? 0), percent(found.random[i] ?? 0)].map((text) => html("td", { class: "number" }, text))));
  fill("steering",
    html("h2", {}, "In the dense model"),
    html("p", { class: "soft" }, "Its decoder direction, added to what the dense model reads there, as far as the node differs between a prompt and its counterfactual (strength 1). Random: the most that any of some random directions of that length does."),
    html("table", {}, html("tr", {}, ["strength", "own answer, %", "counterfactual's, %", "random, %"].map((text) => html("th", {}, text))), rows),
    plot(found.strengths.map((strength, i) => [strength, 100 * (found.other[i] ?? 0)]), "strength", "counterfactual's answer, %"),
    tokenTable("Next tokens that rise or fall with the node (percentage points)", "raised", found.raised, circuit));
}
