"""Activations as parquet: each row what the model computes there, read back by `datasets`, streaming too."""

import json
import re
import subprocess

import pytest
import torch
from datasets import load_dataset
from typer.testing import CliRunner

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits.identity import identify
from sparse_circuits.cli.app import app
from sparse_circuits.convert.activations import hook_names, save_activations
from tiny import ROOT, tiny_ids, tiny_model

SITES = ["0.attn.act_in", "1.mlp.post_act", "final_resid"]


class Numbers:
    def decode(self, ids):
        return f"<{ids[0]}>"

    def get_vocab(self):
        return {str(i): i for i in range(97)}


def by_hand(model, ids, site):
    found = []
    handle = model.node_sites()[site].register_forward_hook(lambda module, args, out: found.append(out.detach()))
    with torch.no_grad():
        for row in ids:  # one by one: batches change nothing
            model(row[None])
    handle.remove()
    return torch.cat(found)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_what_the_model_computes(streaming, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("sparse_circuits.convert.activations.ROWS", 30)  # several files
    model, ids = tiny_model(afrac={"mlp_neuron": 0.25}), tiny_ids(7, 10)
    save_activations(model, Numbers(), ids, SITES, tmp_path / "out", dtype=dtype, batch=2)
    files = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(files) == 3
    found = load_dataset(
        "parquet",
        data_files=[str(file) for file in files],
        split="train",
        streaming=streaming,
        cache_dir=str(tmp_path / "cache"),
    )
    rows = list(found)
    assert len(rows) == 70
    assert [(row["block"], row["position"], row["token"]) for row in rows] == [
        (i, t, int(ids[i, t])) for i in range(7) for t in range(10)
    ]
    assert rows[3]["text"] == f"<{int(ids[0, 3])}>"
    for site in SITES:
        values = torch.tensor([row[site] for row in rows]).view(7, 10, -1)
        assert (values - by_hand(model, ids, site)).abs().max() < (1e-5 if dtype == "float32" else 1e-2)
    about = json.loads((tmp_path / "out" / "activations.json").read_text())
    assert about["model"] == identify(model)
    assert about["sites"] == {site: model.node_sites()[site].width for site in SITES}
    assert about["tokens"] == 70


@pytest.mark.parametrize(
    ("sites", "options", "said"),
    [
        (["0.mlp.nothing"], {}, "'0.mlp.nothing' is no site of this model; they are 0.attn.act_in"), ([], {}, "Sites must be named, each once"),
        (["final_resid"] * 2, {}, "each once"), (["final_resid"], {"dtype": "int8"}, "dtype is 'int8'; it must be float32 or float16"),
    ],
)  # fmt: skip
def test_wrong_input_is_named_and_nothing_is_written(sites, options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        save_activations(tiny_model(), Numbers(), tiny_ids(2, 8), sites, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_half_precision_is_refused(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"final_resid has activations up to .*, beyond float16; take float32"):
        save_activations(model, Numbers(), tiny_ids(2, 8), ["final_resid"], tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_the_command_on_the_model_that_ships(tmp_path):
    out = tmp_path / "out"
    words = [
        "activations",
        str(ROOT),
        "--site",
        "0.mlp.post_act",
        "--out",
        str(out),
        "--corpus",
        "idioms:20",
        "--tokens",
        "300",
    ]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    rows = list(load_dataset("parquet", data_files=str(out / "*.parquet"), split="train", streaming=True))
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT).eval(), CSPTokenizer.from_pretrained(ROOT)
    first = [row for row in rows if row["block"] == 0]
    expected = by_hand(model, torch.tensor([[row["token"] for row in first]]), "0.mlp.post_act")
    assert (torch.tensor([row["0.mlp.post_act"] for row in first]) - expected[0]).abs().max() < 1e-4
    assert "".join(row["text"] for row in first) == tokenizer.decode([row["token"] for row in first])


def test_every_site_has_its_module_under_the_names_that_are_told():
    model = tiny_model()
    for name, site in model.node_sites().items():
        assert model.get_submodule(hook_names(name)["module"]) is site
        assert model.base_model.get_submodule(hook_names(name)["sparsify"]) is site


@pytest.mark.slow
def test_dictionaries_are_trained_by_saelens_and_sparsify():
    """In the environment that `make beside` makes."""
    python = ROOT / ".venv-beside" / "bin" / "python"
    if not (ROOT / ".venv-beside" / ".installed").is_file():
        pytest.skip("needs SAELens and sparsify; `make beside` installs them beside the environment")
    words = ["benchmarks/dictionaries.py", str(ROOT), "--tokens", "12000", "--corpus", "idioms:600", "--steps", "60"]
    done = subprocess.run([str(python), *words], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = re.findall(r"^\| (\w+), .* \| ([\d.]+) \| ([\d.]+) \|$", done.stdout, re.M)
    assert [name for name, _, _ in rows] == ["SAELens", "sparsify", "sparsify"]
    for _, before, after in rows:
        assert float(after) < min(1.0, float(before))  # 1: the mean alone
    assert float(rows[0][2]) < 0.5
