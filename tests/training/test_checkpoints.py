"""Which checkpoint a run goes on from: the last that is as it was written; damage is never a traceback."""

import json
import os
import shutil

import pytest
import torch
import yaml
from typer.testing import CliRunner

from sparse_circuits import CSPForCausalLM
from sparse_circuits.cli.app import app
from sparse_circuits.training.checkpoints import SUMS, is_whole
from sparse_circuits.training.recipes import make_recipe
from sparse_circuits.training.train import last_complete, train

RECIPE = {
    "model": {"n_layer": 1, "d_model": 16, "d_mlp": 16, "n_head": 2, "d_head": 8}, "corpora": {"idioms:100": 1.0}, "block": 16, "eval_blocks": 4, "sparsity": {"density": 0.25},
    "arguments": {"max_steps": 6, "save_steps": 2, "logging_steps": 2, "eval_steps": 6, "per_device_train_batch_size": 2, "save_total_limit": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    train(make_recipe("tiny", folder / "recipe.yaml"), folder / "run", say=lambda text: None)
    return folder


@pytest.fixture
def run(ended, tmp_path):
    """As a kill after the fourth step leaves it."""
    keep = ("recipe.yaml", "blocks.safetensors", "checkpoint-2", "checkpoint-4")
    (tmp_path / "run").mkdir()
    for name in keep:
        path = ended / "run" / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / "run" / name)
    return tmp_path / "run"


def state(edit):
    def damage(folder):
        path = folder / "trainer_state.json"
        path.write_text(json.dumps(edit(json.loads(path.read_text()))))

    return damage


def flipped(name):
    def damage(folder):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)

    return damage


def unsummed(damage):
    """Of a version that wrote no sums."""

    def both(folder):
        (folder / SUMS).unlink()
        damage(folder)

    return both


DAMAGE = {
    "null": lambda f: (f / "trainer_state.json").write_text("null"), "a list": lambda f: (f / "trainer_state.json").write_text("[1]"),
    "deep": lambda f: (f / "trainer_state.json").write_text("[" * 100_000), "another step": state(lambda s: {**s, "global_step": 3}),
    "no step": unsummed(state(lambda s: {k: v for k, v in s.items() if k != "global_step"})),
    "an unknown key": unsummed(state(lambda s: {**s, "odd": 1})), "a bool": unsummed(state(lambda s: {**s, "global_step": True})),
    "one bit of the weights": flipped("model.safetensors"), "one bit of the optimizer": flipped("optimizer.pt"),
    "one bit of the optimizer, no sums": unsummed(flipped("optimizer.pt")), "no optimizer": lambda f: (f / "optimizer.pt").unlink(),
    "a folder": lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()),
    "sums that are none": lambda f: (f / SUMS).write_text("{}"), "one file more": lambda f: (f / "extra.bin").write_bytes(b"x"),
    "weights cut, no sums": unsummed(lambda f: os.truncate(f / "model.safetensors", 500)),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(kind, run):
    assert last_complete(run) == str(run / "checkpoint-4")
    DAMAGE[kind](run / "checkpoint-4")
    assert not is_whole(run / "checkpoint-4")
    assert last_complete(run) == str(run / "checkpoint-2")
    assert not (run / "checkpoint-4").exists()


@pytest.mark.parametrize("kind", ["null", "one bit of the weights", "no optimizer"])
def test_the_run_ends_as_it_would_have(kind, run, ended):
    DAMAGE[kind](run / "checkpoint-4")
    done = CliRunner().invoke(app, ["train", "--recipe", str(ended / "recipe.yaml"), "--out", str(run), "--resume"])
    assert done.exit_code == 0, done.output
    one, two = (CSPForCausalLM.from_pretrained(folder).state_dict() for folder in (run, ended / "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_without_sums_is_still_taken_up(run):
    (run / "checkpoint-4" / SUMS).unlink()
    assert last_complete(run) == str(run / "checkpoint-4")


OTHERS = {
    "blocks": (lambda run: flipped("blocks.safetensors")(run), "does not have the sha256"),
    "blocks, a folder": (
        lambda run: ((run / "blocks.safetensors").unlink(), (run / "blocks.safetensors").mkdir()),
        "blocks.safetensors",
    ),
    "recipe": (lambda run: (run / "recipe.yaml").write_text("[" * 100_000), "nested too deep"),
    "recipe, a list": (lambda run: (run / "recipe.yaml").write_text("- 1\n"), "holds no settings"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_else_a_run_reads_is_named(kind, run, ended):
    damage, message = OTHERS[kind]
    damage(run)
    done = CliRunner().invoke(app, ["train", "--recipe", str(ended / "recipe.yaml"), "--out", str(run), "--resume"])
    assert (done.exit_code, message in done.stderr) == (2, True), done.output
