"""Exports: the same graph everywhere, in the shapes that other tools document."""

import dataclasses
import json

import jsonschema
import networkx
import pytest
import torch

from sparse_circuits.circuits import Circuit, PruneConfig, mean_activations, prune
from sparse_circuits.circuits.export import residual_links, save_graphml, save_json
from sparse_circuits.circuits.identity import identify
from sparse_circuits.convert.mib import to_mib
from sparse_circuits.convert.neuronpedia import to_attribution_graph
from tiny import tiny_ids, tiny_model
from toy import EDGES, NODES, TOKENS, ToyTokenizer, toy_blocks, toy_model, toy_task

PROMPT = "(' w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w1 w2 w3 w4 w5 w6 w7 w8"


@pytest.fixture(scope="module")
def found():
    model = toy_model()
    circuit = prune(
        model, ToyTokenizer(), toy_task(), mean_activations(model, toy_blocks()), PruneConfig(steps=30, pairs=8, eval_pairs=32)
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


def loaded(graph):
    """By the rules of the published loader (EAP-IG's Graph.from_json, which MIB's circuit tracks use): a graph is made from cfg, every name must be one of it."""
    cfg = graph["cfg"]
    layers, heads, width = cfg["n_layers"], cfg["n_heads"], cfg["d_model"]
    assert cfg["parallel_attn_mlp"] is False
    stream, edges = ["input"], set()
    for layer in range(layers):
        own = [f"a{layer}.h{head}" for head in range(heads)]
        edges |= {f"{source}->{head}<{letter}>" for source in stream for head in own for letter in "qkv"}
        stream += own
        edges |= {f"{source}->m{layer}" for source in stream}
        stream.append(f"m{layer}")
    edges |= {f"{source}->logits" for source in stream}
    assert set(graph["nodes"]) == {*stream, "logits"}
    assert set(graph["edges"]) <= edges
    for name in stream:
        node = graph["nodes"][name]
        assert isinstance(node["in_graph"], bool)
        assert torch.tensor(node["neurons"]).float().shape == torch.tensor(node["neurons_scores"]).shape == (width,)
        assert node["score"] >= 0
    for edge in graph["edges"].values():
        assert edge["in_graph"] is True
        assert edge["score"] > 0
    return graph


def test_mib(found, tmp_path):
    model, circuit = found
    graph = loaded(json.loads(save_json(to_mib(circuit, model), tmp_path / "mib.json").read_text()))
    expected = set()
    layers, size = model.config.n_layer, model.config.d_head
    writes = {
        "input": {i for site, indices in NODES.items() if site.endswith("act_in") or site == "final_resid" for i in indices}
    }
    reads = {"logits": set(NODES["final_resid"])}
    for name, pairs in EDGES.items():
        layer, target = name.split(".")[0], name.split("->")[1].split(".", 1)[1]
        for s, t in pairs:
            if target.endswith("resid_delta"):
                writes.setdefault(f"m{layer}" if target.startswith("mlp") else f"a{layer}.h{s // size}", set()).add(t)
            else:
                reads.setdefault(
                    f"m{layer}" if target == "mlp.post_act" else f"a{layer}.h{t // size}<{target[-1]}>", set()
                ).add(s)
    place = {"input": -1, "logits": 9 * layers} | {
        name: 2 * int(name[1:].split(".")[0]) + (name[0] == "m")
        for name in [*writes, *(r.split("<")[0] for r in reads)]
        if name not in ("input", "logits")
    }
    for source, own in writes.items():
        expected |= {
            f"{source}->{target}"
            for target, theirs in reads.items()
            if own & theirs and place[source] < place[target.split("<")[0]]
        }
    assert set(graph["edges"]) == expected
    assert {name for name, node in graph["nodes"].items() if node["in_graph"]} == {name.split("->")[0] for name in expected} | {
        "logits"
    }
    for name in {each.split("->")[0] for each in expected}:
        assert {i for i, kept in enumerate(graph["nodes"][name]["neurons"]) if kept} == writes[name]


def test_mib_of_random_circuits_of_every_kind_of_model_is_loaded(features):
    model = tiny_model(**features)
    means = mean_activations(model, tiny_ids(4, 8))
    sites = model.node_sites()
    nodes = {name: torch.arange(0, site.width, 2) for name, site in sites.items()}
    circuit = Circuit(
        task="random", nodes=nodes, edges=None, means=means.values, widths={name: site.width for name, site in sites.items()}, model=identify(model),
        tokenizer="", settings={}, metrics={},
    )  # fmt: skip
    graph = loaded(to_mib(circuit, model))
    assert {"input->logits", "m1->logits"} <= set(graph["edges"])


STRING, NUMBER = {"type": "string"}, {"type": ["number", "null"]}
STRICT = {"type": "object", "additionalProperties": False}
NODE = {
    "node_id": STRING, "feature": {"type": ["integer", "null"]}, "layer": {"type": ["string", "integer"]}, "ctx_idx": {"type": "integer", "minimum": 0},
    "feature_type": STRING, "jsNodeId": STRING, "clerp": STRING, "influence": NUMBER, "activation": NUMBER,
}  # fmt: skip
SCHEMA = STRICT | {  # Neuronpedia's, with no field of a node but those that it knows
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": STRICT | {
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                "slug": STRING, "scan": STRING, "prompt": STRING, "prompt_tokens": {"type": "array", "items": STRING}, "node_threshold": NUMBER,
                "schema_version": {"const": 1}, "pruning_settings": {"type": "object"}, "generation_settings": {"type": "object"},
                "info": {"type": "object", "properties": {"description": STRING, "creator_name": STRING, "create_time_ms": NUMBER, "generator": {
                    "type": "object", "properties": {"name": STRING, "version": STRING, "url": STRING}}}},
            },
        },
        "qParams": STRICT | {"properties": {
            "pinnedIds": {"type": "array", "items": STRING}, "supernodes": {"type": "array", "items": {"type": "array", "items": STRING, "minItems": 2}},
            "linkType": STRING, "clickedId": STRING, "sg_pos": STRING,
        }},
        "nodes": {"type": "array", "items": STRICT | {"required": ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"], "properties": NODE}},
        "links": {"type": "array", "items": STRICT | {"required": ["source", "target", "weight"], "properties": {"source": STRING, "target": STRING, "weight": {"type": "number"}}}},
    },
}  # fmt: skip


def test_attribution_graphs_fit_the_schema(found):
    model, circuit = found
    grouped = dataclasses.replace(
        circuit, groups={"0.mlp.post_act:1": "the quote", "final_resid:4": "out", "1.attn.q:999": "of a node that there is not"}
    )
    graph = to_attribution_graph(grouped, model, ToyTokenizer(), PROMPT, scan="toy", slug="quotes")
    jsonschema.validate(graph, SCHEMA)
    groups = {name: ids for name, *ids in graph["qParams"]["supernodes"]}
    assert set(groups) == {"the quote", "out"}
    assert set(groups["the quote"]) <= {node["node_id"] for node in graph["nodes"]}
    for broken in (
        {**graph, "more": 1},
        {**graph, "nodes": [{**graph["nodes"][0], "token_prob": 0.5}]},
        {**graph, "links": [{"source": "a"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):  # the schema does tell
            jsonschema.validate(broken, SCHEMA)


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
    shares = {token: float(node["clerp"].rpartition("p=")[2].rstrip(")")) for token, node in logits.items()}
    assert shares[repr(TOKENS[2])] == max(shares.values())
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
