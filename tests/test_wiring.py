"""The one table: a location and a matrix that are added to it are seen by everything that reads it."""

import pytest
import torch
from torch import nn

import sparse_circuits.wiring_csp as wiring
from sparse_circuits import CSPConfig
from sparse_circuits.circuits.sites import edge_maps, edge_names
from sparse_circuits.modeling_csp import CSPMLP
from sparse_circuits.topk_csp import NodeSite
from sparse_circuits.training import sparse_tensors
from sparse_circuits.training.info import model_info
from sparse_circuits.viewer import page
from sparse_circuits.wiring_csp import FINAL, LOCATIONS, MATRICES, Location, Matrix
from tiny import tiny_ids, tiny_model


def test_the_table_is_the_models(features):
    model = tiny_model(**features)
    assert list(model.node_sites()) == wiring.site_names(model.config.n_layer)
    for name, site in model.node_sites().items():
        layer, location = wiring.located(name)
        width = model.config.d_model if name == FINAL else wiring.location_width(model.config, location)
        assert site.width == width
        assert layer is None or wiring.site(layer, location) == name
    for block in model.transformer.h:
        for matrix in MATRICES:
            rows = sum(wiring.location_width(model.config, location) for location in matrix.writes)
            assert tuple(block.get_submodule(matrix.path).weight.shape) == (
                rows,
                wiring.location_width(model.config, matrix.reads),
            )


def test_names_that_are_no_sites_are_refused():
    for name in ("0.attn.y", "x.attn.q", "attn.q", "", "0.mlp", "final", "-1.attn.q", "99999.attn.q"):
        with pytest.raises(ValueError, match="is no node site"):
            wiring.located(name)
        assert not wiring.reads_residual(name)
    assert wiring.ordered(["1.attn.q", FINAL, "0.mlp.post_act", "0.attn.v"]) == [
        "0.attn.v",
        "0.mlp.post_act",
        "1.attn.q",
        FINAL,
    ]


class GatedMLP(CSPMLP):
    """An MLP with one location and one matrix more: neurons are multiplied by gates."""

    def __init__(self, config):
        super().__init__(config)
        self.c_gate = nn.Linear(config.location_width("mlp_in"), config.d_mlp, bias=config.bias)
        self.gate = NodeSite(config, "mlp_gate")

    def forward(self, hidden_states):
        read = self.act_in(hidden_states)
        gated = nn.functional.gelu(self.c_fc(read)) * self.gate(self.c_gate(read))
        return self.resid_delta(self.dropout(self.c_proj(self.post_act(gated))))


@pytest.fixture
def gated(monkeypatch):
    """The table with a row more for each of the two, as CONTRIBUTING.md says; nothing else is told of them."""
    added = {}
    for name, location in LOCATIONS.items():
        added[name] = location
        if name == "mlp_in":
            added["mlp_gate"] = Location("mlp.gate", "neurons", "gates")
    matrices = (*MATRICES, Matrix("mlp.c_gate", "mlp_in", ("mlp_gate",), 0))
    monkeypatch.setattr("sparse_circuits.modeling_csp.CSPMLP", GatedMLP)
    changed = {"LOCATIONS": added, "MATRICES": matrices, "NODE_LOCATIONS": tuple(n for n, each in added.items() if each.node)}
    import sys

    for module in [module for name, module in sys.modules.items() if name.startswith("sparse_circuits.")]:
        for name, value in changed.items():
            if name in vars(module):
                monkeypatch.setattr(module, name, value)
    return tiny_model(afrac={"mlp_gate": 0.25}, n_layer=2)


def test_a_location_and_a_matrix_are_added_in_one_place(gated, monkeypatch):
    model, ids = gated, tiny_ids()
    assert "0.mlp.gate" in model.node_sites()
    assert model.node_sites()["1.mlp.gate"].k == model.config.d_mlp // 4
    assert model(ids).logits.isfinite().all()
    with pytest.raises(ValueError, match="mlp_gate, mlp_neuron"):
        CSPConfig(afrac={"nowhere": 0.5})
    # projection: the matrix, its bias, and its neurons
    tensors = {tensor.name: tensor for tensor in sparse_tensors(model)}
    assert tensors["transformer.h.0.mlp.c_gate.weight"].neuron_dim == 0
    assert tensors["transformer.h.0.mlp.c_gate.bias"].group == "biases"
    # edges: their map, its names, its nonzeros
    name = "1.mlp.act_in->1.mlp.gate"
    assert name in edge_maps(model)
    assert name in edge_names("1.mlp.act_in")
    assert edge_maps(model)[name].weight().shape == (model.config.d_mlp, model.config.d_model)
    # what is in a model, and the page's rows
    assert model_info(model).degrees["neuron, incoming"].least == 2 * model.config.d_model
    assert page.wiring()["mlp.gate"] == {"title": "gates", "residual": False, "heads": False, "meets": ""}


def test_a_circuit_with_the_new_nodes_is_found_and_saved(gated, tmp_path):
    from sparse_circuits.circuits import Circuit, ablated, edges_in, mean_activations
    from sparse_circuits.circuits.identity import identify

    model = gated
    means = mean_activations(model, tiny_ids(8, 16))
    nodes = {"0.mlp.act_in": torch.tensor([1, 2]), "0.mlp.gate": torch.tensor([3, 5]), FINAL: torch.tensor([0])}
    widths = {name: site.width for name, site in model.node_sites().items()}
    circuit = Circuit("gates", nodes, edges_in(model, nodes), means.values, widths, identify(model), "none")
    assert circuit.num_edges == 4
    circuit.save_pretrained(tmp_path / "gates")
    again = Circuit.from_pretrained(tmp_path / "gates")
    assert again.nodes["0.mlp.gate"].tolist() == [3, 5]
    with again.applied_to(model), ablated(model, {}):
        assert model(tiny_ids()).logits.isfinite().all()
