"""Whole runs: recipes, resumed and killed runs, clean stops, what ends in one sentence."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from forked import run_forked
from sparse_circuits import CSPConfig
from sparse_circuits.cli.app import app
from sparse_circuits.training.recipes import PRESETS, make_recipe
from sparse_circuits.training.train import last_complete, model_config, train, training_arguments
from tiny import ROOT

SMALL = (
    "model.n_layer=1", "model.d_model=32", "model.d_mlp=64", "model.n_head=2", "corpora={'idioms:400': 1.0}", "block=32", "eval_blocks=8",
    "arguments.max_steps=20", "arguments.save_steps=4", "arguments.logging_steps=2", "arguments.per_device_train_batch_size=4",
    "sparsity.density=0.25", "arguments.disable_tqdm=true", "arguments.eval_steps=10",
)  # fmt: skip

# Trains by the recipe above; may kill itself: at a step, or in the middle of writing a checkpoint.
_RUN = """
import os, signal, sys, torch
from sparse_circuits.training import train as _train_module
import sparse_circuits.training.train as run
from sparse_circuits.training.recipes import make_recipe
folder, resume, kill, settings = sys.argv[1], sys.argv[2] == "resume", sys.argv[3], sys.argv[4:]
torch.set_num_threads(1)
kind, _, place = kill.partition(":")
if kind == "step":
    original = run.RefuseNonFinite.on_pre_optimizer_step
    def hook(self, args, state, control, **kwargs):
        if state.global_step == int(place):
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, args, state, control, **kwargs)
    run.RefuseNonFinite.on_pre_optimizer_step = hook
if kind == "write":  # between the weights of checkpoint `place` and the rest of it
    from transformers import Trainer
    original = Trainer._save_rng_state
    def save(self, folder):
        if folder.endswith("checkpoint-" + place):
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, folder)
    Trainer._save_rng_state = save
if kind == "state":  # in the middle of the last file of checkpoint `place`
    from transformers.trainer_callback import TrainerState
    original = TrainerState.save_to_json
    def save(self, path):
        original(self, path)
        if "checkpoint-" + place in path:
            text = open(path).read()
            open(path, "w").write(text[: len(text) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    TrainerState.save_to_json = save
if kind == "full":  # from checkpoint `place` on, no file may grow beyond 60 kB
    import resource
    from transformers import Trainer
    original = Trainer._save_checkpoint
    def save(self, *args, **kwargs):
        if self.state.global_step == int(place):
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        original(self, *args, **kwargs)
    Trainer._save_checkpoint = save
run.train(make_recipe("tiny", None, settings), folder, resume=resume)
"""


def run(folder, *, resume=False, kill="", settings=SMALL):
    return run_forked(["-c", _RUN, str(folder), "resume" if resume else "start", kill, *settings], timeout=300)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same_weights(one, other):
    first, second = weights(one), weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = run(folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_a_run_leaves_a_model_its_curves_and_its_numbers(whole):
    names = {path.name for path in whole.iterdir()}
    assert {"recipe.yaml", "curves.png", "report.json", "README.md", "tokenizer.json", "config.json", "checkpoint-20"} <= names
    report = json.loads((whole / "report.json").read_text())
    assert report["finished"]
    assert report["density/weights"] <= 0.25
    assert report["held out"] < report["unigram"]
    assert report["tokens"] == 20 * 4 * 32
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    log = json.loads((whole / "checkpoint-20" / "trainer_state.json").read_text())["log_history"]
    training = next(entry for entry in log if entry["step"] == 10 and "loss" in entry)
    expected = {"density/weights", "density_asked/weights", "l0", "gradient_rms", "learning_rate", "tokens", "tokens_per_second", "alive_neurons/0", "dead_qk/0"}  # fmt: skip
    assert expected <= set(training)
    assert training["tokens"] == 10 * 4 * 32
    assert next(entry for entry in log if "eval_loss" in entry)["eval_residual_kurtosis"] > 0
    tokenizer = AutoTokenizer.from_pretrained(whole)
    assert AutoModelForCausalLM.from_pretrained(whole)(**tokenizer("x = 1", return_tensors="pt")).logits.isfinite().all()


@pytest.mark.parametrize("kill", ["step:3", "step:7", "step:17", "write:8", "state:12"])
def test_a_killed_run_ends_with_the_weights_of_the_one_that_was_not(kill, whole, tmp_path):
    killed = run(tmp_path / "run", kill=kill)
    assert killed.returncode == -signal.SIGKILL
    again = run(tmp_path / "run", resume=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert same_weights(whole, tmp_path / "run")


def test_a_full_disk_leaves_the_checkpoint_before(whole, tmp_path):
    full = run(tmp_path / "run", kill="full:12")
    assert full.returncode == 1, full.stderr[-2000:]
    last = full.stderr.strip().splitlines()[-1]
    assert "checkpoint-12 could not be written" in last, last
    assert "--resume goes on from" in last
    assert last_complete(tmp_path / "run").endswith("checkpoint-8")
    assert run(tmp_path / "run", resume=True).returncode == 0
    assert same_weights(whole, tmp_path / "run")


def test_two_processes_train_as_one(whole, tmp_path):
    words = [
        "train",
        "--preset",
        "tiny",
        "--out",
        str(tmp_path / "run"),
        "--set",
        "arguments.ddp_backend=gloo",
        "--set",
        "arguments.use_cpu=true",
    ]
    settings = [s for s in SMALL if "batch_size" not in s] + ["arguments.per_device_train_batch_size=2"]
    words += [word for setting in settings for word in ("--set", setting)]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "sparse_circuits.cli",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((folder / "report.json").read_text()) for folder in (whole, tmp_path / "run"))
    assert two["tokens"] == one["tokens"]
    assert two["l0"] == one["l0"]
    assert abs(two["held out"] - one["held out"]) < 0.005  # float32 sums in another order may move the support


def test_sigterm_saves_and_ends_cleanly(whole, tmp_path):
    settings = (*SMALL[:-1], "arguments.eval_steps=100000", "arguments.max_steps=100000", "arguments.save_steps=100000")
    command = [sys.executable, "-c", _RUN, str(tmp_path / "run"), "start", "", *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    said = ""
    while time.monotonic() < deadline and "'loss'" not in said:
        said += process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said + rest
    assert "Stopping: a checkpoint is saved" in rest
    assert "--resume goes on from there" in rest
    assert last_complete(tmp_path / "run") is not None
    assert (tmp_path / "run" / "curves.png").is_file()


def test_gradients_that_are_not_finite_stop_the_run_with_the_cause(tmp_path):
    done = run(tmp_path / "run", settings=(*SMALL, "arguments.learning_rate=1.0e+38", "sparsity.lr_follows_density=false"))
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert "FloatingPointError: Gradients are not finite at step" in message
    assert "lower arguments.learning_rate" in message


def test_a_dense_run_is_the_same_recipe_at_density_1(tmp_path):
    settings = [s for s in SMALL if not s.startswith("sparsity")]
    report = train(
        make_recipe("dense-tiny", None, [*settings, "arguments.max_steps=4"]), tmp_path / "run", say=lambda text: None
    )
    assert report["density/weights"] > 0.99
    assert (tmp_path / "run" / "model.safetensors").is_file()


# --------------------------------------------------------------------------------------------------------------- recipes


def test_every_preset_can_be_built(tmp_path):
    from sparse_circuits import CSPTokenizer, SparsityConfig

    tokenizer = CSPTokenizer.from_pretrained(ROOT)
    for name in PRESETS:
        recipe = make_recipe(name)
        sparsity, config = SparsityConfig(**recipe.sparsity), model_config(recipe, tokenizer)
        arguments = training_arguments(make_recipe(name, None, ["arguments.bf16=false"]), tmp_path)
        assert arguments.max_steps > 0
        assert (sparsity.density == 1) == name.startswith("dense-")
        twin = make_recipe(name.removeprefix("dense-"))
        assert config.n_layer == twin.model["n_layer"]
    one, two = (SparsityConfig(**make_recipe(f"paper-{n}x").sparsity) for n in (1, 2))
    assert (one.density, two.density) == (1 / 8, 1 / 16)  # pfrac / factor**2, as csp_sweep1_1x and csp_sweep1_2x have it
    assert (one.embedding_density, two.embedding_density) == (1 / 8, 1 / 8)


def test_the_papers_presets_are_the_releases_sweep(reference):
    """Of the configs that are here: shape, and where AbsTopK acts."""
    from sparse_circuits.convert import config_from_openai

    for factor, nonzero in ((1, "0.9M"), (2, "1.9M")):
        beeg = json.loads((reference / "openai_configs" / f"csp_sweep1_{factor}x_{nonzero}nonzero_afrac0.125.json").read_text())
        released, ours = config_from_openai(beeg), CSPConfig(**make_recipe(f"paper-{factor}x").model)
        for name in (
            "n_layer",
            "n_head",
            "d_head",
            "d_model",
            "d_mlp",
            "afrac",
            "sink",
            "enable_bigram_table",
            "norm_type",
        ):
            assert getattr(ours, name) == getattr(released, name), name


def test_files_go_over_presets_and_settings_over_files(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"model": {"d_model": 48, "n_head": 3}, "block": 64, "corpora": "idioms"}))
    recipe = make_recipe("tiny", file, ["model.d_model=32", "arguments.report_to=tensorboard"])
    assert (recipe.model["d_model"], recipe.model["n_head"], recipe.model["n_layer"]) == (32, 3, 2)
    assert (recipe.block, recipe.corpora) == (64, {"idioms": 1.0})
    assert recipe.arguments["report_to"] == "tensorboard"
    assert make_recipe("tiny").model["d_model"] == 64  # presets stay as they are


WRONG = [
    ({"preset": "huge"}, "'huge' is no preset; they are tiny"),
    ({"settings": ["modle.d_model=3"]}, "did you mean 'model'"),
    ({"settings": ["model.d_model"]}, "is no setting; write section.name=value"),
    ({"settings": ["model.d_model=[1"]}, "cannot be read"),
    ({"settings": ["model=3"]}, "needs names and values"),
    ({"file": "/no/such.yaml"}, "does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_recipes_are_named(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make_recipe(**arguments)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("arguments.max_steps=0", "need the number of steps"),
        ("arguments.max_stepz=3", "max_stepz"),
        ("arguments.output_dir=x", "leave it out"),
        ("model.vocab_size=5", "comes from the tokenizer"),
        ("model.d_modle=5", "did you mean 'd_model'"),
        ("sparsity.density=0", "must be a fraction above 0"),
    ],
)
def test_settings_that_cannot_work_end_before_any_work(setting, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=message):
        train(make_recipe("tiny", None, [*SMALL, setting]), tmp_path / "run", say=lambda text: None)
    assert not (tmp_path / "run" / "blocks.safetensors").exists()


def test_the_command_line_names_what_is_wrong(whole, tmp_path):
    runner = CliRunner()

    def csp(*words):
        return runner.invoke(app, ["train", *map(str, words)])

    assert "is not empty; add --resume" in csp("--out", whole).stderr
    differs = csp("--out", whole, "--resume", "--steps", 30)
    assert differs.exit_code == 2
    assert "differs from the run's" in differs.stderr
    assert "there is no run to resume" in csp("--out", tmp_path / "none", "--resume").stderr
    assert "is no preset" in csp("--out", tmp_path / "none", "--preset", "x").stderr
    assert not (tmp_path / "none").exists()
    assert os.listdir(tmp_path) == []


def bits(folder):
    return {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in weights(folder).items()}


def test_resuming_a_finished_run_changes_nothing_however_often(tmp_path):
    """A kill after the last checkpoint and before the model is saved; the schedule does not end at 0, so another step would be seen."""
    settings = (*SMALL, "arguments.lr_scheduler_type=constant", "arguments.save_steps=20")
    assert run(tmp_path / "whole", settings=settings).returncode == 0
    expected = bits(tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():  # as the kill leaves it
        if path.name not in ("recipe.yaml", "blocks.safetensors") and not path.name.startswith("checkpoint-"):
            path.unlink()
    for _ in range(2):
        done = run(tmp_path / "whole", resume=True, settings=settings)
        assert done.returncode == 0, done.stderr[-2000:]
        assert bits(tmp_path / "whole") == expected
        report = json.loads((tmp_path / "whole" / "report.json").read_text())
        assert report["steps"] == 20
        assert report["finished"]
        assert json.loads((tmp_path / "whole" / "config.json").read_text())["use_cache"] is True
