"""On a model that was compiled and has run, every door that sets hooks gives what it gives on the plain model."""

import copy
import re

import pytest
import torch

from sparse_circuits.bridges import BridgedPair, Bridges, steer
from sparse_circuits.bridges.sides import side_of
from sparse_circuits.circuits import PruneConfig, mean_activations, prune, score, verify
from sparse_circuits.circuits.means import sample_activations
from sparse_circuits.circuits.reading import read_node
from sparse_circuits.convert.neuronpedia import to_attribution_graph
from sparse_circuits.training.metrics import residual_kurtosis
from sparse_circuits.viewer import Subject
from sparse_circuits.viewer.serve import run_prompt
from tiny import ROOT
from toy import ToyTokenizer, toy_blocks, toy_circuit, toy_model, toy_task

PROMPT = "(' " + " ".join(["w1"] * 19)


def compiled(how):
    """The toy model, compiled in one of three ways, after a first call."""
    torch._dynamo.reset()
    model = toy_model()
    if how == "in place":
        model.compile(backend="eager")
    elif how == "blocks":
        for block in model.transformer.h:
            block.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    with torch.no_grad():
        model(input_ids=toy_blocks(2), use_cache=False)
        model(input_ids=toy_blocks(2), use_cache=False, logits_to_keep=1)
    return model


def doors(model):
    """Everything that hooks tell of a model, as numbers."""
    tokenizer, task, blocks = ToyTokenizer(), toy_task(), toy_blocks(16)
    means = mean_activations(model, blocks)
    circuit = toy_circuit(model, means)
    found = {"means": means.values, "samples": sample_activations(model, blocks, 8)}
    for freeze in (False, True):
        with circuit.applied_to(model, freeze_norms=freeze):
            found[f"applied {freeze}"] = score(model, task.pairs(8, "test")).loss
    with circuit.applied_to(model, edges=False), torch.no_grad():
        found["logits"] = model(input_ids=blocks[:2], use_cache=False).logits
    config = PruneConfig(steps=8, pairs=4, eval_pairs=4, lr=0.05)
    pruned = prune(model, tokenizer, task, means, config)
    found["pruned"] = {site: indices.tolist() for site, indices in pruned.nodes.items()}
    found["verified"] = verify(circuit, model, tokenizer, task, blocks=blocks, pairs=4, controls=False, seeds=1).to_dict()
    found["node"] = read_node(model, tokenizer, "0.mlp.post_act:1", blocks)
    found["graph"] = to_attribution_graph(circuit, model, tokenizer, PROMPT, scan="x", slug="y")
    subject = Subject(circuit, model, tokenizer, task, blocks)
    found["served"] = run_prompt(subject, PROMPT, ["0.mlp.post_act:1"])
    found["kurtosis"] = residual_kurtosis(model, {"input_ids": blocks[:2]})
    return found


def numbers(value):
    """All numbers in what a door gave, in order."""
    if isinstance(value, torch.Tensor):
        return value.flatten().tolist()
    if isinstance(value, dict):
        return [x for key in value if key not in ("seconds", "create_time_ms") for x in numbers(value[key])]
    if isinstance(value, (list, tuple)):
        return [x for each in value for x in numbers(each)]
    return [float(value)] if isinstance(value, (int, float)) else []


@pytest.fixture(scope="module")
def plain():
    return doors(toy_model())


@pytest.mark.parametrize("how", ["in place", "blocks", "wrapped"])
def test_every_door_works_on_a_compiled_model(how, plain):
    found = doors(compiled(how))
    assert found.keys() == plain.keys()
    for door, value in plain.items():
        assert numbers(found[door]) == pytest.approx(numbers(value), abs=1e-5), door


def test_steering_works_on_compiled_models():
    def curve(dense, sparse):
        sides = side_of(dense), side_of(sparse)
        torch.manual_seed(0)
        pair = BridgedPair(dense, sparse, ToyTokenizer(), Bridges(sides[0].width, sides[1].width, sides[0].sublayers + 1))
        return steer(pair, toy_task().pairs(4, "test"), "1.attn.act_in:3", toy_blocks(4), random_directions=2)["probability"]

    plain = toy_model()
    assert curve(compiled("in place"), compiled("in place")) == pytest.approx(curve(plain, copy.deepcopy(plain)), abs=1e-6)


def test_hooks_are_set_in_one_way_only():
    """Whoever sets a hook of a module lets it be heard on compiled models, and takes it away (hooks.py). (Hooks of optimizers are another thing.)"""
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] in ("tests", "benchmarks", "build") or parts[0].startswith("."):
            continue
        text = path.read_text(encoding="utf-8")
        if re.search(r"register_(?!optimizer_)\w*hook\(", text):
            assert "hooks() as handles" in text, path
