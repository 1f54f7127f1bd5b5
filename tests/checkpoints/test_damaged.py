"""Checkpoints that do not fit, saves that nothing could load, tokenizers of other models: refused by name, before anything of their size is made."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize, prune
from transformers import AutoModel, AutoModelForCausalLM
from typer.testing import CliRunner

from sparse_circuits import CSPConfig, CSPForCausalLM, CSPModel, CSPTokenizer
from sparse_circuits.checkpoints.models import load_model, load_tokenizer, require_fit
from sparse_circuits.circuits import score
from sparse_circuits.cli.app import app
from sparse_circuits.sparse_file_csp import WEIGHTS_NAME
from tiny import ROOT, tiny_ids, tiny_model


@pytest.fixture
def folder(tmp_path):
    tiny_model(seed=2).save_pretrained(tmp_path, sparse=False)
    return tmp_path


def edited(folder, edit):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


def configured(folder, **settings):
    path = folder / "config.json"
    found = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not ...}))


FC = "transformer.h.1.mlp.c_fc.weight"
UNFIT = {
    "a tensor is missing": (lambda f: edited(f, lambda t: t.pop(FC)), f"lacks {FC}"),
    "the head is missing": (lambda f: edited(f, lambda t: t.pop("lm_head.weight")), "lacks lm_head.weight"),
    "one too many": (lambda f: edited(f, lambda t: t.update(extra=torch.ones(2))), "holds extra, which its config does not ask for"),
    "another shape": (lambda f: edited(f, lambda t: t.update({FC: torch.ones(3, 3)})), r"is \(3, 3\) in the checkpoint and \(64, 32\)"),
    "whole numbers": (lambda f: edited(f, lambda t: t.update({FC: t[FC].int()})), "is torch.int32 in the checkpoint"),
    "more layers": (lambda f: configured(f, n_layer=3), "has 2 layers, its config asks for 3"),
    "very many layers": (lambda f: configured(f, n_layer=4096), "has 2 layers, its config asks for 4096"),
    "immense layers": (lambda f: configured(f, n_layer=2147483648), "n_layer is .* no model has more than 4,096"),
    "immense heads": (lambda f: configured(f, n_head=1_000_000), "n_head is .* no model has more"),
    "immense product": (lambda f: configured(f, d_model=1 << 20, d_mlp=1 << 24), r"The config's sizes make .* weights"),
    "no kind of norm": (lambda f: configured(f, norm_type=...), "lacks norm_type, which decides what the model computes"),
    "a header that is too long": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40)), "damaged or truncated"),
    "cut": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "damaged or truncated"),
    "deep": (lambda f: (f / "config.json").write_text('{"a":' * 100_000), "nested too deep"),
    "generation": (lambda f: (f / "generation_config.json").write_text('{"eos_token_id": 97}'), "sets eos_token_id to 97"),
    "generation, deep": (lambda f: (f / "generation_config.json").write_text("[" * 100_000), "nested too deep"),
    "generation, text": (lambda f: (f / "generation_config.json").write_text('{"max_new_tokens": "x"}'), "sets max_new_tokens"),
    "dtype": (lambda f: configured(f, dtype="int32"), "sets dtype to 'int32'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNFIT)
def test_what_does_not_fit_is_named(kind, folder):
    damage, message = UNFIT[kind]
    damage(folder)
    for sparse in (False, True):
        with pytest.raises((ValueError, OSError), match=message) as caught:
            CSPForCausalLM.from_pretrained(folder, sparse=sparse)
        assert len(str(caught.value).splitlines()) == 1
        assert str(folder) in str(caught.value)
    done = CliRunner().invoke(app, ["info", str(folder)])
    assert (done.exit_code, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr


def test_a_hundred_billion_weights_are_no_damage():
    CSPConfig(vocab_size=128_000, n_layer=80, n_head=96, d_head=128, d_model=12_288, d_mlp=49_152, block_size=1 << 20)
    assert CSPConfig(n_layer=96, n_head=96, d_head=128, d_model=12_288, vocab_size=50_257).parameter_count() > 1.7e11


def test_what_transformers_lets_pass_still_passes(folder, tmp_path):
    model = tiny_model(seed=2)
    ids = tiny_ids()
    base = CSPModel.from_pretrained(folder)  # the head is not asked for
    assert torch.equal(base(ids).last_hidden_state, model.transformer(ids).last_hidden_state)
    base.save_pretrained(tmp_path / "base", sparse=False)
    anew, info = CSPForCausalLM.from_pretrained(
        tmp_path / "base", output_loading_info=True
    )  # another class: its head is made anew
    assert "lm_head.weight" in info["missing_keys"]
    assert torch.equal(anew.transformer.wte.weight, base.wte.weight)
    assert type(AutoModel.from_pretrained(folder)) is CSPModel
    wider, info = CSPForCausalLM.from_pretrained(folder, vocab_size=120, ignore_mismatched_sizes=True, output_loading_info=True)
    assert wider.lm_head.weight.shape[0] == 120
    assert info["mismatched_keys"]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = CSPForCausalLM.from_pretrained(None, config=model.config, state_dict=state)
    assert torch.equal(given(ids).logits, model(ids).logits)
    tied = tiny_model(tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "tied", sparse=False)
    assert torch.equal(CSPForCausalLM.from_pretrained(tmp_path / "tied")(ids).logits, tied(ids).logits)

    class Own(CSPForCausalLM):
        def __init__(self, config, extra):
            super().__init__(config)
            self.score = torch.nn.Linear(config.d_model, extra)

    own = Own.from_pretrained(folder, 3)
    assert own.score.weight.shape == (3, 32)
    own.save_pretrained(tmp_path / "own")
    assert Own.from_pretrained(tmp_path / "own", 3).score.weight.equal(own.score.weight)


def test_shapes_that_transformers_would_meet_later_are_one_sentence_from_the_hub_too(folder, monkeypatch):
    """Where headers are not looked at first: a checkpoint of the Hub."""
    import sparse_circuits.checkpoints.fitting as fitting

    monkeypatch.setattr(fitting, "require_ordinary", lambda *args: None)
    edited(folder, lambda t: t.update({FC: torch.ones(3, 3)}))
    with pytest.raises(ValueError, match="weights of other shapes than its config asks for"):
        CSPForCausalLM.from_pretrained(folder)
    edited(folder, lambda t: t.pop(FC))
    with pytest.raises(ValueError, match=f"lack {FC}"):
        CSPForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match="damaged or truncated weights"):
        CSPForCausalLM.from_pretrained(folder)


def test_weights_of_several_types_are_refused_or_cast(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(torch.rand(parameter.shape) < 0.05)
    model.lm_head.to(torch.float16)
    model.save_pretrained(tmp_path, sparse=True)
    with pytest.raises(ValueError, match="float16 and float32, which cannot run together"):
        CSPForCausalLM.from_pretrained(tmp_path, sparse=True)
    loaded = CSPForCausalLM.from_pretrained(tmp_path, sparse=True, dtype=torch.float32)
    assert loaded(tiny_ids()).logits.isfinite().all()
    assert CSPForCausalLM.from_pretrained(tmp_path)(tiny_ids()).logits.isfinite().all()


# --------------------------------------------------------------------------------------------------------------- saving


def pruned(model):
    prune.l1_unstructured(model.transformer.h[0].mlp.c_fc, "weight", 0.5)


def normed(model):
    torch.nn.utils.weight_norm(model.transformer.h[0].mlp.c_fc)


def parametrized(model):
    parametrize.register_parametrization(model.lm_head, "weight", torch.nn.Identity())


def compiled(model):
    model.transformer.h[0] = torch.compile(model.transformer.h[0])


def replaced(model):
    model.lm_head = torch.nn.Linear(32, 50, bias=False)


SPOILT = {
    pruned: r"c_fc\.weight_(mask|orig) is no weight .* prune\.remove\(module, 'weight'\)", normed: r"weight_[gv] is no weight .*remove_weight_norm",
    parametrized: "remove_parametrizations", compiled: "_orig_mod.* torch.compile was given", replaced: r"is \(50, 32\) and \(97, 32\) by the config",
}  # fmt: skip


@pytest.mark.parametrize("sparse", [None, True, False])
@pytest.mark.parametrize("spoil", SPOILT)
def test_what_nothing_could_load_is_not_saved(spoil, sparse, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = tiny_model(seed=5)
    spoil(model)
    with pytest.raises(ValueError, match=SPOILT[spoil]):
        model.save_pretrained(folder, sparse=sparse)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_state_dict_of_something_else_is_not_saved(folder):
    model = tiny_model(seed=5)
    state = model.state_dict()
    for change, message in (
        (lambda s: {f"module.{name}": t for name, t in s.items()}, "inside of the wrapper"),
        (lambda s: {name: t for name, t in s.items() if name != FC}, f"{FC} is not among the weights"),
        (lambda s: {**s, "extra": torch.ones(2)}, "extra is no weight"),
    ):
        with pytest.raises(ValueError, match=message):
            model.save_pretrained(folder, state_dict=change(state))
    assert torch.equal(CSPForCausalLM.from_pretrained(folder).lm_head.weight, tiny_model(seed=2).lm_head.weight)
    model.save_pretrained(folder, state_dict={name: tensor * 2 for name, tensor in state.items()}, sparse=False)
    assert torch.equal(CSPForCausalLM.from_pretrained(folder).lm_head.weight, model.lm_head.weight * 2)


def test_a_full_disk_is_an_os_error(folder, monkeypatch):
    import transformers.modeling_utils as theirs
    from safetensors import SafetensorError

    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(theirs, "safe_save_file", full)
    with pytest.raises(OSError, match=r"could not be written to .*No space left on device.* free some disk space"):
        tiny_model().save_pretrained(folder, sparse=False)


def test_an_untouched_bigram_table_does_not_tip_the_scale(tmp_path):
    model = tiny_model(enable_bigram_table=True, vocab_size=400)
    torch.nn.init.zeros_(model.bigram_table.logit_bias)
    model.save_pretrained(tmp_path / "untrained")
    assert (tmp_path / "untrained" / "model.safetensors").is_file()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(torch.rand(parameter.shape) < 0.1)
    model.save_pretrained(tmp_path / "thin")
    assert (tmp_path / "thin" / WEIGHTS_NAME).is_file()


# ----------------------------------------------------------------------------------------------------------- tokenizers


def edited_tokenizer(edit):
    def damage(folder):
        found = json.loads((folder / "tokenizer.json").read_text())
        edit(found)
        (folder / "tokenizer.json").write_text(json.dumps(found))

    return damage


def token(found):
    return next(iter(found["model"]["vocab"]))


TOKENIZERS = {
    "an immense id": (edited_tokenizer(lambda f: f["model"]["vocab"].update({token(f): 2147483648})), "and the id 2.15e"),
    "an id twice": (edited_tokenizer(lambda f: f["model"]["vocab"].update({token(f): 1})), "gives one id to two tokens"),
    "no id": (edited_tokenizer(lambda f: f["model"]["vocab"].update({token(f): "x"})), "has the token id 'x'"),
    "no vocabulary": (edited_tokenizer(lambda f: f.update(model=[])), "has no vocabulary"),
    "a kind that is none": (edited_tokenizer(lambda f: f["model"].update(type="X")), "cannot be used"),
    "padding": (edited_tokenizer(lambda f: f.update(padding={"strategy": {"Fixed": 10**9}})), "pads every text"),
    "deep": (lambda f: (f / "tokenizer.json").write_text("[" * 100_000), "nested too deep"),
    "not UTF-8": (lambda f: (f / "tokenizer.json").write_bytes(b"\xff\xfe"), "is no UTF-8 text"),
    "a folder": (lambda f: ((f / "tokenizer.json").unlink(), (f / "tokenizer.json").mkdir()), "folder"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_damaged_tokenizers_are_named(kind, tmp_path):
    CSPTokenizer.from_folder(ROOT).save_pretrained(tmp_path)
    damage, message = TOKENIZERS[kind]
    damage(tmp_path)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        load_tokenizer(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    if kind != "a folder":  # which is no file: then vocab.bpe is looked for
        with pytest.raises(ValueError, match=message):
            CSPTokenizer.from_folder(tmp_path)
    done = CliRunner().invoke(app, ["tokenize", "show", str(tmp_path), "x"])
    assert (done.exit_code, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr


def test_openai_files_hold_each_other_to_account(tmp_path):
    vocab = {
        byte: i for i, byte in enumerate(sorted(CSPTokenizer.from_folder(ROOT).backend_tokenizer.pre_tokenizer[1].alphabet()))
    }
    vocab |= {"ab": 256, "abc": 257}
    good = "#version: 0.2\na b\nab c\n"

    def written(text=good, **changes):
        (tmp_path / "vocab.bpe").write_text(text)
        (tmp_path / "encoder.json").write_text(json.dumps({**vocab, **changes}))
        return CSPTokenizer.from_folder(tmp_path)

    assert len(written()) == 259
    for args, kwargs, message in (
        (("#version: 0.2\nab c\n",), {}, "'ab', which no merge"), ((good + "a b\n",), {}, "a merge twice"), ((good + "x y\n",), {}, "merges that"),
        ((), {"abc": 300}, "and the id 300"), ((), {"abc": 256}, "gives one id to two"), ((), {"zzz": 258}, "'zzz', which no merge"), ((), {"abc": None}, "token id None"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            written(*args, **kwargs)


def test_a_tokenizer_larger_than_the_model_is_named(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    tokenizer = CSPTokenizer.from_folder(ROOT)
    tokenizer.save_pretrained(tmp_path)
    message = "The tokenizer has 2048 tokens and the model 97"
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path, model)
    with pytest.raises(ValueError, match=message):
        require_fit(tokenizer, model.config)
    for words in (["generate", tmp_path, "x"], ["tasks", tmp_path], ["node", tmp_path, "final_resid:0"]):
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    from sparse_circuits.circuits import load_task

    with pytest.raises(ValueError, match="the model has 97 tokens"):
        score(model, load_task("single_double_quote", tokenizer).pairs(2))


def test_other_models_are_whole_or_refused_too(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=8, n_layer=1, n_head=2, n_positions=16)).save_pretrained(tmp_path)
    assert load_model(tmp_path).config.model_type == "gpt2"
    edited(tmp_path, lambda t: t.pop("transformer.h.0.mlp.c_fc.weight"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path) is not None  # transformers makes it at random
    with pytest.raises(ValueError, match=r"lack transformer\.h\.0\.mlp\.c_fc\.weight"):
        load_model(tmp_path)


def test_a_foreign_config_that_its_class_cannot_use_is_one_sentence(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    from sparse_circuits.checkpoints.models import load_model

    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=16, n_positions=8)).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"gelu_new"', '"gelu_lew"'))
    with pytest.raises(ValueError, match=r"cannot be loaded \(KeyError: 'gelu_lew'\); correct its config\.json"):
        load_model(tmp_path)
