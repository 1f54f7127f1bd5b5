"""A stand-in for the Hub, and what is published to it."""

import importlib
import shutil

import pytest
import torch
from published import TASK
from safetensors.torch import save_file

from forked import in_forked_process
from hub_server import Hub
from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.training.card import write_card
from tiny import ROOT

publishing = importlib.import_module("sparse_circuits.publishing.publish")  # whose function has its name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shipped model with a circuit of it, verified, and things that do not belong on the Hub."""
    folder = tmp_path_factory.mktemp("made") / "model"
    model, tokenizer = CSPForCausalLM.from_pretrained(ROOT).eval(), CSPTokenizer.from_pretrained(ROOT)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(folder, model, title="A model", description="For tests.")
    circuit = Circuit.from_pretrained(ROOT, TASK)
    circuit.labels = {}
    circuit.save_pretrained(folder / "circuits" / TASK)
    shutil.copyfile(ROOT / "circuits" / TASK / "report.json", folder / "circuits" / TASK / "report.json")
    blocks = torch.randint(0, len(tokenizer), (8, 64), generator=torch.Generator().manual_seed(0))
    save_file({"train": blocks.int()}, folder / "blocks.safetensors")
    (folder / "checkpoint-10").mkdir()
    (folder / "optimizer.pt").write_bytes(b"pickle")
    return folder


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.shutdown()


@pytest.fixture(autouse=True)
def folders_load_in_forks(monkeypatch):
    """Publishing loads what it has put together in a new process; here it is a forked one, but where the command runs as a whole."""
    monkeypatch.setattr(publishing, "in_new_process", in_forked_process)


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"
