"""The command line as a user types it."""

import json
import os
import platform
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from forked import in_forked_process
from sparse_circuits import CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits import (
    PruneConfig,
)
from sparse_circuits.cli.app import app
from sparse_circuits.cli.circuits import prune_config
from sparse_circuits.training import demo
from sparse_circuits.training.recipes import make_recipe
from tiny import ROOT, tiny_model

runner = CliRunner()


def csp(*words):
    return runner.invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    "words",
    [
        ["generate"],
        ["info"],
        ["convert"],
        ["demo"],
        ["train"],
        ["tasks"],
        ["prune"],
        ["verify"],
        ["node"],
        ["export"],
        ["view"],
        ["label"],
        ["tokenize", "train"],
        ["tokenize", "show"],
    ],
)
def test_help_has_an_example(words):
    result = csp(*words, "--help")
    assert result.exit_code == 0
    assert "Example: csp " + words[0] in result.stdout


def test_convert(reference, tmp_path):
    result = csp("convert", reference / "checkpoints" / "attention_sink", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.safetensors").is_file()


WRONG = [
    (["info", "./nothing"], "is no folder; give a checkpoint folder"),
    (["convert", "nowhere", "out"], "does not exist; the source must be a folder"),
    (["generate", "/no/such/folder", "x"], "is no folder; give a checkpoint folder"),
    (["generate", "tests/..", ""], "prompt is empty"),
    (["tokenize", "train", "--corpus", "/no/such", "--out", "x"], "is no folder; give 'stdlib'"),
    (["tokenize", "show", "./nothing", "x"], "is no folder"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_input_is_one_sentence_and_exit_code_2(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = [str(tmp_path / word) if word in ("out", "x") and words[0] != "generate" else word for word in words]
    result = csp(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_info_counts_what_is_there(tmp_path):
    model = tiny_model(enable_bigram_table=True)
    with torch.no_grad():
        mlp = model.transformer.h[0].mlp
        for parameter in (mlp.c_fc.weight, mlp.c_proj.weight, model.transformer.h[1].attn.c_attn.weight):
            parameter.mul_(torch.rand(parameter.shape) < 0.1)
        mlp.c_fc.weight[5] = 0
        mlp.c_proj.weight[:, 6] = 0
    for form in ("sparse", "dense"):
        model.save_pretrained(tmp_path / form, sparse=form == "sparse")
        shown = csp("info", tmp_path / form, "--json")
        assert shown.exit_code == 0, shown.output
        info = json.loads(shown.stdout)
        for tensor in info["tensors"]:
            parameter = model.get_parameter(tensor["name"])
            assert tensor["nonzeros"] == int(parameter.count_nonzero())
            assert tensor["dense_bytes"] == parameter.nbytes
        assert len(info["tensors"]) == len(list(model.parameters()))
        incoming = torch.cat([block.mlp.c_fc.weight.count_nonzero(dim=1) for block in model.transformer.h])
        degrees = info["degrees"]["neuron, incoming"]
        assert (degrees["least"], degrees["most"], degrees["none"]) == (
            int(incoming.min()), int(incoming.max()), int((incoming == 0).sum()),
        )  # fmt: skip
        outgoing = torch.cat([block.mlp.c_proj.weight.count_nonzero(dim=0) for block in model.transformer.h])
        assert info["dead_neurons"] == int(((incoming == 0) | (outgoing == 0)).sum()) >= 2
        reads = sum(m.weight.count_nonzero(dim=0) for m in (model.transformer.h[0].attn.c_attn, mlp.c_fc))
        assert info["degrees"]["residual channel, reads"]["most"] >= int(reads.max())
        assert info["groups"]["embeddings"] == [2 * 97 * 32, 2 * 97 * 32]
    text = csp("info", tmp_path / "sparse").stdout
    assert "on disk    dense" in text
    assert f"dead neurons (nothing in, or nothing out): {info['dead_neurons']}" in text


def test_tokenize_train_and_show(tmp_path):
    for i in range(40):
        (tmp_path / f"f{i}.py").write_text(f"def function_{i}(argument):\n    return argument + {i}\n" * 3)
    result = csp("tokenize", "train", "--corpus", tmp_path, "--out", tmp_path / "tok", "--vocab-size", "300")
    assert result.exit_code == 0, result.output
    assert "300 tokens" in result.stdout
    shown = csp("tokenize", "show", tmp_path / "tok", "def f\\n")
    assert "".join(re.findall(r"\d+  '(.*)'", shown.stdout)) == "def f\\n"


def test_the_shipped_tokenizer_is_what_the_command_trains(tmp_path):
    """Same interpreter, same files: the same tokenizer. Another interpreter has another library; then only the form is checked."""

    result = csp("tokenize", "train", "--out", tmp_path / "tok")
    assert result.exit_code == 0, result.output
    trained, shipped = CSPTokenizer.from_folder(tmp_path / "tok"), CSPTokenizer.from_folder(ROOT)
    assert len(trained) == len(shipped) == 2048
    made_by = json.loads((ROOT / "config.json").read_text())["provenance"]["tokenizer"]
    if made_by.endswith(f" {platform.python_version()}"):
        assert (tmp_path / "tok" / "tokenizer.json").read_text() == (ROOT / "tokenizer.json").read_text()
    else:
        assert len(set(trained.get_vocab()) & set(shipped.get_vocab())) > 1500


def test_generate(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = csp("generate", ".", "def add(a, b):\\n    return ", "--max-new-tokens", 8)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("def add(a, b):\n    return ")
    assert len(result.stdout.rstrip("\n")) > len("def add(a, b):\n    return ")


def test_a_short_demo_end_to_end(tmp_path, monkeypatch):
    """The whole of `csp demo` with few steps: it trains, saves, reloads in another process and beats its own start."""
    said: list[str] = []
    monkeypatch.setattr(demo, "in_new_process", in_forked_process)
    small = {"model": {"n_layer": 1, "d_model": 32, "d_mlp": 64, "n_head": 2}, "sparsity": {"density": 0.5}, "eval_blocks": 64}
    small["corpora"] = {"idioms:400": 1.0}
    small["arguments"] = {"max_steps": 80, "per_device_train_batch_size": 8, "learning_rate": 0.02}
    recipe = make_recipe("demo", small)
    report = demo.run_demo(tmp_path / "demo", recipe, say=said.append)
    assert report["reloaded"] == pytest.approx(report["held out"], abs=2e-3)
    assert report["bigram"] < report["unigram"]
    assert report["held out"] < report["dense start"] - 0.005
    assert report["density/weights"] == pytest.approx(0.5, abs=1e-3)
    assert len(report["completions"]) == 3
    text = "\n".join(said)
    assert "bigram baseline" in text
    assert "nonzeros" in text
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names >= {"config.json", "sparse_weights.safetensors", "tokenizer.json", "README.md", "modeling_csp.py"}
    assert not [name for name in names if name.endswith(".pt")]
    assert str(tmp_path) not in (tmp_path / "demo" / "README.md").read_text() + (tmp_path / "demo" / "config.json").read_text()


def test_the_demo_ends_with_a_circuit_or_says_why_not(tmp_path, monkeypatch):
    """After few steps the model closes no strings; in full it does (`make demo`, which CI runs). Here other models stand in for both."""
    import sparse_circuits.cli.training as training

    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    untrained = tiny_model(vocab_size=len(tokenizer), block_size=128)
    text = torch.randint(0, len(tokenizer), (32, 64), generator=torch.Generator().manual_seed(0))

    def stand_in(model):
        def run(out, recipe, say):
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
            save_file({"train": text.int()}, out / "blocks.safetensors")
            return {"finished": True}

        return run

    monkeypatch.setattr(demo, "run_demo", stand_in(untrained))
    done = csp("demo", "--out", tmp_path / "short", "--steps", 10)
    assert done.exit_code == 0, done.output
    assert "The model cannot do single_double_quote: " in done.stdout
    assert "force=True" not in done.stdout
    assert not (tmp_path / "short" / "circuits").exists()
    monkeypatch.setattr(demo, "run_demo", stand_in(CSPForCausalLM.from_pretrained(ROOT)))
    monkeypatch.setattr(training, "DEMO_SEARCH", ["steps=20", "pairs=4", "eval_pairs=8", "target_loss=0.4"])
    done = csp("demo", "--out", tmp_path / "full", "--steps", 10)
    assert done.exit_code == 0, done.output
    page = tmp_path / "full" / "circuits" / "single_double_quote" / "page.html"
    assert f"Look at it: {page}" in done.stdout
    assert page.is_file()


def process(words, **environment):
    """The command in a process of its own, where arguments are bytes."""
    words = [sys.executable, "-W", "ignore", "-c", "from sparse_circuits.cli.app import app; app()", *words]
    return subprocess.run(words, capture_output=True, env={**os.environ, **environment}, cwd=ROOT)


def test_a_terminal_that_has_ascii_only():
    poor = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = process(["generate", ".", "x = '\u20ac".encode(), "--max-new-tokens", "2"], **poor)
    assert (done.returncode, done.stdout[:11]) == (0, b"x = '\\u20ac"), done.stderr
    done = process(["generate", ".", b"\xff"], **poor)
    assert (done.returncode, done.stdout) == (2, b"")
    assert re.fullmatch(rb"csp: The text '.*' is not UTF-8; give text in that encoding\.", done.stderr.strip())


NO_TEXT = [
    (os.fsdecode(b"\xff"), b""),
    (os.fsdecode(b"a\xed\xa0\x80"), b""),
    ("a\ud800", b""),
    ("-", b"a\xff"),
    ("-", b"\xff\xfea\x00"),
]


@pytest.mark.parametrize("command", [["generate"], ["tokenize", "show"]])
@pytest.mark.parametrize(("text", "given"), NO_TEXT)
def test_text_that_is_no_utf8_is_one_sentence(command, text, given):
    done = runner.invoke(app, [*command, str(ROOT), text], input=given)
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.fullmatch(r"csp: (The text '.*'|Standard input) is not UTF-8; give text in that encoding\.", done.stderr.strip())


@pytest.mark.parametrize("charset", ["ascii", "latin-1", "utf-8"])
def test_output_that_lacks_a_character_shows_its_number(charset, tmp_path):
    euro = "\u20ac\U0001f600"
    for i in range(3):
        (tmp_path / f"m{i}.py").write_text(f"price{i} = '{euro}'\n" * 40, encoding="utf-8")
    rows = "".join(f"x{euro}{i} = (,1,x{euro}{i} =, {euro}\n" for i in range(60))
    (tmp_path / "mine.csv").write_text("prompt_a,answer_a,prompt_b,answer_b\n" + rows, encoding="utf-8")
    for words in (
        ["generate", ROOT, f"x = '{euro}", "--max-new-tokens", 2],
        ["tokenize", "show", ROOT, euro],
        ["node", ROOT, "0.mlp.post_act:5", "--tokens", 300, "--corpus", tmp_path],
        ["tasks", ROOT, "--task", tmp_path / "mine.csv", "--pairs", 2],
        ["tasks", ROOT, "--task", euro],
    ):
        done = CliRunner(charset=charset).invoke(app, [str(word) for word in words])
        assert done.exit_code == (2 if words[-1] == euro and words[0] == "tasks" else 0), (words, done.output, done.exception)
        if words[0] == "generate":
            shown = euro if charset == "utf-8" else euro.encode("ascii", "backslashreplace").decode()
            assert done.stdout.startswith(f"x = '{shown}")


def test_standard_input_is_read_as_corpora_are():
    def shown(text, given=b"", charset="utf-8"):
        return CliRunner(charset=charset).invoke(app, ["tokenize", "show", str(ROOT), text], input=given).stdout

    plain, spelt = shown("-", "a = 1\nb = '\u20ac'\n".encode()), "\ufeffa = 1\r\nb = '\u20ac'\r"
    assert shown(spelt) == shown("-", spelt.encode()) == plain
    poor = shown("-", spelt.encode(), "latin-1")
    assert re.findall(r"^ *\d+", poor, re.M) == re.findall(r"^ *\d+", plain, re.M)


def test_small_things():
    assert prune_config(0.15, ["lr=1e-3"]).lr == 1e-3
    for setting in ("lr=[1", "lr=" + "9" * 400, "warmup=1"):
        with pytest.raises(ValueError, match=r"must be"):
            prune_config(0.15, [setting])
    with pytest.raises(ValueError, match="at least 2"):
        PruneConfig(eval_pairs=1)
