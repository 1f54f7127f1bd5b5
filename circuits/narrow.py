"""Candidate circuits, run by what they need: where a map's closed inputs stand at constants, only its open ones are multiplied, only for outputs that somebody sees,
and a sublayer none of whose writes is open is not run. Equal to the whole computation but for the order of sums; what decides in the end is run whole (`candidates.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..nonzeros_csp import SparseLinear, Support, sparse_product
from ..wiring_csp import MATRICES, site
from .edges import Edges
from .sites import EdgeMap, edge_maps

_NONE = torch.zeros(0, dtype=torch.int64)
Cuts = Sequence[tuple[EdgeMap, Edges]]  # of one map


class Narrow:
    """The maps of a model as they are while closed nodes stand at one value each.

    Args:
        fills: site -> what closed nodes are held at, [width].
    """

    def __init__(self, model: Any, fills: Mapping[str, torch.Tensor]):
        self.model, self.sites = model, model.node_sites()
        self.maps = edge_maps(model)
        self.parts: list[_DensePart | _SparsePart] = []
        self.writers: list[
            tuple[Any, str, Any]
        ] = []  # sublayers, where they write, and what stands in for them where no node does
        for layer, block in enumerate(model.transformer.h):
            attn_out, mlp_out = site(layer, "attn_out"), site(layer, "mlp_out")
            self.writers.append((block.attn, attn_out, _attending(fills[attn_out])))
            self.writers.append((block.mlp, mlp_out, _writing(fills[mlp_out])))
            for matrix in MATRICES:
                module, source = block.get_submodule(matrix.path), site(layer, matrix.reads)
                kind = _PARTS.get(type(module))
                if kind is None:
                    continue
                # What attention makes of held values is these values, unless a sink takes a share of them.
                constant = not matrix.inputs or block.attn.sink_bias is None
                held = fills[source].to(next(module.parameters())) if constant else None
                targets = [site(layer, location) for location in matrix.writes]
                base = None if held is None else type(module).forward(module, held)
                self.parts.append(kind(module, source, targets, held, base))

    @contextmanager
    def running(
        self,
        nodes: Mapping[str, torch.Tensor],
        answers: torch.Tensor | None = None,
        removed: Mapping[str, Edges] | None = None,
        means: Mapping[str, torch.Tensor] | None = None,
    ) -> Iterator[None]:
        """While the block runs, the model computes what these nodes need; for the rest the caller's hooks have to hold the fills (and scales of frozen norms have to
        be given, since the whole model does not run in the block).

        Args:
            answers: tokens whose logits alone are needed; those of the others are not to be used. None: all.
            removed, means: edges between open nodes that carry means, as `ablated` takes them, which need not be told of them then.
        """
        changed: list[Any] = []
        cuts: dict[nn.Module, list[tuple[EdgeMap, Edges]]] = {}
        for name, edges in (removed or {}).items():
            cuts.setdefault(self.maps[name].module, []).append((self.maps[name], edges))
        try:
            for sublayer, written, silent in self.writers:
                if not len(nodes.get(written, _NONE)):
                    changed.append(sublayer)
                    changed[-1].forward = silent
            for part in self.parts:
                forward = part.forward(nodes, self.sites, cuts.get(part.module, ()), means or {})
                if forward is not None:
                    changed.append(part.module)
                    changed[-1].forward = forward
            head = self.model.lm_head
            if answers is not None and type(head) is nn.Linear:
                changed.append(head)
                changed[-1].forward = _rows_alone(head, answers)
            yield
        finally:
            for module in changed:
                del module.forward


def narrowed(
    model: Any, nodes: Mapping[str, torch.Tensor], fills: Mapping[str, torch.Tensor], answers: torch.Tensor | None
) -> AbstractContextManager[None]:
    """`Narrow(model, fills).running(nodes, answers)` where it is of use: on CPU, and closed nodes stand at one value each."""
    if not can_narrow(model, fills):
        return nullcontext()
    return Narrow(model, fills).running(nodes, None if answers is None else answers.unique())


def can_narrow(model: Any, fills: Mapping[str, torch.Tensor]) -> bool:
    """Whether a model under these fills can be run by what a candidate needs."""
    return model.device.type == "cpu" and all(each.dim() == 1 for each in fills.values())


class _Part:
    """One map: its sources' site, its targets' sites in the order of its rows, the constants that sources are held at, and what comes out of these alone."""

    def __init__(self, module: Any, source: str, targets: list[str], held: torch.Tensor | None, base: torch.Tensor | None):
        self.module, self.source, self.targets = module, source, targets
        self.held = held
        # Of fills that are being searched for, what they lead to is differentiated; of a model whose weights are, nothing is.
        self.base = base if base is None or (held is not None and held.requires_grad) else base.detach()

    def rows(self, nodes: Mapping[str, torch.Tensor], sites: Mapping[str, Any]) -> torch.Tensor | None:
        """Rows that are seen: of open nodes, and all where AbsTopK compares them; None: all."""
        found, first, some = [], 0, False
        for name in self.targets:
            width = sites[name].width
            if sites[name].k >= width:
                some = True
                found.append(nodes.get(name, _NONE) + first)
            else:
                found.append(torch.arange(first, first + width))
            first += width
        return torch.cat(found) if some else None

    def forward(
        self, nodes: Mapping[str, torch.Tensor], sites: Mapping[str, Any], cuts: Cuts, means: Mapping[str, torch.Tensor]
    ) -> Any:
        """In place of the module's; None where there is nothing to be saved."""
        rows = self.rows(nodes, sites)
        return None if self.held is None and rows is None and not cuts else self._narrower(rows, nodes, cuts, means)

    def _narrower(
        self, rows: torch.Tensor | None, nodes: Mapping[str, torch.Tensor], cuts: Cuts, means: Mapping[str, torch.Tensor]
    ) -> Any:
        raise NotImplementedError


class _DensePart(_Part):
    def _narrower(
        self, rows: torch.Tensor | None, nodes: Mapping[str, torch.Tensor], cuts: Cuts, means: Mapping[str, torch.Tensor]
    ) -> Any:
        module, held = self.module, self.held
        columns = None
        weight, base = module.weight, module.bias if held is None else self.base
        if rows is not None:
            weight, base = weight[rows], None if base is None else base[rows]
        if held is not None:
            columns = nodes.get(self.source, _NONE)
            weight, held = weight[:, columns], held[columns]
        if cuts:
            weight, base = self._cut(weight, base, rows, columns, cuts, means)
        width = module.out_features

        def forward(x: torch.Tensor) -> torch.Tensor:
            out = F.linear(x if columns is None or held is None else x[..., columns] - held, weight, base)
            return out if rows is None else out.new_zeros(*x.shape[:-1], width).index_copy_(-1, rows, out)

        return forward

    def _cut(
        self,
        weight: torch.Tensor,
        base: torch.Tensor | None,
        rows: torch.Tensor | None,
        columns: torch.Tensor | None,
        cuts: Cuts,
        means: Mapping[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights and constants without some edges: they give what they carry at the means, as far as the constants do not have it."""
        weight = weight.clone()
        base = weight.new_zeros(len(weight)) if base is None else base
        for part, (source, target, _) in cuts:
            at = (
                _place(rows, target + part.rows.start, self.module.out_features),
                _place(columns, source, self.module.in_features),
            )
            carried = means[part.mean_name].to(base)[source]
            if self.held is not None:
                carried = carried - self.held[source]
            base = base.index_add(0, at[0], weight[at] * carried)
            weight[at] = 0
        return weight, base


class _SparsePart(_Part):
    def _narrower(
        self, rows: torch.Tensor | None, nodes: Mapping[str, torch.Tensor], cuts: Cuts, means: Mapping[str, torch.Tensor]
    ) -> Any:
        module, held, values = self.module, self.held, self.module.weight.values
        row_of, columns = self.places
        stays = torch.ones(len(values), dtype=torch.bool)
        if rows is not None:
            stays &= _among(rows, module.out_features)[row_of]
        if held is not None:
            stays &= _among(nodes.get(self.source, _NONE), module.in_features)[columns]
        base = module.bias if held is None else self.base
        base = values.new_zeros(module.out_features) if base is None else base
        if held is not None:  # what open inputs would be held at is part of the constants
            open_ = stays.nonzero()[:, 0]
            base = base.index_add(0, row_of[open_], -values[open_] * held[columns[open_]])
        for part, (source, target, _) in cuts:
            target = target + part.rows.start
            at = torch.searchsorted(self.order, target * module.in_features + source)
            stays[at] = False
            base = base.index_add(0, target, values[at] * means[part.mean_name].to(base)[source])
        kept = stays.nonzero()[:, 0]
        counts = torch.bincount(row_of[kept], minlength=module.out_features)
        fewer = Support(F.pad(counts.cumsum(0), (1, 0)).int(), module.weight.support.columns[kept], module.in_features)
        weights, constants = values[kept], base
        return lambda x: sparse_product(x, weights, fewer, constants)

    @cached_property
    def places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column of each nonzero; candidates ask for them by the thousand."""
        support = self.module.weight.support
        return support.row_of.long(), support.columns.long()

    @cached_property
    def order(self) -> torch.Tensor:
        """row * width + column of each nonzero, rising."""
        row_of, columns = self.places
        return row_of * self.module.in_features + columns


_PARTS: dict[type[nn.Module], type[_DensePart | _SparsePart]] = {nn.Linear: _DensePart, SparseLinear: _SparsePart}


def _among(indices: torch.Tensor, width: int) -> torch.Tensor:
    return torch.zeros(width, dtype=torch.bool).index_fill_(0, indices, True)


def _place(of: torch.Tensor | None, wanted: torch.Tensor, width: int) -> torch.Tensor:
    """Where in a list of indices below `width` each wanted one stands; None: the list of all."""
    return wanted if of is None else torch.empty(width, dtype=torch.int64).index_copy_(0, of, torch.arange(len(of)))[wanted]


def _writing(fill: torch.Tensor) -> Any:
    """In place of an MLP none of whose writes is open."""
    return lambda x, *rest, **more: fill.to(x).expand(x.shape[:-1] + fill.shape)


def _attending(fill: torch.Tensor) -> Any:
    """In place of an attention none of whose writes is open: what is written, and no weights."""
    write = _writing(fill)
    return lambda x, *rest, **more: (write(x), None)


def _rows_alone(module: nn.Linear, rows: torch.Tensor) -> Any:
    """The map's output at some rows, and zeros elsewhere."""
    weight, bias = module.weight[rows], None if module.bias is None else module.bias[rows]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(*x.shape[:-1], module.out_features).index_copy_(-1, rows, F.linear(x, weight, bias))

    return forward
