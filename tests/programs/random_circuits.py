"""Circuits of random nodes and edges, in random models: nothing in them is zero that could hide a missing term."""

from __future__ import annotations

import torch

from sparse_circuits import Circuit
from sparse_circuits.circuits import edges_in, mean_activations
from sparse_circuits.circuits.edges import Edges
from sparse_circuits.circuits.identity import identify
from tiny import tiny_ids, tiny_model


def random_circuit(model, *, task="with_as", tokenizer="", share=0.5, seed=0, frozen=False) -> Circuit:
    generator = torch.Generator().manual_seed(seed)
    blocks = tiny_ids(8, 16, vocab=model.config.vocab_size, seed=3)
    nodes = {}
    for name, site in model.node_sites().items():
        kept = (torch.rand(site.width, generator=generator) < share).nonzero()[:, 0]
        if len(kept):
            nodes[name] = kept
    edges = {}
    for name, each in edges_in(model, nodes).items():
        stays = torch.rand(len(each.source), generator=generator) < 0.7
        if bool(stays.any()):
            edges[name] = Edges(*(part[stays] for part in each))
    widths = {name: site.width for name, site in model.node_sites().items()}
    settings = {"freeze_norms": frozen, "task_form": "line_end"}
    return Circuit(
        task, nodes, edges, mean_activations(model, blocks).values, widths, identify(model), tokenizer, settings=settings
    )


def model_with(seed=0, **features):
    return tiny_model(seed, norm_type="rms_norm", **features)
