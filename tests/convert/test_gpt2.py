"""GPT-2-shaped models of transformers and of nanoGPT, pruned ones too: the same logits, or a refusal by name."""

import json
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.utils import prune
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig
from typer.testing import CliRunner

from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import Circuit, load_task
from sparse_circuits.cli.app import app
from sparse_circuits.convert import config_from_gpt2, config_from_nanogpt, convert_gpt2, read_gpt2
from sparse_circuits.programs.certificate import held_scales
from sparse_circuits.programs.prove import read_certificate
from sparse_circuits.programs.text import load_program
from tiny import ROOT

SMALL = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 24, "vocab_size": 60}
DROPS = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}


def gpt2(seed=0, **changes):
    """Every parameter random, biases and norms too."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**{**SMALL, **DROPS, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "ln_" in name and name.endswith("weight") else 0.0, 0.3)
    return model


def equal(model, folder, ids=None, limit=1e-4):
    ours = CSPForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(0, ours.config.vocab_size, (3, 20), generator=torch.Generator().manual_seed(1)) if ids is None else ids
    with torch.no_grad():
        assert (ours(ids).logits - model(ids).logits).abs().max() < limit
    return ours


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_function": "gelu"},
        {"activation_function": "relu"},
        {"tie_word_embeddings": False},
        {"n_inner": 48},
        {"resid_pdrop": 0.1},
    ],
    ids=lambda changes: next(iter(changes), "plain"),
)
@pytest.mark.parametrize("file", ["safetensors", "shards", "bin", "without a head"])
def test_logits_are_those_of_transformers(changes, file, tmp_path):
    model, source = gpt2(**changes), tmp_path / "source"
    if file == "without a head" and not model.config.tie_word_embeddings:
        model.transformer.save_pretrained(source)
        with pytest.raises(ValueError, match="lacks lm_head"):
            convert_gpt2(source, tmp_path / "ours")
        return
    (model.transformer if file == "without a head" else model).save_pretrained(
        source, max_shard_size="40kB" if file == "shards" else "1GB"
    )
    if file == "bin":
        (source / "model.safetensors").unlink()
        torch.save(model.state_dict(), source / "pytorch_model.bin")
    assert (file == "shards") == (source / "model.safetensors.index.json").is_file()
    convert_gpt2(source, tmp_path / "ours")
    ours = equal(model, tmp_path / "ours")
    assert ours.config.provenance["source"] == "GPT-2/source"


@pytest.mark.parametrize("permanent", [False, True])
def test_pruned_weights_stay_zero(permanent, tmp_path):
    """As torch.nn.utils.prune leaves them, with their masks or without."""
    model = gpt2()
    for block in model.transformer.h:
        for module in (block.attn.c_attn, block.mlp.c_fc):
            prune.random_unstructured(module, "weight", amount=0.9)
            if permanent:
                prune.remove(module, "weight")
    (tmp_path / "source").mkdir()
    model.config.save_pretrained(tmp_path / "source")
    torch.save(model.state_dict(), tmp_path / "source" / "pytorch_model.bin")
    convert_gpt2(tmp_path / "source", tmp_path / "ours")
    ours = equal(model, tmp_path / "ours")
    for block, theirs in zip(ours.transformer.h, model.transformer.h):
        assert torch.equal(block.attn.c_attn.weight != 0, theirs.attn.c_attn.weight.T != 0)
        assert (block.attn.c_attn.weight == 0).float().mean() > 0.85


def nano(weights, args, ids):
    """nanoGPT's forward pass from its description, in plain PyTorch."""
    heads, width, bias = args["n_head"], args["n_embd"], (lambda name: weights[name] if args["bias"] else None)
    x = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][: ids.shape[1]]
    norm = lambda x, name: F.layer_norm(x, (width,), weights[f"{name}.weight"], bias(f"{name}.bias"), 1e-5)  # noqa: E731
    for i in range(args["n_layer"]):
        at = f"transformer.h.{i}."
        q, k, v = (
            part.view(*ids.shape, heads, -1).transpose(1, 2)
            for part in F.linear(norm(x, at + "ln_1"), weights[at + "attn.c_attn.weight"], bias(at + "attn.c_attn.bias")).split(
                width, 2
            )
        )
        scores = (q @ k.transpose(2, 3) / math.sqrt(width // heads)).masked_fill(
            ~torch.ones(ids.shape[1], ids.shape[1]).tril().bool(), -math.inf
        )
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + F.linear(mixed, weights[at + "attn.c_proj.weight"], bias(at + "attn.c_proj.bias"))
        hidden = F.gelu(F.linear(norm(x, at + "ln_2"), weights[at + "mlp.c_fc.weight"], bias(at + "mlp.c_fc.bias")))
        x = x + F.linear(hidden, weights[at + "mlp.c_proj.weight"], bias(at + "mlp.c_proj.bias"))
    return norm(x, "transformer.ln_f") @ weights["lm_head.weight"].T


ARGS = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 24, "bias": True, "vocab_size": 60, "dropout": 0.1}


def nanogpt(folder, compiled=False, **changes):
    """A checkpoint as its train.py writes it: weights, optimizer, model_args, config."""
    args, generator = {**ARGS, **changes}, torch.Generator().manual_seed(3)
    d, shapes = args["n_embd"], {}
    shapes |= {"transformer.wte.weight": (args["vocab_size"], d), "transformer.wpe.weight": (args["block_size"], d)}
    for i in range(args["n_layer"]):
        at = f"transformer.h.{i}."
        for name, rows, columns in (
            ("attn.c_attn", 3 * d, d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", 4 * d, d),
            ("mlp.c_proj", d, 4 * d),
        ):
            shapes |= {f"{at}{name}.weight": (rows, columns)} | ({f"{at}{name}.bias": (rows,)} if args["bias"] else {})
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{at}{name}.weight": (d,)} | ({f"{at}{name}.bias": (d,)} if args["bias"] else {})
    shapes |= {"transformer.ln_f.weight": (d,)} | ({"transformer.ln_f.bias": (d,)} if args["bias"] else {})
    weights = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    folder.mkdir()
    stored = {("_orig_mod." if compiled else "") + name: tensor for name, tensor in weights.items()}
    for i in range(args["n_layer"]):
        stored[f"transformer.h.{i}.attn.bias"] = (
            torch.ones(1, 1, 24, 24).tril()
            if compiled
            else stored.get(f"transformer.h.{i}.attn.bias", torch.ones(1, 1, 24, 24))
        )
    torch.save(
        {
            "model": stored,
            "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
            "model_args": args,
            "iter_num": 3,
            "config": {},
        },
        folder / "ckpt.pt",
    )
    return weights, args


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_checkpoint_of_nanogpt(bias, compiled, tmp_path):
    weights, args = nanogpt(tmp_path / "source", compiled, bias=bias)
    convert_gpt2(tmp_path / "source", tmp_path / "ours")
    ours = CSPForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids = torch.randint(0, 60, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (ours(ids).logits - nano(weights, args, ids)).abs().max() < 1e-4
    assert ours.config.provenance["source"] == "nanoGPT/source"


@pytest.mark.slow
def test_from_its_files_to_a_circuit_with_its_program(tmp_path):
    """What benchmarks/gpt2.py times, at small size: positions, LayerNorm, tied embeddings, GELU by tanh."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import gpt2 as benchmark
    finally:
        sys.path.pop(0)
    benchmark.write("small", tmp_path / "gpt2")
    (tmp_path / "corpus.py").write_text("def f(x):\n    return 'a' + \"b\"\n" * 400)
    for words in benchmark.commands("small", tmp_path):
        said = CliRunner().invoke(app, words)
        assert said.exit_code == 0, said.output
    circuit = Circuit.from_pretrained(tmp_path / "quotes")
    assert 0 < circuit.num_nodes < 200
    certificate = read_certificate(tmp_path / "quotes" / "certificate.json")
    assert certificate["prompts"] > 1000
    assert certificate["right"] > 0.6 * certificate["prompts"]  # each prompt by brute force: tests/programs/test_positions.py
    model, tokenizer = CSPForCausalLM.from_pretrained(tmp_path / "model"), CSPTokenizer.from_pretrained(tmp_path / "model")
    answer = load_program((tmp_path / "quotes" / "program.py").read_text())
    pairs = load_task("single_double_quote", tokenizer).pairs(8, "test", fewer=True)
    held = held_scales(model, certificate["scales"])
    with torch.no_grad(), circuit.running(model, freeze_norms=held):
        for ids, answers in zip(pairs.prompts(), pairs.answers.tolist()):
            logits = model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
            assert all(answer(list(ids))[each] == pytest.approx(float(logits[each]), abs=1e-4) for each in answers)
    assert "<script" in (tmp_path / "page.html").read_text()


NEOX = "gpt_neox model, which has rotary positions"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06, which is not supported"), ({"activation_function": "silu"}, "activation_function='silu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"), ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"n_layer": 0}, "n_layer is 0"), ({"n_head": 5}, "no multiple of its n_head 5"), ({"n_inner": "x"}, "d_mlp is 'x'"), ({"vocab_size": None}, "vocab_size is None"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes'"), ({"model_type": "gpt_neox"}, NEOX), ({"model_type": "t5"}, "t5 model, which has nothing that is known"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)  # fmt: skip
def test_what_would_change_the_function_is_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        config_from_gpt2({**GPT2Config(**SMALL).to_dict(), **changes})


def test_a_neox_is_refused_by_the_command_too(tmp_path):
    GPTNeoXConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1).save_pretrained(tmp_path / "neox")
    said = CliRunner().invoke(app, ["convert", str(tmp_path / "neox"), str(tmp_path / "ours")])
    assert said.exit_code
    assert NEOX in " ".join(said.output.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lacks", "lacks transformer.final_norm.weight"), ("more", "rotary, which the model of config.json does not have"), ("shape", "has shape"),
        ("whole numbers", "must be floating point"), ("head", "lm_head.weight differs from the embedding"), ("mask", "without its mask"),
        ("half a mask", "without its mask"), ("truncated", "damaged|truncated"), ("foreign", "no state dict|plain tensors"), ("none", "has neither"),
    ],
)  # fmt: skip
def test_damaged_weights_are_refused(change, said, tmp_path):
    model, source = gpt2(), tmp_path / "source"
    source.mkdir()
    model.config.save_pretrained(source)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = "transformer.h.0.mlp.c_fc.weight"
    if change == "lacks":
        del weights["transformer.ln_f.weight"]
    if change == "more":
        weights["transformer.h.0.attn.rotary"] = torch.zeros(3)
    if change == "shape":
        weights["transformer.wte.weight"] = weights["transformer.wte.weight"][:-1]
        del weights["lm_head.weight"]
    if change == "whole numbers":
        weights["transformer.ln_f.weight"] = torch.arange(32)
    if change == "head":
        weights["lm_head.weight"] += 1
    if change in ("mask", "half a mask"):
        weights[f"{first}_orig"] = weights.pop(first)
    if change == "half a mask":
        weights[f"{first}_mask"] = torch.full_like(weights[f"{first}_orig"], 0.5)
    file = source / "pytorch_model.bin"
    torch.save({"model": object} if change == "foreign" else weights, file)
    if change == "truncated":
        file.write_bytes(file.read_bytes()[:-500])
    if change == "none":
        file.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        convert_gpt2(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "../../etc/passwd"}},
        {"weight_map": {"a": 3}},
        {"weight_map": {}},
        {},
        [],
        {"weight_map": {"a": "gone.safetensors"}},
    ],
)
def test_an_index_that_names_no_shards_is_refused(index, tmp_path):
    gpt2().config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=r"names no shards|does not exist"):
        read_gpt2(tmp_path)


@pytest.mark.parametrize(
    "args", [None, [], {"n_layer": 2}, {**ARGS, "rope": True}, {**ARGS, "bias": 1}, {**ARGS, "n_embd": 30}]
)
def test_foreign_arguments_of_nanogpt_are_refused(args):
    with pytest.raises(ValueError, match=r"refused|must be|multiple"):
        config_from_nanogpt(args)


@settings(max_examples=80, deadline=None)
@example({"activation_function": []})  # found so
@example({"model_type": "gpt\n2"})
@given(st.dictionaries(st.sampled_from([*GPT2Config().to_dict(), "n_inner"]), st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats() | st.lists(st.integers(), max_size=2), max_size=5))  # fmt: skip
def test_no_config_ends_in_anything_but_one_sentence(changes):
    try:
        config_from_gpt2({**GPT2Config(**SMALL).to_dict(), **changes})
    except ValueError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
