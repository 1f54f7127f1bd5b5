"""Which edges of a circuit lie on a path from an embedding to an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..wiring_csp import FINAL, by_head, located, made_inputs, reads_residual, site, writes_residual
from .edges import Edges
from .masks import Nodes
from .sites import dense, require_csp

_Marks = dict[str, torch.Tensor]  # site -> bool [width]


def on_path(model: Any, nodes: Nodes, edges: Mapping[str, Edges], answers: torch.Tensor) -> dict[str, Edges]:
    """Those edges on a path from the embedding of a token or position to the logit of an answer.

    A path goes along edges, along channels of the residual stream (from the embedding or a node that writes a channel to the later nodes that read it),
    within a head from a query or key to what the head makes of its values, and ends in a channel to which the unembeddings of the answers
    differ from 0. What lies on none can act only through the scale of a norm, through the competition of an AbsTopK, or as a constant.

    Args:
        answers: token ids, any shape.
    """
    found = _Paths(model, nodes, edges)
    reached, useful = found.reached(), found.useful(answers)
    kept = {}
    for name, each in edges.items():
        source, target = name.split("->")
        stays = reached[found.leaves(source)][each.source] & useful[target][each.target]
        if bool(stays.any()):
            kept[name] = Edges(*(part[stays] for part in each))
    return kept


class _Paths:
    def __init__(self, model: Any, nodes: Nodes, edges: Mapping[str, Edges]):
        self.model, self.edges = require_csp(model), edges
        self.widths = {name: each.width for name, each in model.node_sites().items()}
        self.kept = {name: _marked(width, nodes.get(name)) for name, width in self.widths.items()}
        self.made = dict(made_inputs(self.widths).items())
        self.heads = model.config.d_head

    def leaves(self, source: str) -> str:
        """Under which name it is kept what edges out of a site carry: for values, what attention makes of them."""
        return next((name for name, of in self.made.items() if of == source), source)

    def reached(self) -> _Marks:
        """What depends on the prompt: nodes, and what attention makes of values, forward."""
        base = self.model.transformer
        wide = max(self.widths.values())
        stream = torch.zeros(wide, dtype=torch.bool)
        embedded = (dense(base.wte.weight).detach() != 0).any(0).cpu()
        stream[: len(embedded)] |= embedded
        stream[len(embedded) :] = True  # positions that stand beside the stream
        if self.model.config.position_embedding_type == "added":
            stream[: len(embedded)] |= (dense(base.wpe.weight).detach() != 0).any(0).cpu()
        marks: _Marks = {}
        for name, width in self.widths.items():
            if reads_residual(name):
                marks[name] = self.kept[name] & stream[:width]
                continue
            marks[name] = torch.zeros(width, dtype=torch.bool)
            for edge, each in self.edges.items():
                source, target = edge.split("->")
                if target == name:
                    marks[name][each.target[marks[self.leaves(source)][each.source]]] = True
            if writes_residual(name):
                stream[:width] |= marks[name]
            layer, location = located(name)
            if (
                location == "attn_v"
            ):  # q and k have been seen: a head whose pattern moves makes something of constant values too
                pattern = self._by_head(marks[site(str(layer), "attn_q")]) | self._by_head(marks[site(str(layer), "attn_k")])
                marks[self.leaves(name)] = self.kept[name] & (marks[name] | pattern.repeat_interleave(self.heads))
        return marks

    def useful(self, answers: torch.Tensor) -> _Marks:
        """What an answer's logit can depend on, backward."""
        rows = dense(self.model.lm_head.weight).detach()[answers.flatten().unique().to(self.model.device)]
        stream = torch.zeros(max(self.widths.values()), dtype=torch.bool)
        marks: _Marks = {name: torch.zeros(width, dtype=torch.bool) for name, width in self.widths.items()}
        marks[FINAL] = self.kept[FINAL] & (rows != 0).any(0).cpu()
        stream[: len(marks[FINAL])] |= marks[FINAL]
        for name in reversed(list(self.widths)):
            if name == FINAL:
                continue
            if writes_residual(name):
                marks[name] = self.kept[name] & stream[: self.widths[name]]
            elif by_head(name) and located(name)[1] != "attn_v":
                values = marks[site(str(located(name)[0]), "attn_v")]
                marks[name] = self.kept[name] & self._by_head(values).repeat_interleave(self.heads)
            else:
                for edge, each in self.edges.items():
                    source, target = edge.split("->")
                    if source == name:
                        marks[name][each.source[marks[target][each.target]]] = True
            if reads_residual(name):
                stream[: self.widths[name]] |= marks[name]
        return marks

    def _by_head(self, marks: torch.Tensor) -> torch.Tensor:
        return marks.view(-1, self.heads).any(1)


def _marked(width: int, indices: torch.Tensor | None) -> torch.Tensor:
    marks = torch.zeros(width, dtype=torch.bool)
    if indices is not None:
        marks[indices] = True
    return marks
