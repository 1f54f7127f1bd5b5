"""Reading a node: its weights, its contexts, what ablating it costs; and the commands about circuits."""

import json

import pytest
import torch
from typer.testing import CliRunner

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer
from sparse_circuits.circuits.reading import read_node
from sparse_circuits.cli.app import app
from sparse_circuits.cli.circuits import prune_config
from tiny import ROOT
from toy import ToyTokenizer, toy_blocks, toy_model


def csp(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_a_neuron_reads_and_writes_its_weights():
    found = read_node(toy_model(), ToyTokenizer(), "0.mlp.post_act:1", toy_blocks())
    assert {(e["node"], e["weight"]) for e in found["reads"]} == {("0.mlp.act_in:0", 1.0), ("0.mlp.act_in:1", -1.0)}
    assert [(e["node"], e["weight"]) for e in found["writes"]] == [("0.mlp.resid_delta:3", 1.0)]
    assert {c["token"] for c in found["largest"]} == {"('"}
    assert {c["token"] for c in found["smallest"]} == {'("'}
    assert found["largest"][0]["activation"] == pytest.approx(2 * 8**0.5, rel=1e-5)
    assert found["tokens"] == 64 * 24
    json.dumps(found)


def test_reads_of_the_residual_stream_name_writers_and_tokens():
    model = toy_model()
    found = read_node(model, ToyTokenizer(), "1.attn.act_in:2", toy_blocks(4))
    assert {e["node"] for e in found["reads"]} == {"0.attn.resid_delta:2", "0.mlp.resid_delta:2"}
    assert {e["node"] for e in found["writes"]} == {"1.attn.k:0"}
    found = read_node(model, ToyTokenizer(), "0.attn.act_in:0", toy_blocks(4))
    assert {e["node"] for e in found["reads"]} == {'token "(\'"'}
    found = read_node(model, ToyTokenizer(), "final_resid:4", toy_blocks(4))
    assert {(e["node"], e["weight"]) for e in found["writes"]} == {('token "\')"', 1.0), ("token '\")'", -1.0)}
    found = read_node(model, ToyTokenizer(), "1.attn.resid_delta:4", toy_blocks(4))
    assert {e["node"] for e in found["writes"]} == {"1.mlp.act_in:4", "final_resid:4"}


def test_ablating_a_node_costs_what_a_model_without_it_loses():
    model, blocks = toy_model(), toy_blocks(16)
    found = read_node(model, ToyTokenizer(), "final_resid:4", blocks)
    with torch.no_grad():
        assert found["loss"] == pytest.approx(float(model(blocks, labels=blocks).loss), rel=1e-5)
        model.transformer.final_resid.register_forward_hook(
            lambda m, a, out: torch.cat([out[..., :4], torch.full_like(out[..., 4:5], found["mean"]), out[..., 5:]], -1)
        )
        assert found["loss_ablated"] == pytest.approx(float(model(blocks, labels=blocks).loss), rel=1e-5)


@pytest.mark.parametrize("node", ["0.mlp.post_act:4", "0.mlp.post_act:-1", "nowhere:0", "final_resid", "final_resid:x"])
def test_nodes_that_do_not_exist_are_named(node):
    with pytest.raises(ValueError, match="names no node"):
        read_node(toy_model(), ToyTokenizer(), node, toy_blocks(4))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """The shipped model: it closes strings, and does not do most other tasks."""
    return ROOT


def test_tasks_are_gated(model_folder):
    done = csp("tasks", model_folder, "--task", "single_double_quote", "--task", "var_swap")
    assert done.exit_code == 0, done.output
    assert "1 of 2 tasks pass" in done.stdout
    rows = json.loads(csp("tasks", model_folder, "--task", "var_swap", "--json").stdout)
    assert rows[0]["task"] == "var_swap"
    assert not rows[0]["passes"]
    assert "is no task" in csp("tasks", model_folder, "--task", "nothing").stderr


def test_a_circuit_is_pruned_and_verified_from_the_command_line(model_folder, tmp_path):
    small = ("--corpus", "idioms:300", "--tokens", 2000)
    done = csp(
        "prune",
        model_folder,
        "single_double_quote",
        "--out",
        tmp_path / "c",
        *small,
        "--target",
        0.4,
        "--set",
        "steps=20",
        "--set",
        "pairs=8",
        "--set",
        "eval_pairs=8",
    )
    assert done.exit_code == 0, done.output
    circuit = Circuit.from_pretrained(tmp_path / "c")
    assert circuit.metrics["reached"]
    assert f"{circuit.num_nodes} nodes, {circuit.num_edges} edges" in done.stdout
    done = csp("verify", model_folder, tmp_path / "c", *small, "--pairs", 8, "--no-controls", "--seeds", 1)
    assert done.exit_code == 0, done.output
    assert "pairwise loss" in done.stdout
    assert "Verification" in (tmp_path / "c" / "page.html").read_text()
    json.loads((tmp_path / "c" / "report.json").read_text())
    model = CSPForCausalLM.from_pretrained(model_folder)
    with circuit.applied_to(model):
        assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    exports_are_written(model_folder, tmp_path / "c", tmp_path)


def exports_are_written(model_folder, circuit, folder):
    assert csp("export", circuit, "--out", folder / "c.graphml").exit_code == 0
    assert (folder / "c.graphml").read_text().startswith("<?xml")
    assert csp("export", circuit, "--to", "mib", "--model", model_folder, "--out", folder / "mib.json").exit_code == 0
    assert json.loads((folder / "mib.json").read_text())["cfg"]["n_layers"] == 4
    graph = ("--to", "neuronpedia", "--model", model_folder, "--prompt", "x = 'a\\n", "--scan", "tiny")
    assert csp("export", circuit, *graph, "--out", folder / "np.json").exit_code == 0
    assert json.loads((folder / "np.json").read_text())["metadata"]["prompt"] == "x = 'a\n"
    for words, message in [
        (("--to", "png"), "is no format"),
        (("--to", "mib"), "name it with --model"),
        (("--to", "neuronpedia", "--model", model_folder), "give --prompt and --scan"),
    ]:
        done = csp("export", circuit, *words, "--out", folder / "no")
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert not (folder / "no").exists()


def test_wrong_input_ends_in_one_sentence(model_folder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for words, message in [
        (
            ("prune", model_folder, "var_swap", "--out", tmp_path / "c", "--corpus", "idioms:100"),
            "cannot do var_swap: it prefers",
        ),
        (("prune", model_folder, "nothing", "--out", tmp_path / "c", "--corpus", "idioms:100"), "is no task"),
        (("prune", model_folder, "if_equals", "--out", tmp_path / "full"), "has other files"),
        (("prune", tmp_path / "no", "if_equals", "--out", tmp_path / "c"), "is no folder"),
        (("prune", model_folder, "if_equals", "--out", tmp_path / "c", "--set", "stepz=3"), "is no setting of pruning"),
        (("verify", model_folder, tmp_path / "full"), r"has no circuit.json|holds no circuit.json"),
        (("node", model_folder, "0.mlp:1", "--corpus", "idioms:100"), "names no node"),
    ]:
        done = csp(*words)
        assert done.exit_code == 2, words
        assert any(part in done.stderr for part in message.split("|")), done.stderr
        said = [line for line in done.stderr.strip().splitlines() if "Loading weights" not in line]
        assert len(said) == 1
    assert not (tmp_path / "c").exists()


def test_settings_of_pruning():
    config = prune_config(0.2, ["steps=7", "tie_qk=true", "lr=1"])
    assert (config.target_loss, config.steps, config.tie_qk, config.lr) == (0.2, 7, True, 1.0)
    for wrong in ("steps=x", "tie_qk=1", "steps=true", "steps"):
        with pytest.raises(ValueError, match=r"must be a|is no setting"):
            prune_config(0.2, [wrong])


def test_a_node_is_shown(model_folder):
    done = csp("node", model_folder, "final_resid:3", "--corpus", "idioms:100", "--tokens", 500, "--contexts", 2)
    assert done.exit_code == 0, done.output
    assert "largest:" in done.stdout
    found = json.loads(csp("node", model_folder, "0.attn.q:1", "--corpus", "idioms:100", "--tokens", 500, "--json").stdout)
    assert found["node"] == "0.attn.q:1"
    assert CSPTokenizer.from_folder(ROOT) is not None
