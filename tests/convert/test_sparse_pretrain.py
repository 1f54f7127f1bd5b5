"""Models in sparse_pretrain's format, made here from its description, against a plain second implementation; what is foreign is refused by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_sparse_gpt import MODEL, SPARSITY, plain_logits, state_dict, write
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.cli.app import app
from sparse_circuits.convert.sparse_pretrain import (
    config_from_sparse_pretrain,
    convert_sparse_pretrain,
    is_sparse_pretrain,
    read_sparse_pretrain,
)
from tiny import ROOT

CASES = {
    "as released": ({}, {}), "no sinks": ({"use_attention_sinks": False}, {}), "sinks that nobody uses": ({"use_flash_attention": False}, {}),
    "positions": ({"use_positional_embeddings": True}, {}), "layer norm": ({"use_rms_norm": False, "activation": "relu"}, {}),
    "tied": ({"tie_embeddings": True, "use_bigram_table": False}, {}), "no bias": ({"use_bias": False}, {}), "dense": ({}, {"enable_activation_sparsity": False}),
    "some places": ({"d_mlp": 48}, {"activation_sparsity_locations": "attn_in,mlp_neuron,resid_mid", "activation_topk_fraction": 0.5}),
    "the stream": ({"use_positional_embeddings": True}, {"activation_sparsity_locations": "mlp_out,resid_mid,resid_pre", "activation_topk_fraction": 0.5}),
}  # fmt: skip


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_projects(case, safe, tmp_path):
    model, sparsity, weights = write(tmp_path / "source", *CASES[case], safe=safe)
    assert is_sparse_pretrain(tmp_path / "source")
    convert_sparse_pretrain(tmp_path / "source", tmp_path / "ours")
    ids = torch.randint(0, 50, (4, 17), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()(ids).logits
    expected = plain_logits({name: t.double() for name, t in weights.items()}, model, sparsity, ids)
    assert (found - expected).abs().max() < 1e-5
    config = CSPForCausalLM.from_pretrained(tmp_path / "ours").config
    assert config.provenance["source"] == "sparse_pretrain/source"
    assert config.provenance.get("sinks_without_effect", False) == (case == "sinks that nobody uses")


def test_every_part_matters_in_the_plain_twin(tmp_path):
    model, sparsity, weights = write(tmp_path / "source")
    ids = torch.arange(12)[None]
    expected = plain_logits(weights, model, sparsity, ids)
    for name, tensor in weights.items():
        changed = {**weights, name: tensor + 0.5 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))}
        assert (plain_logits(changed, model, sparsity, ids) - expected).abs().max() > 1e-4, name


def test_compiled_checkpoints_are_read(tmp_path):
    write(tmp_path / "source", weights={f"_orig_mod.{name}": tensor for name, tensor in state_dict(MODEL).items()})
    write(tmp_path / "plain")
    one, other = (read_sparse_pretrain(tmp_path / name)[1] for name in ("source", "plain"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_tokenizer_comes_along(tmp_path):
    CSPTokenizer.from_folder(ROOT).save_pretrained(tmp_path / "tokenizer")
    write(tmp_path / "source", {"vocab_size": 2048})
    convert_sparse_pretrain(tmp_path / "source", tmp_path / "ours", tokenizer=tmp_path / "tokenizer")
    found = CSPTokenizer.from_pretrained(tmp_path / "ours")
    assert found.encode("print('x')") == CSPTokenizer.from_folder(ROOT).encode("print('x')")
    write(tmp_path / "small")
    with pytest.raises(ValueError, match="2048 tokens and the model 50"):
        convert_sparse_pretrain(tmp_path / "small", tmp_path / "other", tokenizer=tmp_path / "tokenizer")
    assert not (tmp_path / "other").exists()
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json"):
        convert_sparse_pretrain(tmp_path / "small", tmp_path / "other", tokenizer=tmp_path)


@pytest.mark.parametrize(
    ("model", "sparsity", "said"),
    [
        ({"rope": True}, {}, "unknown key 'rope' in model_config"), ({}, {"soft_topk": 1}, "unknown key 'soft_topk' in sparsity_config"),
        ({"activation": "silu"}, {}, "activation='silu', which is not supported"), ({"d_head": 7}, {}, "no multiple of d_head 7"),
        ({"n_layer": 0}, {}, "n_layer=0; it must be a whole number"), ({"vocab_size": None}, {}, "vocab_size=None; it must be a whole number"),
        ({"use_bias": 1}, {}, "use_bias=1; it must be true or false"), ({}, {"activation_topk_fraction": True}, "must be a fraction"),
        ({}, {"activation_topk_fraction": 0.01}, "keeps no entry at attn_in, where the project keeps one"), ({}, {"activation_topk_fraction": 2}, "must be a fraction"),
    ],
)  # fmt: skip
def test_what_would_change_the_function_is_refused_by_name(model, sparsity, said):
    with pytest.raises(ValueError, match=said):
        config_from_sparse_pretrain({"model_config": {**MODEL, **model}, "sparsity_config": {**SPARSITY, **sparsity}})


@pytest.mark.parametrize("change", ["lacks", "more", "shape", "whole numbers", "truncated", "foreign", "none"])
def test_damaged_weights_are_refused(change, tmp_path):
    weights = state_dict(MODEL)
    if change == "lacks":
        del weights["ln_f.weight"]
    if change == "more":
        weights["blocks.0.attn.rotary"] = torch.zeros(3)
    if change == "shape":
        weights["wte.weight"] = weights["wte.weight"][:-1]
    if change == "whole numbers":
        weights["ln_f.weight"] = torch.arange(32)
    write(tmp_path / "source", weights=weights)
    file = tmp_path / "source" / "pytorch_model.bin"
    if change == "truncated":
        file.write_bytes(file.read_bytes()[:-500])
    if change == "foreign":
        torch.save({"model": object}, file)
    if change == "none":
        file.unlink()
    said = {"lacks": "lacks transformer.final_norm.weight", "more": "rotary, which the model of config.json does not have", "shape": "has shape",
            "whole numbers": "must be floating point", "truncated": "damaged|truncated", "foreign": "no state dict|plain tensors", "none": "has neither"}  # fmt: skip
    with pytest.raises((ValueError, FileNotFoundError), match=said[change]):
        convert_sparse_pretrain(tmp_path / "source", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(), lambda each: st.lists(each, max_size=3) | st.dictionaries(st.sampled_from([*MODEL, *SPARSITY, "model_config", "sparsity_config"]), each, max_size=5), max_leaves=12))  # fmt: skip
def test_no_config_ends_in_anything_but_one_sentence(found):
    for document in (
        found,
        {"model_config": {**MODEL, **(found if isinstance(found, dict) else {})}, "sparsity_config": SPARSITY},
    ):
        said = ""
        try:
            config_from_sparse_pretrain(document)
        except ValueError as error:
            said = str(error)
        assert len(said.splitlines()) <= 1


def test_the_command_tells_the_formats_apart(tmp_path):
    write(tmp_path / "source")
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "source"), str(tmp_path / "ours")])
    assert done.exit_code == 0, done.output
    assert CSPForCausalLM.from_pretrained(tmp_path / "ours").config.n_layer == 2
    done = CliRunner().invoke(app, ["convert", "nobody/nothing", str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "nobody/nothing is no folder, and could not be read from the Hub" in done.output


def test_it_is_told_from_other_folders(tmp_path):
    assert not is_sparse_pretrain(tmp_path)
    assert not is_sparse_pretrain(ROOT)
    (tmp_path / "config.json").write_text("{")
    assert not is_sparse_pretrain(tmp_path)
