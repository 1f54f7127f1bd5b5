"""`csp bridge`: trained, stopped and resumed, evaluated, steered, published, as a user would."""

import importlib
import json

import pytest
import torch
from typer.testing import CliRunner

from hub_server import Hub
from sparse_circuits.bridges import BridgedPair
from sparse_circuits.cli.app import app
from sparse_circuits.cli.bridges import bridge_config
from sparse_circuits.training.recipes import make_recipe, read_yaml

SMALL = [
    "model.d_model=32", "model.d_mlp=64", "model.n_head=2", "corpora={'idioms:400': 1.0}", "block=32", "eval_blocks=8", "arguments.per_device_train_batch_size=4",
    "arguments.save_steps=4", "arguments.logging_steps=2", "arguments.eval_strategy='no'", "sparsity.density=0.5", "arguments.save_total_limit=9",
]  # fmt: skip
torch.set_num_threads(1)


def csp(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def settings(*more):
    return [part for each in (*SMALL, *more) for part in ("--set", each)]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    out = tmp_path_factory.mktemp("dense") / "run"
    done = csp(
        "train", "--preset", "dense-tiny", "--steps", 6, "--out", out, *settings("model.n_layer=1", "sparsity.density=1.0")
    )
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def run(dense, tmp_path_factory):
    out = tmp_path_factory.mktemp("bridged") / "run"
    done = csp(
        "bridge", "train", dense, "--steps", 10, "--out", out, *settings(), "--bridge", "active=0.5", "--bridge", "kl=0.5"
    )
    assert done.exit_code == 0, done.output
    assert "A step runs the sublayers of 5 plain forward passes and 8 unembeddings" in done.stdout
    return out


def weights(folder):
    pair = BridgedPair.from_pretrained(folder / "pair")
    return {**pair.sparse.model.state_dict(), **pair.bridges.state_dict()}


def test_the_sparse_model_is_sparse_the_bridges_are_not_the_dense_model_is_untouched(run, dense):
    from sparse_circuits import CSPForCausalLM

    pair = BridgedPair.from_pretrained(run / "pair")
    c_fc = pair.sparse.model.transformer.h[0].mlp.c_fc.weight
    assert float((c_fc != 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert bool((pair.bridges.encoders[0].weight != 0).all())
    assert pair.sparse.model.config.n_layer == 1
    assert pair.bridges.keep == 16
    assert (pair.config.active, pair.config.kl) == (0.5, 0.5)
    before = CSPForCausalLM.from_pretrained(dense).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in pair.dense.model.state_dict().items())
    for part in ("dense", "sparse"):
        assert (run / "pair" / part / "modeling_csp.py").is_file()


def test_the_recipe_of_a_run_makes_the_same_run(run):
    values = read_yaml(run / "recipe.yaml")
    config = bridge_config(values.pop("bridges"), [])
    assert config == BridgedPair.from_pretrained(run / "pair").config
    again = make_recipe("small", values)  # another preset below: the file has everything
    assert {**again.to_dict(), "bridges": config.to_dict()} == read_yaml(run / "recipe.yaml")
    assert bridge_config({"kl": 2.0, "active": 0.5}, ["kl=3"]).to_dict() == {**config.to_dict(), "kl": 3.0, "active": 0.5}
    for section, message in (({"speed": 1}, "has speed; it takes active"), ([1], r"is \[1\]")):
        with pytest.raises(ValueError, match=message):
            bridge_config(section, [])


def test_the_pair_has_what_pages_and_publishing_need(run):
    for name in ("recipe.yaml", "report.json", "blocks.safetensors"):
        assert (run / "pair" / name).read_bytes() == (run / name).read_bytes()


def test_every_term_is_logged_and_adds_up(run):
    (state,) = run.glob("checkpoint-10/trainer_state.json")
    log = [entry for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]
    assert len(log) == 5
    for entry in log:
        terms = {
            name: entry[f"term/{name}"] for name in ("pretraining", "nmse_encode", "nmse_decode", "kl_encode", "kl_decode")
        }
        total = (
            terms["pretraining"] + terms["nmse_encode"] + terms["nmse_decode"] + 0.5 * (terms["kl_encode"] + terms["kl_decode"])
        )
        assert total == pytest.approx(entry["loss"], rel=1e-3)
        assert "density/weights" in entry
    report = json.loads((run / "report.json").read_text())
    assert report["finished"]
    assert len(report["encode"]) == 3


def test_stopped_and_resumed_it_ends_with_the_same_bits(run, dense, tmp_path, monkeypatch):
    module = importlib.import_module("sparse_circuits.bridges.train")

    class Stopping(module.LogTerms):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                control.should_training_stop = True
            return control

    words = [
        "bridge",
        "train",
        dense,
        "--steps",
        10,
        "--out",
        tmp_path / "run",
        *settings(),
        "--bridge",
        "active=0.5",
        "--bridge",
        "kl=0.5",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(module, "LogTerms", Stopping)
        done = csp(*words)
    assert "Stopped at step 5 of 10" in done.stdout, done.output
    done = csp(*words[:-2], "--bridge", "kl=0.7", "--resume")
    assert "bridges of this recipe differs" in done.stderr
    done = csp(*words, "--resume")
    assert done.exit_code == 0, done.output
    one, two = weights(run), weights(tmp_path / "run")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_it_is_evaluated_and_steered(run, tmp_path):
    done = csp("bridge", "evaluate", run / "pair", "--corpus", "idioms:300", "--blocks", 4)
    assert done.exit_code == 0, done.output
    for word in ("next-token loss in nats: dense", "bridges: hybrids' mean loss", "zero: hybrids' mean loss"):
        assert word in done.stdout
    done = csp("bridge", "evaluate", run / "pair", "--corpus", "idioms:300", "--blocks", 2, "--json")
    assert set(json.loads(done.stdout[done.stdout.index("{") :])) >= {"bridges", "zero"}
    done = csp(
        "bridge", "steer", run / "pair", "--corpus", "idioms:300", "--pairs", 4, "--directions", 3, "--out", tmp_path / "s"
    )
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "s" / "steering.json").read_text())
    assert report["chosen"] == "best on training prompts"
    assert len(report["probability"]) == len(report["strengths"]) == 11
    assert len(report["others"]) >= 3
    assert (tmp_path / "s" / "steering.png").stat().st_size > 5000


def test_a_ridge_baseline_on_a_model_trained_apart(run, dense):
    done = csp("bridge", "evaluate", run / "pair", "--corpus", "idioms:300", "--blocks", 2, "--apart", dense)
    assert done.exit_code == 0, done.output
    assert "ridge, trained apart: hybrids' mean loss" in done.stdout


def test_a_pair_goes_to_the_hub_and_comes_back(run, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    for name, value in [("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)]:
        monkeypatch.setattr(constants, name, value)
    pair = BridgedPair.from_pretrained(run / "pair")
    assert hub.url in pair.push_to_hub("user/pair", token=hub.token)
    again = BridgedPair.from_pretrained("user/pair", cache_dir=tmp_path)
    assert all(torch.equal(value, again.bridges.state_dict()[name]) for name, value in pair.bridges.state_dict().items())
    with pytest.raises(ConnectionError, match="HTTP 404"):
        BridgedPair.from_pretrained("user/none", cache_dir=tmp_path)
    hub.shutdown()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bridge", "train", "/no/such", "--out", "x"], "is no folder"),
        (["bridge", "train", ".", "--out", "x", "--bridge", "speed=3"], "is no setting of bridges"),
        (["bridge", "train", ".", "--out", "x", "--bridge", "active=3"], "must be a fraction"),
        (["bridge", "steer", ".", "--out", "x"], "is no bridged pair"),
        (["bridge", "steer", ".", "--out", "{root}/Makefile"], "is a file; name a folder"),
        (["bridge", "train", ".", "--out", "x", "--set", "model.n_layer=7"], "sublayers, the sparse one 14"),
        (["bridge", "train", ".", "--out", "x", "--set", "block=100000"], "too long for the dense model"),
        (["bridge", "train", ".", "--out", "x", "--set", "block=x"], "block is 'x'; it must be a whole number"),
        (["bridge", "train", ".", "--out", "x", "--recipe", "{root}/tests"], "cannot be read"),
        (["bridge", "train", ".", "--out", "x", "--recipe", "{root}/README.md"], "README.md"),
        (["bridge", "evaluate", "/no/such"], "is no folder"),
    ],
)
def test_wrong_input_is_one_sentence(words, message, tmp_path, monkeypatch):
    from tiny import ROOT

    monkeypatch.chdir(ROOT)
    done = csp(*[tmp_path / "x" if word == "x" else word.replace("{root}", str(ROOT)) for word in words])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["train", "evaluate", "steer"])
def test_help_has_an_example(name):
    assert f"Example: csp bridge {name}" in csp("bridge", name, "--help").stdout
