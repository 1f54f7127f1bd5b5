"""From a model and a circuit to its parts (`parts.py`), exactly, in float64: everything that is held at a constant is worked into constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..circuits.ablation import recorded_scales
from ..circuits.circuit import Circuit
from ..circuits.edges import removed_edges
from ..circuits.identity import refuse_other_model
from ..circuits.sites import dense, edge_maps, norms, require_csp
from ..modeling_csp import activate
from ..wiring_csp import FINAL, site
from .parts import MLP, Answers, Attention, Head, Linear, Parts, Read, Rivals

_NONE = torch.zeros(0, dtype=torch.int64)


def compile_circuit(model: Any, circuit: Circuit, answers: Sequence[int], scales: Sequence[float] | None = None) -> Parts:
    """The circuit as parts whose sum is its logits of `answers`.

    Args:
        scales: what norms multiply with, in forward order (`mean_scales`); None: each norm its own scale, as in a circuit that was pruned with free
            norms. The first norm sees embeddings alone, which no circuit changes, and has its own scale always.

    Raises:
        ValueError: for another model than the circuit's, a circuit without edges, and features that no program can have yet, by name.
    """
    refuse_other_model(circuit, require_csp(model), force=False)
    _refuse(model.config)
    if circuit.edges is None:
        raise ValueError(f"The circuit for {circuit.task} has no edges of its own; prune it with edges.")
    with torch.no_grad():
        return _Compiler(model, circuit, scales).parts(tuple(int(each) for each in answers))


@torch.no_grad()
def mean_scales(model: Any, blocks: torch.Tensor, batch: int = 16) -> list[float]:
    """The scale of each norm of the residual stream, in forward order, in the mean over all tokens of blocks [n, tokens]."""
    sums = [0.0] * len(norms(require_csp(model)))
    for ids in blocks.split(batch):
        with recorded_scales(model) as found:
            model(input_ids=ids.long().to(model.device), use_cache=False, logits_to_keep=1)
        for i, norm in enumerate(norms(model)):
            sums[i] += float(found[norm].double().sum())
    return [total / blocks.numel() for total in sums]


def _refuse(config: Any) -> None:
    faults = {
        "positions": config.position_embedding_type != "none",
        "LayerNorm": config.norm_type != "rms_norm",
        "GELU by tanh": config.activation_type == "gelu_tanh",
        "an activation on the residual stream": config.residual_activation_type != "identity",
        "AbsTopK on the residual stream": any(
            config.afrac.get(each, 1.0) < 1 for each in ("resid_pre", "resid_post_attn", "resid_post_mlp")
        ),
    }
    named = [name for name, there in faults.items() if there]
    if named:
        raise ValueError(
            f"The model has {', '.join(named)}, which programs cannot have yet; look at its circuits with csp view and csp verify."
        )


class _Compiler:
    def __init__(self, model: Any, circuit: Circuit, scales: Sequence[float] | None):
        self.model, self.circuit, self.config = model, circuit, model.config
        self.sites, self.maps = model.node_sites(), edge_maps(model)
        self.removed = removed_edges(model, circuit.nodes, circuit.edges or {})
        self.means = {name: mean.detach().cpu().double() for name, mean in circuit.means.items()}
        self.embedding = _double(dense(model.transformer.wte.weight))
        self.scales = [None, *list(scales)[1:]] if scales is not None else [None] * len(norms(model))
        writes = [circuit.nodes[name] for name in circuit.nodes if name.endswith("resid_delta")]
        self.channels = torch.cat(writes).unique() if writes else _NONE
        self.held = torch.zeros(self.config.d_model, dtype=torch.float64)  # constants on the stream so far

    def kept(self, name: str) -> torch.Tensor:
        return self.circuit.nodes.get(name, _NONE)

    def parts(self, answers: tuple[int, ...]) -> Parts:
        sublayers: list[Attention | MLP] = []
        for layer, block in enumerate(self.model.transformer.h):
            for kind, location in ((self.attention, "attn_out"), (self.mlp, "mlp_out")):
                written = site(layer, location)
                if len(self.kept(written)):
                    sublayers.append(kind(layer, block))  # type: ignore[operator]
                held = self.means[written].clone()
                held[self.kept(written)] = 0
                self.held += held
        return Parts(
            self.config.vocab_size, self.channels, self.embedding[:, self.channels], tuple(sublayers), self.answers(answers),
            "own" if len(self.scales) < 2 or self.scales[1] is None else "mean",
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------------ reads

    def read(self, name: str, norm: Any, scale: float | None) -> Read:
        nodes, gain = self.kept(name), _double(norm.weight)
        written = _places(nodes, self.channels)
        stream = self.embedding + self.held  # [vocab, d_model]; right on unwritten channels
        own = torch.where(written < 0, stream[:, nodes], 0.0)
        unwritten = torch.ones(self.config.d_model, dtype=torch.bool)
        unwritten[self.channels] = False
        square = stream[:, unwritten].square().sum(1) if scale is None else None
        k = self.sites[name].k
        rivals = None if k >= self.sites[name].width else self.rivals(stream * gain, nodes, unwritten, gain, k)
        return Read(
            name,
            nodes,
            written,
            own,
            self.held[self.channels],
            gain[nodes],
            scale,
            square,
            self.config.d_model,
            norm.eps,
            rivals,
        )

    def rivals(self, scaled: torch.Tensor, nodes: torch.Tensor, unwritten: torch.Tensor, gain: torch.Tensor, k: int) -> Rivals:
        sizes = scaled.abs()
        fixed = sizes[:, unwritten].sort(dim=1, descending=True).values  # [vocab, unwritten]
        size = sizes[:, nodes]
        above = _count_above(fixed, size)
        bars = torch.full((len(scaled), len(self.channels) + 1), -1.0, dtype=torch.float64)
        for larger in range(len(self.channels) + 1):
            rank = k - larger  # the place, from 1, of the last fixed one that would still pass
            bars[:, larger] = float("inf") if rank <= 0 else fixed[:, rank - 1] if rank <= fixed.shape[1] else -1.0
        return Rivals(gain[self.channels], k - above, size, bars)

    # ---------------------------------------------------------------------------------------------------------- linear

    def linear(
        self,
        name: str,
        weight: torch.Tensor,
        bias: torch.Tensor,
        cut: torch.Tensor,
        at: torch.Tensor,
        sources: Sequence[str],
        activation: str = "",
    ) -> Linear:
        """Of a site: weight [width, sources] as rivals have it, bias [width]; `cut` [width, sources]: where a kept node's weight is removed, and what
        these weigh then is in `at` [width]."""
        nodes, site_ = self.kept(name), self.sites[name]
        mine = weight.masked_fill(cut, 0.0)[nodes]
        mine_bias = (bias + at)[nodes]
        if site_.k >= site_.width:
            return Linear(name, nodes, tuple(sources), mine, mine_bias, torch.zeros(0, dtype=torch.float64), None, activation)
        others = torch.ones(site_.width, dtype=torch.bool)
        others[nodes] = False
        varies = others & (weight != 0).any(1)
        fixed = activate(activation, bias[others & ~varies]).abs().sort(descending=True).values
        rows, biases = torch.cat([mine, weight[varies]]), torch.cat([mine_bias, bias[varies]])
        return Linear(name, nodes, tuple(sources), rows, biases, fixed, site_.k, activation)

    def cuts(self, source: str, target: str, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """For a map: where weights between kept nodes are removed, [width, kept sources], and what they add at means, [width]."""
        name = f"{source}->{target}"
        mask = torch.zeros(width, len(self.kept(source)), dtype=torch.bool)
        at = torch.zeros(width, dtype=torch.float64)
        if name in self.removed:
            edges, mean = self.removed[name], self.means[self.maps[name].mean_name]
            mask[edges.target, _places(edges.source, self.kept(source))] = True
            at.index_add_(0, edges.target, edges.weight.double() * mean[edges.source])
        return mask, at

    def mapped(self, source: str, target: str, activation: str = "") -> Linear:
        """A map whose inputs are nodes: weights from kept ones, means of the others in the bias."""
        part = self.maps[f"{source}->{target}"]
        weight, bias = _double(part.weight()), part.module.bias
        whole = torch.zeros(len(weight), dtype=torch.float64) if bias is None else _double(bias)[part.rows]
        nodes, fill = self.kept(source), self.means[source].clone()
        fill[nodes] = 0
        cut, at = self.cuts(source, target, len(weight))
        return self.linear(
            target, weight[:, nodes], whole + weight @ fill, cut, at, [f"{source}:{i}" for i in nodes.tolist()], activation
        )

    # ------------------------------------------------------------------------------------------------------- sublayers

    def attention(self, layer: int, block: Any) -> Attention:
        names = {kind: site(layer, f"attn_{kind}") for kind in "qkv"}
        source, nodes = site(layer, "attn_in"), {kind: self.kept(name) for kind, name in names.items()}
        read = self.read(source, block.attn_norm, self.scales[2 * layer])
        maps = {kind: self.mapped(source, name) for kind, name in names.items()}
        tables = None
        if layer == 0:
            from .run import linear, read_tokens

            every = torch.arange(self.config.vocab_size)
            stream = self.embedding[:, self.channels]
            values = read_tokens(read, every, stream)
            tables = {kind: linear(maps[kind], values) for kind in "qkv"}
        heads, write = self.heads(layer, block)
        return Attention(
            layer,
            float(block.attn.scaling),
            nodes,
            tables,
            None if layer == 0 else read,
            None if layer == 0 else maps,
            heads,
            write,
        )

    def heads(self, layer: int, block: Any) -> tuple[tuple[Head, ...], Linear]:
        target, source = site(layer, "attn_out"), site(layer, "attn_v")
        part, values = self.maps[f"{source}->{target}"], self.kept(source)
        weight, d_head = _double(part.weight()), self.config.d_head
        bias = torch.zeros(len(weight), dtype=torch.float64) if part.module.bias is None else _double(part.module.bias)
        fill = self.means[source].clone()
        fill[values] = 0
        sinks = block.attn.sink_bias
        cut, at = self.cuts(source, target, len(weight))
        columns, removed, sources, heads = [weight[:, values]], [cut], [f"{source}:{i}" for i in values.tolist()], []
        for h in range(self.config.n_head):
            inside = slice(h * d_head, (h + 1) * d_head)
            steady = weight[:, inside] @ fill[inside]  # what values that are held add, times the share that the sink leaves
            shared = sinks is not None and bool((steady != 0).any())
            if shared:
                columns.append(steady[:, None])
                removed.append(torch.zeros(len(weight), 1, dtype=torch.bool))
                sources.append(f"{layer}.attn.head{h}:attended")
            else:
                bias = bias + steady
            mine = ((values >= inside.start) & (values < inside.stop)).nonzero()[:, 0]
            if shared or len(mine):
                heads.append(self.head(layer, h, None if sinks is None else float(sinks[h]), mine, shared))
        return tuple(heads), self.linear(target, torch.cat(columns, 1), bias, torch.cat(removed, 1), at, sources)

    def head(self, layer: int, h: int, sink: float | None, values: torch.Tensor, shared: bool) -> Head:
        d_head = self.config.d_head
        q, k = site(layer, "attn_q"), site(layer, "attn_k")
        inside = torch.arange(h * d_head, (h + 1) * d_head)
        at_q, at_k = _places(inside, self.kept(q)), _places(inside, self.kept(k))
        asked, lone = at_q >= 0, (at_q < 0) & (at_k >= 0)
        rest = inside[(at_q < 0) & (at_k < 0)]
        constant = float(self.means[q][rest] @ self.means[k][rest])
        return Head(
            h,
            at_q[asked],
            at_k[asked],
            self.means[k][inside[asked]],
            at_k[lone],
            self.means[q][inside[lone]],
            constant,
            sink,
            values,
            shared,
        )

    def mlp(self, layer: int, block: Any) -> MLP:
        source, neurons, target = site(layer, "mlp_in"), site(layer, "mlp_neuron"), site(layer, "mlp_out")
        read = self.read(source, block.mlp_norm, self.scales[2 * layer + 1])
        return MLP(layer, read, self.mapped(source, neurons, self.config.activation_type), self.mapped(neurons, target))

    def answers(self, tokens: tuple[int, ...]) -> Answers:
        model, final = self.model, self.model.transformer.final_norm
        nodes, gain, scale = self.kept(FINAL), _double(final.weight), self.scales[-1]
        read = self.read(FINAL, final, scale)
        fill = self.means[FINAL].clone()
        fill[nodes] = 0
        rows = _double(dense(model.lm_head.weight))[list(tokens)]
        table = None if model.bigram_table is None else _double(model.bigram_table.logit_bias)[:, list(tokens)]
        return Answers(
            tokens, read, rows[:, nodes] * gain[nodes], rows @ (gain * fill), float(fill.square().sum()),
            _double(model.final_logits_bias)[list(tokens)], table,
        )  # fmt: skip


def _double(x: Any) -> torch.Tensor:
    return x.detach().cpu().double()


def _places(wanted: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """Place of each wanted index among sorted ones, or -1."""
    if not len(among):
        return torch.full_like(wanted, -1)
    at = torch.searchsorted(among, wanted).clamp(max=len(among) - 1)
    return torch.where(among[at] == wanted, at, -1)


def _count_above(descending: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """How many of each row [vocab, f], descending, are larger than each of [vocab, n]."""
    if not descending.shape[1]:
        return torch.zeros(size.shape, dtype=torch.int64)
    return torch.searchsorted((-descending).contiguous(), (-size).contiguous())
