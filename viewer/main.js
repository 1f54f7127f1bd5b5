/** Data in, panels up; every change of the state tells each panel once. */
function start() {
  const read = (id) => JSON.parse(byId(id).textContent);
  page = read("data");
  const known = read("contract");
  wiring = known.wiring;
  checkContract(known.records, page, "Page", "page");
  if (page.version !== 1) throw new Error(`This page has data of version ${page.version} and code of version 1; write it again with csp view.`);
  readFragment();
  buildFilters();
  drawGraphs();
  listeners.push(onChange);
  onChange(new Set(Object.keys(DEFAULTS)));
  addEventListener("hashchange", () => { readFragment(); drawGraphs(); notify(new Set(Object.keys(DEFAULTS))); });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) { event.preventDefault(); byId("search").focus(); }
  });
}

function onChange(changed) {
  const is = (...names) => names.some((name) => changed.has(name));
  showTheme();
  if (is("circuit", "beside")) {
    byId("title").textContent = `Circuit for ${current().task}`;
    showSubtitle();
    if (drawnGraphs.map((drawn) => drawn.index).join() !== panes().join()) drawGraphs();
    showCompare();
    showCurves();
    showReport();
    buildLive();
    byId("legend-runs").hidden = !canRun();
    byId("legend-cuts").hidden = !runsHere(state.circuit);
  }
  showFilters();
  if (is("view", "result", "circuit")) showFlow();
  if (is("node", "changes")) for (const dot of byId("flow").querySelectorAll(".node")) {
    dot.classList.toggle("selected", dot.dataset.id === state.node);
    dot.classList.toggle("off", changesIn(state.circuit)[dot.dataset.id] === "off");
  }
  refreshGraphs(changed);
  if (is("circuit", "node")) showNode();
  else if (is("labels", "groups", "changes")) refreshNames();
  if (is("circuit", "node")) { showSteering(); showContexts(); byId("announce").textContent = state.node; }
  if (is("circuit", "node", "pair", "run")) { showPrompts(); showAttention(); }
  if (is("circuit", "changes")) showChanges();
  if (is("circuit", "changes", "prompt")) { if (byId("live-prompt") && is("prompt") && changed.size > 1) byId("live-prompt").value = promptText(); if (!page.live || !is("circuit")) runLive(); }
  if (is("circuit", "node", "result")) showLive();
  if (is("circuit", "node", "result", "labels")) showStory();
}

if (typeof document === "undefined") { // in the worker
  addEventListener("message", async ({ data }) => postMessage(await answerOf(data)));
} else {
  try {
    start();
  } catch (error) {
    byId("problem").hidden = false;
    byId("problem").textContent = error.message;
  }
}
