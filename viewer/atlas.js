// The atlas: which rows show. Everything else is plain HTML.
const rows = [...document.querySelectorAll("#nodes tbody tr")];
const search = document.getElementById("search"), shared = document.getElementById("shared"), count = document.getElementById("count");

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), least = shared.checked ? 2 : 1;
  let shown = 0;
  for (const row of rows) {
    const fits = Number(row.dataset.circuits) >= least && words.every(word => row.dataset.text.includes(word));
    row.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${rows.length} nodes`;
  history.replaceState(null, "", "#" + new URLSearchParams({ search: search.value, shared: shared.checked ? "1" : "" }));
}

function column(event) {
  const cell = event.target.closest("td, th"), at = cell ? cell.cellIndex : -1;
  for (const each of document.querySelectorAll("#nodes .lit")) each.classList.remove("lit");
  if (at < 2) return;
  for (const row of document.querySelectorAll("#nodes tr")) row.cells[at].classList.add("lit");
}

const state = new URLSearchParams(location.hash.slice(1));
search.value = state.get("search") || "";
if (state.has("shared")) shared.checked = state.get("shared") === "1";
search.addEventListener("input", show);
shared.addEventListener("change", show);
document.getElementById("nodes").addEventListener("pointerover", column);
show();
