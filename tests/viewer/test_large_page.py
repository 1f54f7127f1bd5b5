"""A page of a thousand nodes loads and answers quickly, beside what it takes this machine to draw as much."""

import json
import random
from statistics import median

from sparse_circuits.viewer import circuit_data, render


def thousand_nodes(data):
    """The data of a circuit with 1,000 nodes and 3,000 edges in 8 layers."""
    rng = random.Random(0)
    circuit = json.loads(json.dumps(data))
    node = circuit["nodes"][2]
    sites = [
        ("attn.act_in", 280),
        ("attn.q", 60),
        ("attn.k", 60),
        ("attn.v", 60),
        ("attn.resid_delta", 120),
        ("mlp.post_act", 300),
        ("mlp.resid_delta", 150),
    ]
    circuit["nodes"], circuit["stages"] = [], []
    for site, count in sites:
        for layer in range(8):
            circuit["stages"].append({"name": f"{layer}.{site}", "kind": site, "layer": layer})
            for i in rng.sample(range(256), count // 8):
                head = i // 16 if site in ("attn.q", "attn.k", "attn.v") else None
                circuit["nodes"].append(
                    {
                        **node,
                        "id": f"{layer}.{site}:{i}",
                        "site": f"{layer}.{site}",
                        "index": i,
                        "head": head,
                        "effect": rng.random(),
                    }
                )
    circuit["stages"].sort(key=lambda stage: stage["layer"])
    ids = [each["id"] for each in circuit["nodes"]]
    circuit["links"] = [
        {"source": rng.choice(ids), "target": rng.choice(ids), "weight": rng.uniform(-1, 1), "kind": "weight"}
        for _ in range(3000)
    ]
    circuit["attention"] = []
    return circuit


# As many shapes as that page draws, put into an empty one: what the machine can do, while other tests run beside.
BARE_DRAWING = """() => {
  const begun = performance.now(), svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const put = (parent, kind, values) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(values)) made.setAttribute(name, value);
    return parent.appendChild(made);
  };
  for (let i = 0; i < 3000; i++) put(svg, "path", { d: `M${i % 900},9 C9,9 300,${i % 700} 400,400`, class: "edge", stroke: "#333", "data-at": i });
  for (let i = 0; i < 1000; i++) {
    const node = put(svg, "g", { class: "node", transform: `translate(${i % 900},${i % 700})`, tabindex: 0, "aria-label": `node ${i}` });
    put(node, "circle", { r: 8, class: "ring" });
    put(node, "text", { y: 4 }).textContent = String(i);
    put(node, "title", {}).textContent = `node ${i}`;
  }
  document.body.append(svg);
  svg.getBoundingClientRect();
  for (const each of svg.querySelectorAll("text")) each.getBBox();
  const took = performance.now() - begun;
  svg.remove();
  return took;
}"""


def test_a_thousand_nodes_load_and_answer_quickly(opened, browser, toy, tmp_path):
    """In times of what it takes to draw as much and nothing else; see docs/results.md#its-pages for seconds."""
    data = thousand_nodes(circuit_data(toy[3]))
    assert len(data["nodes"]) > 980
    (tmp_path / "p.html").write_text(render({"version": 1, "live": False, "models": [], "circuits": [data]}), encoding="utf-8")
    loads, selects, hides = [], [], []
    select = "id => { const before = performance.now(); update({ node: id }); document.body.offsetHeight; return performance.now() - before; }"
    hide = "value => { const before = performance.now(); update({ threshold: value }); document.body.offsetHeight; return performance.now() - before; }"
    for _ in range(3):
        page = opened((tmp_path / "p.html").as_uri())
        assert page.locator(".node").count() == len(data["nodes"])
        bare = page.evaluate(BARE_DRAWING)
        loads.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / bare)
        selects.append(median(page.evaluate(select, node["id"]) for node in data["nodes"][:8]) / bare)
        hides.append(median(page.evaluate(hide, value / 20) for value in range(1, 6)) / bare)
    assert min(loads) < 20
    assert min(selects) < 2
    assert min(hides) < 2
