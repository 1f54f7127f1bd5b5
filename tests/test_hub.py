"""Folders: saved, loaded by the Auto classes with and without this package, on CPU, meta and by device map."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers.modeling_utils as modeling_utils
import transformers.utils.hub as hub
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from elsewhere import run_elsewhere
from sparse_circuits import CSPForCausalLM, CSPModel
from sparse_circuits.corpora.blocks import split_blocks
from sparse_circuits.corpora.mixture import load_corpus
from sparse_circuits.corpora.ngrams import ngram_losses
from sparse_circuits.training import sparse_tensors
from tiny import ROOT, tiny_ids, tiny_model

CODE = {f"{name}_csp.py" for name in (
    "configuration", "modeling", "attention", "topk", "nonzeros", "sparse_form", "sparse_file", "wiring",
)}  # fmt: skip


@pytest.fixture
def saved(features, tmp_path):
    model = tiny_model(**features)
    model.save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


def test_save_and_load_are_bit_exact(saved):
    model, folder = saved
    loaded, info = CSPForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, loaded.state_dict()[name]), name
    for (name, parameter), other in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert parameter.requires_grad == other.requires_grad, name
    assert torch.equal(loaded(tiny_ids()).logits, model(tiny_ids()).logits)


def test_a_saved_folder_is_complete_and_has_no_pickle(saved):
    _, folder = saved
    names = {path.name for path in folder.iterdir()}
    assert names >= CODE | {"config.json", "model.safetensors"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}


def test_auto_classes_know_the_package_without_remote_code(saved):
    model, folder = saved
    assert type(AutoModelForCausalLM.from_pretrained(folder)) is CSPForCausalLM
    base = AutoModel.from_pretrained(folder)
    assert type(base) is CSPModel
    assert torch.equal(base(tiny_ids()).last_hidden_state, model.transformer(tiny_ids()).last_hidden_state)
    assert AutoConfig.from_pretrained(folder).to_diff_dict() == model.config.to_diff_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_from_pretrained_with_dtype(saved, dtype):
    model, folder = saved
    loaded = CSPForCausalLM.from_pretrained(folder, dtype=dtype)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.to(dtype))


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_device_map(saved, device_map):
    model, folder = saved
    loaded = CSPForCausalLM.from_pretrained(folder, device_map=device_map, low_cpu_mem_usage=True)
    torch.testing.assert_close(loaded(tiny_ids()).logits, model(tiny_ids()).logits, atol=1e-5, rtol=1e-5)


def test_builds_on_meta(features):
    with torch.device("meta"):
        model = CSPForCausalLM(tiny_model(**features).config)
    assert all(p.is_meta for p in model.parameters())
    assert model(tiny_ids().to("meta")).logits.shape == (3, 17, 97)


def test_sharded_checkpoints_load(tmp_path):
    model = tiny_model(enable_bigram_table=True)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(CSPForCausalLM.from_pretrained(tmp_path)(tiny_ids()).logits, model(tiny_ids()).logits)


def test_a_base_checkpoint_loads_into_the_head_and_back(tmp_path):
    model = tiny_model()
    model.transformer.save_pretrained(tmp_path)
    loaded = CSPForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.transformer(tiny_ids()).last_hidden_state, model.transformer(tiny_ids()).last_hidden_state)


def test_remote_code_works_where_the_package_is_not_importable(saved, tmp_path):
    model, folder = saved
    assert "fine" in run_elsewhere(folder, model, tmp_path)


def test_remote_code_on_transformers_4_57(saved, tmp_path):
    """Runs where `make compat` has put transformers 4.57 (CI does)."""
    compat = ROOT / ".venv-compat"
    if not (compat / "transformers").is_dir():
        pytest.skip("needs transformers 4.57; `make compat` installs it beside the environment")
    model, folder = saved
    assert "transformers 4.57" in run_elsewhere(folder, model, tmp_path, python_path=str(compat))


@pytest.mark.parametrize(("corpus", "every"), [("stdlib", 30), ("idioms:3000", 4)])
def test_the_shipped_model_knows_more_than_the_last_token(corpus, every):
    """On files of this interpreter's library, and on programs of idioms, that its training held out (by name, so on any Python).

    On the library it is held to its own bigram table and to what the previous token says in general; a bigram that is counted on
    that library alone knows its names, and is better (docs/results.md).
    """
    assert (ROOT / "sparse_weights.safetensors").stat().st_size < 10_000_000
    assert (ROOT / "generation_config.json").is_file()
    model = AutoModelForCausalLM.from_pretrained(ROOT, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(ROOT)
    assert len(tokenizer) == model.config.vocab_size
    assert {t.name for t in sparse_tensors(model) if t.parameter.count_nonzero() > t.count(0.1251)} == set()
    train, held_out = split_blocks(load_corpus(corpus), tokenizer, 128)
    ids = held_out[::every].long()
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
        table = (model.bigram_table(ids) + model.final_logits_bias)[:, :-1]
    alone = torch.nn.functional.cross_entropy(table.flatten(0, 1), ids[:, 1:].flatten()).item()
    counted = ngram_losses(train, ids, 2048)
    assert loss < alone - 1
    assert loss < counted["unigram"] - 2
    assert corpus == "stdlib" or loss < counted["bigram"] - 1


def test_the_shipped_folder_is_remote_code_too(tmp_path):
    code = "from transformers import *; m = AutoModelForCausalLM.from_pretrained(%r, trust_remote_code=True); print(type(m))"
    site = os.path.dirname(os.path.dirname(torch.__file__))
    env = {**os.environ, "PYTHONPATH": site, "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run([sys.executable, "-S", "-c", code % str(ROOT)], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "transformers_modules." in done.stdout


def test_push_to_hub_carries_code_and_weights(tmp_path, monkeypatch):
    """With the client's two calls replaced: what would be uploaded is a folder that loads. (A server on loopback comes with publishing.)"""
    repo = tmp_path / "repo"
    repo.mkdir()

    class Api:
        def create_repo(self, repo_id, **kwargs):
            return SimpleNamespace(repo_id=repo_id)

        def create_commit(self, repo_id, operations, **kwargs):
            for operation in operations:
                with operation.as_file() as file:
                    (repo / operation.path_in_repo).write_bytes(file.read())
            return SimpleNamespace(oid="0")

    monkeypatch.setattr(hub, "hf_api", Api)
    monkeypatch.setattr(modeling_utils, "hf_api", Api)
    model = tiny_model(sink=True)
    model.push_to_hub("someone/model")
    assert {path.name for path in repo.iterdir()} >= CODE | {"config.json", "model.safetensors"}
    loaded = CSPForCausalLM.from_pretrained(repo)
    assert torch.equal(loaded(tiny_ids()).logits, model(tiny_ids()).logits)
