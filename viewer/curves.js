/** Loss against size, and the history of pruning. */
function showCurves() {
  const circuit = current(), charts = [];
  const curve = [...circuit.curve].filter((point) => point.length === 2).sort((a, b) => a[0] - b[0]);
  if (curve.length > 1) charts.push(["Loss against size", plot(curve, "nodes", "task loss, nats")]);
  const history = circuit.history.filter((point) => point.length === 3);
  if (history.length > 1) {
    charts.push(["Pruning: loss", plot(history.map(([step, loss]) => [step, loss]), "step", "task loss, nats")]);
    charts.push(["Pruning: open nodes", plot(history.map(([step, , open]) => [step, open]), "step", "nodes")]);
  }
  fill("curves", charts.flatMap(([title, chart]) => [html("h2", {}, title), chart]));
  fill("facts", html("details", {}, html("summary", {}, "How it was found: settings and versions"), html("table", {}, circuit.facts.filter((fact) => fact.length === 2).map(([name, value]) => html("tr", {}, html("td", { class: "soft" }, name), html("td", {}, value))))));
}

function plot(points, xName, yName) {
  const [width, height, left, bottom] = [420, 180, 50, 28];
  const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
  const [x0, x1, y1] = [Math.min(...xs), Math.max(...xs), Math.max(...ys, 1e-9)];
  const at = ([x, y]) => [left + ((width - left - 10) * (x - x0)) / (x1 - x0 || 1), 10 + (height - bottom - 10) * (1 - y / y1)];
  const line = points.map((point, i) => `${i ? "L" : "M"}${at(point).map((v) => v.toFixed(1)).join(" ")}`).join("");
  return svg("svg", { class: "plot", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yName} by ${xName}` },
    svg("path", { class: "axis", d: `M${left} 10V${height - bottom}H${width - 10}` }), svg("path", { d: line }),
    svg("text", { x: 2, y: 16 }, shown(y1)), svg("text", { x: left - 12, y: height - bottom }, "0"),
    svg("text", { x: left, y: height - 12 }, `${shown(x0)} ${xName}`), svg("text", { x: width - 10, y: height - 12, "text-anchor": "end" }, shown(x1)),
    svg("text", { x: left + 6, y: 20 }, yName));
}
