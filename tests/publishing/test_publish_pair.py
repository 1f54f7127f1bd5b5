"""Bridged pairs on the Hub: a stand-in over HTTP."""

import dataclasses
import json
import shutil

import pytest
import torch
from published import TASK, client, cut, damaged, edit, refused, text
from safetensors.torch import save_file

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.bridges import BridgedPair, side_of
from sparse_circuits.bridges.evaluate import constant_bridges
from sparse_circuits.convert import publish
from sparse_circuits.wiring_csp import reads_residual
from tiny import ROOT

WIDTH = json.loads((ROOT / "config.json").read_text())["d_model"]


def few_nodes(circuit):
    """Two reads of the residual stream: each node of a pair's page pushes the dense model some hundred times."""
    sites = [site for site in circuit.nodes if reads_residual(site)][:2]
    return dataclasses.replace(circuit, nodes={site: circuit.nodes[site][:1] for site in sites}, edges={}, labels={})


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory):
    """The shipped model bridged to itself, with its circuit and figures; and things that do not belong on the Hub."""
    folder = tmp_path_factory.mktemp("made") / "pair"
    dense, sparse = (CSPForCausalLM.from_pretrained(ROOT).eval() for _ in range(2))
    bridges = constant_bridges(side_of(dense), side_of(sparse), "identity")
    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    points = [{"fve": 1.0, "loss": 2.0}] * bridges.points
    report = {"dense": 2.0, "sparse": 2.0, "encode": points, "decode": points}
    BridgedPair(dense, sparse, tokenizer, bridges).save_pretrained(folder, {"report.json": json.dumps(report)})
    few_nodes(Circuit.from_pretrained(ROOT, TASK)).save_pretrained(folder / "circuits" / TASK)
    blocks = torch.randint(0, len(tokenizer), (8, 64), generator=torch.Generator().manual_seed(0))
    save_file({"train": blocks.int()}, folder / "blocks.safetensors")
    (folder / "sparse" / "optimizer.pt").write_bytes(b"pickle")
    return folder


LOAD_PAIR = """
import torch
from sparse_circuits import Circuit
from sparse_circuits.bridges import BridgedPair
pair = BridgedPair.from_pretrained("user/pair")
circuit = Circuit.from_pretrained("user/pair", "single_double_quote")
ids = torch.arange(16)[None]
with torch.no_grad(), circuit.applied_to(pair.sparse.model):
    print(float(pair.sparse.model(ids).logits.sum()), pair.bridges.points)
"""


def test_a_pair_with_a_circuit_there_and_back(hub, cache, pair_folder):
    done = client(hub, cache, "publish", pair_folder, "--repo-id", "user/pair", "--space", "user/look")
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("blocks.safetensors", "sparse/optimizer.pt"):
        assert f"stays here: {name}" in done.stdout
    files = hub.repos["models/user/pair"]["branches"]["main"][-1]["files"]
    wanted = {
        "bridges.json",
        "bridges.safetensors",
        "dense/config.json",
        "sparse/modeling_csp.py",
        f"circuits/{TASK}/circuit.json",
    }
    assert wanted <= set(files)
    card = files["README.md"].decode()
    assert 'BridgedPair.from_pretrained("user/pair")' in card
    assert "| 0 | 1.000 | 2.000 | 1.000 | 2.000 |" in card
    assert f"| {TASK} | 0 |" in card
    assert "with circuit.applied_to(pair.sparse.model):" in card
    page = files[f"circuits/{TASK}/page.html"].decode()
    assert '"steering":{"strengths"' in page
    done = client(hub, cache, code=LOAD_PAIR, token=False)
    assert done.returncode == 0, done.stderr[-3000:]
    total, points = done.stdout.split()
    model = CSPForCausalLM.from_pretrained(ROOT).eval()
    with torch.no_grad(), Circuit.from_pretrained(pair_folder, TASK).applied_to(model):
        assert float(total) == pytest.approx(float(model(torch.arange(16)[None]).logits.sum()), rel=1e-3)
    assert int(points) == 2 * model.config.n_layer + 1
    # the page of a pair on the Hub
    page = cache.parent / "p.html"
    done = client(hub, cache, "view", "user/pair", TASK, "--corpus", "idioms:100", "--tokens", 1000, "--out", page, token=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"steering":{"strengths"' in page.read_text(encoding="utf-8")
    # a model in the pair's place: nothing of the pair is left
    folder = cache.parent / "model"
    folder.mkdir()
    for path in [each for pattern in ("*_csp.py", "*.json", "*.safetensors") for each in ROOT.glob(pattern)]:
        shutil.copyfile(path, folder / path.name)
    shutil.copytree(ROOT / "circuits" / TASK, folder / "circuits" / TASK)
    done = client(hub, cache, "publish", folder, "--repo-id", "user/pair")
    assert done.returncode == 0, done.stderr[-3000:]
    files = hub.repos["models/user/pair"]["branches"]["main"][-1]["files"]
    assert not [name for name in files if name.startswith(("dense/", "sparse/", "bridges"))]
    assert '"steering":{"strengths"' not in files[f"circuits/{TASK}/page.html"].decode()


WRONG_PAIRS = {
    "no dense model": (lambda c: shutil.rmtree(c / "dense"), "has no dense/"),
    "no tokenizer": (lambda c: (c / "dense" / "tokenizer.json").unlink(), "copy has no dense/tokenizer.json"),
    "a recipe that is no YAML": (text("recipe.yaml", "a: [1\n"), "recipe.yaml is damaged: it is no YAML"),
    "a relative path in the recipe": (text("recipe.yaml", "corpora: {../client/src: 1.0}\n"), "among its values"),
    "damaged figures of a part": (text("dense/report.json", "junk"), "dense/report.json is damaged"),
    "damaged bridges.json": (text("bridges.json", "{}"), "copy/bridges.json describes no bridges"),
    "other widths": (edit("bridges.json", lambda t: t.replace(f'"dense_width": {WIDTH}', '"dense_width": 1048576')), f"says dense_width 1048576, its models have {WIDTH}"),
    "figures of another pair": (text("report.json", '{"dense": 1.0, "sparse": 1.0, "encode": [], "decode": []}'), "it has other points than the bridges"),
    "no weights": (lambda c: (c / "dense" / "sparse_weights.safetensors").unlink(), "dense has no weights in safetensors"),
    "cut bridges": (cut("bridges.safetensors"), "does not hold these bridges"),
    "cut weights": (cut("sparse/sparse_weights.safetensors"), "is damaged|must be"),
    "code that does not run": (edit("sparse/modeling_csp.py", lambda t: "import nothing_like_this\n" + t), "does not load in a new process"),
    "another report": (text("report.json", "[1]"), "report.json is not what csp bridge train writes"),
    "a path in a config": (edit("dense/config.json", lambda t: t.replace('"model_type"', '"note": {"from": "/home/alice/x"}, "model_type"')), "dense/config.json has a path"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_PAIRS)
def test_what_is_wrong_with_a_pair_is_found_before_a_byte_leaves(what, pair_folder, hub, tmp_path, monkeypatch):
    assert "csp-publish" not in refused(pair_folder, hub, tmp_path, monkeypatch, WRONG_PAIRS[what], "user/pair", hub.token)


def test_a_pair_whose_text_is_all_secret_has_pages_without_it(pair_folder, hub, tmp_path):
    def change(copy):
        tokenizer = CSPTokenizer.from_pretrained(ROOT)
        ids = tokenizer("hf_" + "a" * 34, return_tensors="pt").input_ids
        save_file({"train": ids.int()}, copy / "blocks.safetensors")

    said = []
    plan = publish(damaged(pair_folder, tmp_path, change), "user/pair", dry_run=True, say=said.append)
    assert any("look like a secret" in line or "looks like a secret" in line for line in said)
    assert plan.circuits == [TASK]


def test_a_pair_whose_text_is_missing_says_what_pages_lack(pair_folder, tmp_path):
    said = []
    publish(
        damaged(pair_folder, tmp_path, lambda c: (c / "blocks.safetensors").unlink()),
        "user/pair",
        dry_run=True,
        say=said.append,
    )
    assert any("what nodes mean to the dense model" in line for line in said)
