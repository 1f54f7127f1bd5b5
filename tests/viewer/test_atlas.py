"""The atlas: every circuit and node is there, text stays text, the index works in a browser, the command writes a whole folder."""

import copy
import re
import shutil

import pytest
import torch
from typer.testing import CliRunner

from sparse_circuits import Circuit
from sparse_circuits.circuits import mean_activations
from sparse_circuits.cli.app import app
from sparse_circuits.viewer.atlas import Entry, atlas, write_atlas
from tiny import ROOT
from toy import NODES, toy_blocks, toy_circuit, toy_model

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


def entries(label="reads quotes"):
    model = toy_model()
    whole = toy_circuit(model, mean_activations(model, toy_blocks()))
    half = copy.deepcopy(whole)
    half.nodes = {site: nodes[:1] for site, nodes in whole.nodes.items()}
    half.task = "half"
    whole.labels = {"0.mlp.post_act:1": label}
    return [
        Entry("quotes", whole, "prefers, produces", "100.00% of 24 prompts", {"quotes.program.py": "exact program"}),
        Entry("half", half),
    ]


def test_every_circuit_and_node_is_there():
    text = atlas(entries(), "toy")
    rows = re.findall(r'<tr data-circuits="(\d)" data-text="([^ "]+)', text)
    wanted = {f"{site}:{i}" for site, indices in NODES.items() for i in indices}
    assert {node for _, node in rows} == wanted
    assert {node for count, node in rows if count == "2"} == {f"{site}:{indices[0]}" for site, indices in NODES.items()}
    assert "2 circuits, 12 nodes, 8 of them in more than one" in text
    assert text.count('class="cell on"') == 12 + 8
    assert '<a href="quotes.program.py">exact program</a>' in text


def test_text_stays_text_and_one_model_is_asked_for():
    text = atlas(entries(HOSTILE), HOSTILE)
    assert "<img" not in text
    assert text.count("</script>") == 1
    other = entries()
    other[1].circuit.model = {"weights": "0" * 64}
    with pytest.raises(ValueError, match="of different models"):
        atlas(other, "toy")
    with pytest.raises(ValueError, match="There is no circuit"):
        atlas([], "toy")


def test_the_index_in_a_browser(opened, tmp_path):
    page = opened(write_atlas(entries(HOSTILE), "toy", tmp_path).as_uri())
    visible = "#nodes tbody tr:not([hidden])"
    assert page.locator(visible).count() == 8  # those in both
    assert page.inner_text("#count") == "8 of 12 nodes"
    page.uncheck("#shared")
    assert page.locator(visible).count() == 12
    page.fill("#search", "mlp.post_act")
    assert page.locator(visible).count() == 2
    assert HOSTILE in page.inner_text("#nodes")
    again = opened(page.url)  # what was chosen is in the address
    assert again.locator(visible).count() == 2
    page.hover("#nodes tbody tr:not([hidden]) td.cell")
    assert page.locator("#nodes .lit").count() == 13
    small = opened(page.url)
    small.set_viewport_size({"width": 380, "height": 700})
    assert small.evaluate("document.documentElement.scrollWidth") <= 380


def test_the_command_writes_a_folder(tmp_path, opened):
    """Of two circuits; tests/test_docs.py has the one of all that ship."""
    shipped, model = ["if_equals", "single_double_quote"], tmp_path / "model"
    model.mkdir()
    for name in (
        "config.json",
        "generation_config.json",
        "sparse_weights.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        shutil.copyfile(ROOT / name, model / name)
    for task in shipped:
        shutil.copytree(ROOT / "circuits" / task, model / "circuits" / task)
    done = CliRunner().invoke(app, ["atlas", str(model), "--out", str(tmp_path / "atlas"), "--contexts", "0"])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "atlas" / "index.html").read_text()
    for place, task in enumerate(shipped):
        assert f'<a href="circuits.html#circuit={place}">{task}</a>' in text
        assert f'href="{task}.certificate.json"' in text
    page = opened((tmp_path / "atlas" / "circuits.html").as_uri() + f"#circuit={len(shipped) - 1}")
    assert page.inner_text("#title") == f"Circuit for {shipped[-1]}"
    page.wait_for_function("() => results.get(state.circuit)")  # the model runs
    done = CliRunner().invoke(app, ["atlas", str(tmp_path), "--out", str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "find a circuit with csp prune" in done.output


def test_a_circuit_of_the_model_that_ships_has_its_nodes():
    circuit = Circuit.from_pretrained(ROOT, "single_double_quote")
    text = atlas([Entry("single_double_quote", circuit)], "shipped")
    assert text.count("<tr data-circuits") == circuit.num_nodes == sum(map(len, circuit.nodes.values()))
    assert torch.is_tensor(next(iter(circuit.nodes.values())))
