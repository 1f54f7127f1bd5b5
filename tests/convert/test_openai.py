import functools
import http.server
import json
import logging
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparse_circuits.convert import config_from_openai, convert_openai_checkpoint, read_openai_checkpoint

CASES = ("attention_sink", "concatenated_positions", "gpt2_like_tied", "weight_sparse_bigram")


@pytest.fixture
def source(reference, tmp_path):
    """A copy of one reference checkpoint that a test may damage."""
    folder = tmp_path / "source"
    shutil.copytree(reference / "checkpoints" / "weight_sparse_bigram", folder)
    return folder


def edit(folder, **changes):
    path = folder / "beeg_config.json"
    beeg = json.loads(path.read_text())
    beeg.update(changes)
    path.write_text(json.dumps(beeg))


def edit_weights(folder, change):
    weights = torch.load(folder / "final_model.pt", weights_only=True)
    change(weights)
    torch.save(weights, folder / "final_model.pt")


@pytest.mark.parametrize("case", CASES)
def test_a_converted_folder_loads_through_the_auto_classes(reference, case, tmp_path):
    dest = convert_openai_checkpoint(reference / "checkpoints" / case, tmp_path / "out")
    names = {path.name for path in dest.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "modeling_csp.py",
        "configuration_csp.py",
        "nonzeros_csp.py",
        "README.md",
    }
    assert not any(name.endswith((".pt", ".bin")) for name in names)
    expected = load_file(reference / "checkpoints" / case / "expected.safetensors")
    for attention in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(dest, attn_implementation=attention)
        with torch.no_grad():
            logits = model(expected["input_ids"].long()).logits
        torch.testing.assert_close(logits, expected["logits"], atol=1e-5, rtol=0)
    provenance = model.config.provenance
    assert provenance["source"] == f"circuit_sparsity/{case}"
    assert len(provenance["source_sha256"]) == 64
    assert provenance["source_sha256"] in (dest / "README.md").read_text()
    assert str(tmp_path) not in "".join(p.read_text() for p in dest.iterdir() if p.suffix in (".json", ".md"))


def test_the_tokenizer_comes_along(reference, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(reference / "checkpoints" / "attention_sink", source)
    with pytest.raises(ValueError, match="tokenizer has 2048 tokens and the model 64"):
        convert_openai_checkpoint(source, tmp_path / "bad", tokenizer=reference / "tokenizer")
    assert not (tmp_path / "bad").exists()
    edit(source, vocab_size=2048)

    def grow(weights):
        for name in ("transformer.wte.weight", "lm_head.weight"):
            weights[name] = torch.randn(2048, 32)
        weights["final_logits_bias"] = torch.zeros(2048)

    edit_weights(source, grow)
    dest = convert_openai_checkpoint(source, tmp_path / "good", tokenizer=reference / "tokenizer")
    assert AutoTokenizer.from_pretrained(dest).encode("print('hello')\n") == [511, 519, 301, 75, 364, 755]
    assert AutoModelForCausalLM.from_pretrained(dest).config.eos_token_id == 2047


REFUSED = [
    ({"new_key": 1}, "unknown key 'new_key'"),
    ({"mup": True}, "sets mup=True"),
    ({"rtopk": True}, "sets rtopk=True"),
    ({"afrac_approx": True}, "sets afrac_approx=True"),
    ({"bigram_table_rank": 8}, "sets bigram_table_rank=8"),
    ({"unembed_rank": 8}, "sets unembed_rank=8"),
    ({"use_tied_aux_matrix": True}, "sets use_tied_aux_matrix=True"),
    ({"mup_width_multiplier": 2.0}, "sets mup_width_multiplier"),
    ({"dropout_cat_pos_emb": True, "dropout": 0.1}, "dropout_cat_pos_emb"),
    ({"activation_type": "swiglu"}, "activation_type is 'swiglu'"),
    ({"afrac_loctypes": "attn_in,somewhere"}, "'somewhere'"),
    ({"n_layer": None}, "lacks n_layer"),
    ({"n_head": 0}, "sets n_head=0"),
    ({"n_head": "2"}, "sets n_head='2'"),
    ({"d_mlp": 0}, "sets d_mlp=0"),
    ({"enable_bigram_table": "false"}, "sets enable_bigram_table='false'"),
    ({"afrac_loctypes": None}, "sets afrac_loctypes=None"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_settings_that_change_the_function_are_refused_by_name(source, tmp_path, changes, message):
    edit(source, **changes)
    with pytest.raises(ValueError, match=message):
        convert_openai_checkpoint(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def truncate(folder):
    path = folder / "final_model.pt"
    path.write_bytes(path.read_bytes()[:-5000])


def corrupt(folder):
    (folder / "final_model.pt").write_bytes(b"not a checkpoint at all")


def empty(folder):
    (folder / "final_model.pt").write_bytes(b"")


class Payload:
    def __reduce__(self):
        return (print, ("unpickled!",))


def hostile(folder):
    torch.save({"transformer.wte.weight": Payload()}, folder / "final_model.pt")


BROKEN = [
    (truncate, "truncated"),
    (corrupt, "cannot be read"),
    (empty, r"is empty \(0 bytes\)"),
    (hostile, "never unpickled"),
    (lambda f: torch.save([1, 2], f / "final_model.pt"), "no state dict"),
    (lambda f: edit_weights(f, lambda w: w.pop("lm_head.weight")), r"lacks lm_head\.weight"),
    (lambda f: edit_weights(f, lambda w: w.update(extra=torch.ones(2))), "holds extra"),
    (lambda f: edit_weights(f, lambda w: w.update(final_logits_bias=torch.ones(3))), r"final_logits_bias has shape \[3\]"),
    (lambda f: edit_weights(f, lambda w: w.update(final_logits_bias=torch.ones(64).long())), "must be floating point"),
    (lambda f: (f / "final_model.pt").unlink(), "does not exist"),
    (lambda f: (f / "beeg_config.json").unlink(), "does not exist"),
    (lambda f: (f / "beeg_config.json").write_text("{"), "is no JSON that can be used"),
    (lambda f: (f / "beeg_config.json").write_text("[]"), "must hold a JSON object"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_broken_sources_are_refused_and_nothing_is_written(source, tmp_path, damage, message, capsys):
    damage(source)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        convert_openai_checkpoint(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert "unpickled!" not in capsys.readouterr().out


def test_a_missing_tokenizer_is_said(source, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.chdir(source)
    convert_openai_checkpoint(".", tmp_path / "out")
    assert "No tokenizer beside source" in caplog.text
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.provenance["source"] == "circuit_sparsity/source"


def test_a_destination_in_use_is_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        convert_openai_checkpoint(source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_zero_positions_become_none_and_say_so(source):
    _, before = read_openai_checkpoint(source)
    assert "transformer.wpe.weight" in before
    edit_weights(source, lambda w: w["transformer.wpe.weight"].zero_())
    config, tensors = read_openai_checkpoint(source)
    assert config.position_embedding_type == "none"
    assert config.provenance["zero_positions_dropped"] is True
    assert "transformer.wpe.weight" not in tensors
    assert read_openai_checkpoint(source, drop_zero_positions=False)[0].position_embedding_type == "added"


def test_missing_keys_take_the_release_s_defaults():
    config = config_from_openai(
        {"block_size": 8, "vocab_size": 9, "n_layer": 1, "n_head": 2, "d_model": 6, "n_mlp": 7, "afrac": 0.5}
    )
    assert (config.d_head, config.d_mlp, config.norm_type, config.tie_word_embeddings) == (3, 7, "layer_norm", True)
    assert set(config.afrac) == {"attn_in", "attn_out", "mlp_in", "mlp_out"}
    assert (config.sink, config.enable_bigram_table, config.bias, config.activation_type) == (False, False, True, "gelu")


def test_a_sink_without_flash_is_none_as_in_the_release():
    base = {"block_size": 8, "vocab_size": 9, "n_layer": 1, "n_head": 2, "d_model": 6, "sink": True}
    assert config_from_openai({**base, "flash": True}).sink is True
    assert config_from_openai({**base, "flash": False}).sink is False


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Broken(Quiet):
    def copyfile(self, source, outputfile):
        outputfile.write(source.read()[:-100])


@pytest.mark.parametrize("handler", [Quiet, Broken])
def test_from_a_url(source, tmp_path, handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        if handler is Quiet:
            dest = convert_openai_checkpoint(f"{url}/source", tmp_path / "out")
            assert AutoModelForCausalLM.from_pretrained(dest).config.provenance["source"] == "circuit_sparsity/source"
            with pytest.raises(ValueError, match="answered 404"):
                convert_openai_checkpoint(f"{url}/nowhere", tmp_path / "other")
        else:
            with pytest.raises(ValueError, match=r"broke off after .* try again"):
                convert_openai_checkpoint(f"{url}/source", tmp_path / "out")
    finally:
        server.shutdown()
    with pytest.raises(ValueError, match="cannot be reached"):
        convert_openai_checkpoint(
            f"http://127.0.0.1:{server.server_port + 1 if server.server_close() else 9}/x", tmp_path / "z"
        )
