"""Pages that run their model: bytes, seconds until the first prompt has been run, milliseconds of a prompt of 32 tokens and of a switched node.

    python benchmarks/page.py .                     # every circuit that ships with a model, each with the model in its page
    python benchmarks/page.py --largest             # a model of csp_yolo2's shape and densities, random weights

In Chromium (`make browser`), from file://, offline; the model runs in the page's worker. Medians of some prompts, with their range.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import sync_playwright
from side_by_side import machine
from sparse import random_model, yolo2

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import mean_activations
from sparse_circuits.circuits.edges import edges_in
from sparse_circuits.circuits.identity import identify, tokenizer_sha256
from sparse_circuits.viewer import Subject, write_page

PROMPTS = 9
MEASURED = """async (count) => {
  const text = "def f(a, b):\\n    return [a, b, 'c', 4]\\n\\nfor i in range(10):\\n    x = a + i", runs = [], switched = [], whole = [];
  const node = current().nodes.find((each) => each.site.endsWith("mlp.post_act")) ?? current().nodes[0];
  let tokens = 0;
  for (let i = 0; i < count; i++) {
    const begun = performance.now(), found = await runHere(0, text + i);
    whole.push(performance.now() - begun);
    runs.push(found.milliseconds);
    tokens = found.tokens.length;
    state.changes = { 0: { [node.id]: "off" } };
    switched.push((await runHere(0, text + i)).milliseconds);
    state.changes = {};
  }
  return { tokens, runs, switched, whole };
}"""


def median(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ms ({min(values):.0f} to {max(values):.0f})"


def measured(browser: Any, file: Path, name: str) -> None:
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_function("() => results.get(0)?.now || results.get(0)?.error", timeout=120_000)
    ready = page.evaluate("() => performance.now()") / 1000
    page.wait_for_timeout(2000)
    found = page.evaluate(MEASURED, PROMPTS)
    page.close()
    print(
        f"{name}: {file.stat().st_size / 1e6:.1f} MB; first prompt after {ready:.1f} s; a prompt of {found['tokens']} tokens, model and circuit, {median(found['runs'])}, "
        f"until the page has it {median(found['whole'])}; a node switched off {median(found['switched'])}",
        flush=True,
    )


def largest() -> Subject:
    """csp_yolo2's shape (8 layers, width 2048) and densities, with a circuit of four random nodes at each site."""
    model = random_model(yolo2(8), 1 / 1024, 1 / 128).to_sparse()
    tokenizer = CSPTokenizer.from_pretrained(Path(__file__).parents[1])
    generator = torch.Generator().manual_seed(0)
    means = mean_activations(model, torch.randint(0, 2048, (2, 64), generator=generator))
    sites = {name: site.width for name, site in model.node_sites().items()}
    nodes = {name: torch.randperm(width, generator=generator)[:4].sort().values for name, width in sites.items()}
    circuit = Circuit(
        task="random", nodes=nodes, edges=edges_in(model, nodes), means=means.values, widths=sites, model=identify(model),
        tokenizer=tokenizer_sha256(tokenizer), settings={"means": {"tokens": means.count}}, metrics={},
    )  # fmt: skip
    return Subject(circuit, model, tokenizer, contexts=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path("."))
    parser.add_argument("--task", action="append", help="default: every circuit of the model")
    parser.add_argument("--largest", action="store_true")
    given = parser.parse_args()
    print(machine(f"{PROMPTS} prompts"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        if given.largest:
            measured(browser, write_page([largest()], Path(folder) / "page.html", runs=True), "csp_yolo2's shape")
            return
        model, tokenizer = (
            CSPForCausalLM.from_pretrained(given.model, sparse=True).eval(),
            CSPTokenizer.from_pretrained(given.model),
        )
        for path in sorted(given.model.glob("circuits/*/circuit.json")):
            if given.task is None or path.parent.name in given.task:
                subject = Subject.of(path.parent, model, tokenizer, contexts=0)
                if not subject.circuit.num_nodes:  # nothing to switch off
                    continue
                measured(browser, write_page([subject], Path(folder) / "page.html", runs=True), path.parent.name)


if __name__ == "__main__":
    main()
