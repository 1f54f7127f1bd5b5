"""OpenAI's viz_data.pt: read without objects, checked against the model, losses halved."""

import pickle

import pytest
import torch
from typer.testing import CliRunner

from sparse_circuits import Circuit, CSPForCausalLM
from sparse_circuits.circuits import mean_activations
from sparse_circuits.cli.app import app
from sparse_circuits.convert import convert_openai_circuit
from tiny import ROOT, tiny_ids, tiny_model


class Tokenizer:
    def get_vocab(self):
        return {str(i): i for i in range(97)}


def viz(model, **changes):
    """A file as docs/method.md#openais-formats, describes it."""
    nodes = {name: torch.arange(0, site.width, 7) for name, site in model.node_sites().items()}
    nodes["0.attn.q"] = torch.tensor([], dtype=torch.int64)
    data = {
        "circuit_data": nodes,
        "importances": {
            "loss": torch.tensor(0.3), "interv_loss": 1.2, "ch_interv_losses": {"final_resid": [0.4]}, "pair_data": [],
            "beeg_model_config": {"n_layer": 2, "d_model": 32, "n_head": 4, "d_head": 8, "vocab_size": 97},
        },
        "samples": {}, "all_loss": [(0, 0.5)], "num_total_nodes": 10, "prune_config": {"k_coef": 1e-4, "odd": torch.zeros(2)},
    }  # fmt: skip
    return {**data, **changes}


@pytest.fixture
def model():
    return tiny_model()


def converted(model, data, tmp_path):
    torch.save(data, tmp_path / "viz_data.pt")
    means = mean_activations(model, tiny_ids(8, 16))
    return convert_openai_circuit(tmp_path / "viz_data.pt", model, Tokenizer(), means, task="quotes")


def test_nodes_come_over_and_losses_are_halved(model, tmp_path):
    circuit = converted(model, viz(model), tmp_path)
    assert "0.attn.q" not in circuit.nodes
    assert circuit.nodes["0.mlp.post_act"].tolist() == list(range(0, 64, 7))
    assert circuit.metrics["circuit"]["loss"] == pytest.approx(0.15)
    assert circuit.metrics["ablated_in_release"]["loss"] == pytest.approx(0.6)
    assert circuit.settings["prune_config"] == {"k_coef": 1e-4}
    assert circuit.edges is None
    again = Circuit.from_pretrained(circuit.save_pretrained(tmp_path / "c"))
    with torch.no_grad(), again.applied_to(model):
        assert model(tiny_ids()).logits.isfinite().all()


def test_what_does_not_fit_is_named(model, tmp_path):
    cases = [
        ({"circuit_data": {"5.attn.q": torch.tensor([0])}}, r"nodes at '5\.attn\.q'"),
        ({"circuit_data": {"0.attn.q": torch.tensor([32])}}, r"names channel 32 at 0\.attn\.q"),
        ({"circuit_data": {"0.attn.q": torch.tensor([-1])}}, r"names channel"),
        ({"circuit_data": {"0.attn.q": torch.tensor([0.5])}}, "no list of channels"),
        ({"circuit_data": [1]}, "has no circuit_data"),
        ({"importances": {"beeg_model_config": {"n_layer": 8}}}, "n_layer 8, this one has 2"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            converted(model, viz(model, **changes), tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_objects_are_never_unpickled(model, tmp_path, capsys):
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        converted(model, viz(model, extra=Evil()), tmp_path)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    means = mean_activations(model, tiny_ids(8, 16))
    with pytest.raises(ValueError, match="cannot be read as plain tensors"):
        convert_openai_circuit(tmp_path / "raw.pt", model, Tokenizer(), means, task="x")
    assert "executed" not in capsys.readouterr().out
    torch.save(viz(model), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-100])
    with pytest.raises(ValueError, match="may be truncated"):
        convert_openai_circuit(tmp_path / "cut.pt", model, Tokenizer(), means, task="x")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        convert_openai_circuit(tmp_path / "no.pt", model, Tokenizer(), means, task="x")


def test_from_the_command_line(tmp_path):
    root = CSPForCausalLM.from_pretrained(ROOT)
    config = {name: getattr(root.config, name) for name in ("n_layer", "d_model", "n_head", "d_head", "vocab_size")}
    data = viz(root)
    data["importances"]["beeg_model_config"] = config
    torch.save(data, tmp_path / "viz_data.pt")
    words = ["convert", str(tmp_path / "viz_data.pt"), str(tmp_path / "c")]
    small = ["--corpus", "idioms:100", "--tokens", "500"]
    done = CliRunner().invoke(app, [*words, "--model", str(ROOT), "--task", "quotes", *small])
    assert done.exit_code == 0, done.output
    circuit = Circuit.from_pretrained(tmp_path / "c")
    assert (circuit.task, circuit.metrics["circuit"]["loss"]) == ("quotes", pytest.approx(0.15))
    with circuit.applied_to(root):
        assert root(torch.tensor([[1, 2]])).logits.isfinite().all()
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, "name them with --model" in done.stderr) == (2, True)
