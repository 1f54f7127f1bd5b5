"""Exports: the same graph everywhere, in the shapes that other tools document."""

import dataclasses
import json

import networkx
import pytest
import torch

from sparse_circuits.circuits import PruneConfig, mean_activations, prune
from sparse_circuits.circuits.export import residual_links, save_graphml, save_json
from sparse_circuits.convert.mib import to_mib
from sparse_circuits.convert.neuronpedia import to_attribution_graph
from toy import EDGES, NODES, TOKENS, ToyTokenizer, toy_blocks, toy_model, toy_task

PROMPT = "(' w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w1 w2 w3 w4 w5 w6 w7 w8"


@pytest.fixture(scope="module")
def found():
    model = toy_model()
    circuit = prune(
        model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), PruneConfig(steps=150, pairs=8, eval_pairs=32)
    )
    circuit.labels = {"0.mlp.post_act:1": "quote type <&>"}
    return model, circuit


def test_networkx_has_the_circuits_nodes_edges_and_channels(found):
    _, circuit = found
    graph = circuit.to_networkx()
    assert set(graph) == {f"{site}:{i}" for site, indices in NODES.items() for i in indices}
    weights = {(a, b) for a, b, kind in graph.edges(data="kind") if kind == "weight"}
    assert weights == {(f"{n.split('->')[0]}:{s}", f"{n.split('->')[1]}:{t}") for n, pairs in EDGES.items() for s, t in pairs}
    channels = {(a, b) for a, b, kind in graph.edges(data="kind") if kind == "residual"}
    assert channels == {
        ("0.mlp.resid_delta:2", "1.attn.act_in:2"), ("0.mlp.resid_delta:3", "1.attn.act_in:3"), ("1.attn.resid_delta:4", "final_resid:4"),
    } == set(residual_links(circuit))  # fmt: skip
    assert graph.edges["1.attn.act_in:2", "1.attn.k:0"]["weight"] == 6.0
    assert networkx.is_directed_acyclic_graph(graph)
    assert graph.nodes["final_resid:4"]["layer"] == 2


def test_graphml_comes_back(found, tmp_path):
    _, circuit = found
    again = networkx.read_graphml(save_graphml(circuit, tmp_path / "c.graphml"))
    assert set(again.edges) == set(circuit.to_networkx().edges)
    assert again.nodes["0.mlp.post_act:1"]["label"] == "quote type <&>"


def test_mib(found, tmp_path):
    model, circuit = found
    graph = json.loads(save_json(to_mib(circuit, model), tmp_path / "mib.json").read_text())
    assert set(graph) == {"cfg", "nodes", "edges"}
    assert set(graph["nodes"]) == set(model.node_sites())
    for site, node in graph["nodes"].items():
        assert node["in_graph"] is (site in NODES)
        assert [i for i, kept in enumerate(node["neurons"]) if kept] == NODES.get(site, [])
        assert len(node["neurons_scores"]) == len(node["neurons"])
    assert {name for name, edge in graph["edges"].items() if edge["in_graph"]} == {
        *EDGES, "0.mlp.resid_delta->1.attn.act_in", "1.attn.resid_delta->final_resid",
    }  # fmt: skip
    assert graph["edges"]["1.attn.act_in->1.attn.k"]["score"] == 6.0


REQUIRED = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"}


def test_attribution_graph(found, tmp_path):
    model, circuit = found
    graph = to_attribution_graph(circuit, model, ToyTokenizer(), PROMPT, scan="toy", slug="quotes")
    graph = json.loads(save_json(graph, tmp_path / "graph.json").read_text())
    assert {"slug", "scan", "prompt_tokens", "prompt"} <= set(graph["metadata"])
    assert graph["metadata"]["prompt_tokens"] == PROMPT.split()
    assert set(graph) == {"metadata", "qParams", "nodes", "links"}
    ids = [node["node_id"] for node in graph["nodes"]]
    assert len(ids) == len(set(ids))
    for node in graph["nodes"]:
        assert set(node) >= REQUIRED
        assert isinstance(node["ctx_idx"], int)
        assert isinstance(node["layer"], str)
        assert 0 <= node["ctx_idx"] < 20
    for link in graph["links"]:
        assert link["source"] in ids
        assert link["target"] in ids
        assert link["weight"] != 0
    assert any(node["clerp"] == "quote type <&>" for node in graph["nodes"])
    # What flows into a node along its edges is what it is made of: v's contributions through attention sum to resid_delta, no bias there.
    order = list(circuit.widths)
    target = f"{order.index('1.attn.resid_delta')}_4_19"
    flowing = sum(link["weight"] for link in graph["links"] if link["target"] == target)
    value = next(node["activation"] for node in graph["nodes"] if node["node_id"] == target)
    assert flowing == pytest.approx(value, rel=1e-4)
    logits = {node["clerp"].partition(" ")[0]: node for node in graph["nodes"] if node["feature_type"] == "logit"}
    assert logits[repr(TOKENS[2])]["token_prob"] == max(node["token_prob"] for node in logits.values())
    into = [link for link in graph["links"] if link["target"] == logits[repr(TOKENS[2])]["node_id"]]
    assert [link["source"] for link in into] == [f"{order.index('final_resid')}_4_19"]
    assert model.config._attn_implementation != "eager"


def test_what_cannot_be_exported_is_named(found):
    model, circuit = found
    with pytest.raises(ValueError, match="has no tokens"):
        to_attribution_graph(circuit, model, ToyTokenizer(), "", scan="x", slug="x")
    other = toy_model()
    with torch.no_grad():
        other.lm_head.weight[0, 0] = 1
    with pytest.raises(ValueError, match="whose weights are not"):
        to_mib(circuit, other)


def test_a_circuit_without_edges_of_its_own_exports_all_between_its_nodes(circuit):
    model, bare = toy_model(), dataclasses.replace(circuit, edges=None)
    assert set(bare.to_networkx(model).edges) == set(circuit.to_networkx().edges)
    with pytest.raises(ValueError, match="pass the model"):
        bare.to_networkx()
