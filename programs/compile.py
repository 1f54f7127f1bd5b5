"""From a model and a circuit to its parts (`parts.py`), exactly, in float64: everything that is held at a constant is worked into constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..circuits.ablation import recorded_scales
from ..circuits.circuit import Circuit
from ..circuits.edges import removed_edges
from ..circuits.identity import refuse_other_model
from ..circuits.sites import dense, edge_maps, norms, require_csp
from ..modeling_csp import activate
from ..topk_csp import abs_topk
from ..wiring_csp import FINAL, site
from .parts import MLP, Answers, Attention, Head, Linear, Parts, Read, Rivals
from .symbols import Symbols

_NONE = torch.zeros(0, dtype=torch.int64)


def compile_circuit(
    model: Any,
    circuit: Circuit,
    answers: Sequence[int],
    scales: Sequence[float] | None = None,
    symbols: Symbols | None = None,
) -> Parts:
    """The circuit as parts whose sum is its logits of `answers`.

    LayerNorm takes the stream's mean away; that is one more channel, to which each write adds its part, and one more that each read has (`Parts.mean`).

    Args:
        scales: what norms multiply with, in forward order (`mean_scales`); None: each norm its own scale, as in a circuit that was pruned with free
            norms. The first norm sees embeddings alone, which no circuit changes, and has its own scale always.
        symbols: for a model with added positions: what its language has at which place (`symbols_of`).

    Raises:
        ValueError: for another model than the circuit's, a circuit without edges, and features that no program can have yet, by name.
    """
    refuse_other_model(circuit, require_csp(model), force=False)
    _refuse(model.config, scales is None, symbols is None)
    if circuit.edges is None:
        raise ValueError(f"The circuit for {circuit.task} has no edges of its own; prune it with edges.")
    with torch.no_grad():
        return _Compiler(model, circuit, scales, symbols).parts(tuple(int(each) for each in answers))


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


def _refuse(config: Any, own_scales: bool, no_symbols: bool) -> None:
    concatenated = config.position_embedding_type == "concatenated"
    compared = sorted(
        {"attn_in", "mlp_in", "attn_out", "mlp_out"} & {each for each, share in config.afrac.items() if share < 1}
    )
    faults = {
        "positions, and no language was given": config.position_embedding_type != "none" and no_symbols,
        "concatenated positions beside norms with scales of their own (means are given with a corpus)": concatenated
        and own_scales,
        "concatenated positions and LayerNorm": concatenated and config.norm_type != "rms_norm",
        "LayerNorm with scales of its own (means are given with a corpus)": config.norm_type != "rms_norm" and own_scales,
        f"LayerNorm with AbsTopK at {', '.join(compared)}": config.norm_type != "rms_norm" and bool(compared),
        "an activation on the residual stream": config.residual_activation_type != "identity",
        "AbsTopK on the residual stream": any(
            config.afrac.get(each, 1.0) < 1 for each in ("resid_pre", "resid_post_attn", "resid_post_mlp")
        ),
    }
    named = [name for name, there in faults.items() if there]
    if named:
        raise ValueError(
            f"The model has {'; '.join(named)}, which programs cannot have yet; look at its circuits with csp view and csp verify."
        )


class _Compiler:
    def __init__(self, model: Any, circuit: Circuit, scales: Sequence[float] | None, symbols: Symbols | None):
        self.model, self.circuit, self.config, self.symbols = model, circuit, model.config, symbols
        self.sites, self.maps = model.node_sites(), edge_maps(model)
        self.removed = removed_edges(model, circuit.nodes, circuit.edges or {})
        self.means = {name: mean.detach().cpu().double() for name, mean in circuit.means.items()}
        self.embedding = self.embedded()
        self.scales = [None, *list(scales)[1:]] if scales is not None else [None] * len(norms(model))
        writes = [circuit.nodes[name] for name in circuit.nodes if name.endswith("resid_delta")]
        self.channels = torch.cat(writes).unique() if writes else _NONE
        self.mean = self.config.d_model if self.config.norm_type != "rms_norm" and writes else None
        if self.mean is not None:
            self.channels = torch.cat([self.channels, torch.tensor([self.mean])])
        self.held = torch.zeros(self.embedding.shape[1], dtype=torch.float64)  # constants on the stream so far

    def embedded(self) -> torch.Tensor:
        """What embeddings put on the stream, [rows, d_model], and, for LayerNorm, its mean as one channel more."""
        base = self.model.transformer
        if self.symbols is None:
            found = _double(dense(base.wte.weight))
        else:
            places, tokens = self.symbols.places, self.symbols.tokens
            if int(places.max()) >= self.config.block_size:
                raise ValueError(
                    f"The language has prompts of {int(places.max()) + 1} tokens, and the model positions for {self.config.block_size}."
                )
            found = _double(dense(base.wte.weight)[tokens])
            if self.config.position_embedding_type == "added":
                found = found + _double(dense(base.wpe.weight)[places])
        return found if self.config.norm_type == "rms_norm" else torch.cat([found, found.mean(1, keepdim=True)], 1)

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
                self.held += held if len(held) == len(self.held) else torch.cat([held, held.mean()[None]])
        return Parts(
            len(self.embedding), self.channels, self.embedding[:, self.channels], tuple(sublayers), self.answers(answers),
            "own" if len(self.scales) < 2 or self.scales[1] is None else "mean", symbols=self.symbols, mean=self.mean,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------------ reads

    def beside(self, norm: Any) -> torch.Tensor | None:
        """What concatenated positions put beside the stream, [rows, d_pos_emb], by their own norm; None without them."""
        if norm is None:
            return None
        assert self.symbols is not None
        return _normed(_double(dense(self.model.transformer.wpe.weight)[self.symbols.places]), norm)

    def read(self, name: str, norm: Any, scale: float | None, position_norm: Any = None) -> Read:
        nodes, gain, beside = self.kept(name), _double(norm.weight), self.beside(position_norm)
        if self.mean is not None and name != FINAL:
            nodes, gain = torch.cat([nodes, torch.tensor([self.mean])]), torch.cat([gain, torch.ones(1, dtype=torch.float64)])
        written = _places(nodes, self.channels)
        stream = self.embedding + self.held  # [vocab, d_model]; right on unwritten channels
        if beside is not None:  # which no scale of the stream's norm acts on
            stream = torch.cat([stream, beside / (scale or 1.0)], 1)
            gain = torch.cat([gain, torch.ones(beside.shape[1], dtype=torch.float64)])
        own = torch.where(written < 0, stream[:, nodes], 0.0)
        unwritten = torch.ones(stream.shape[1], dtype=torch.bool)
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

    def mapped(self, source: str, target: str, activation: str = "", norm: Any = None) -> Linear:
        """A map whose inputs are nodes: weights from kept ones, means of the others in the bias. norm: of the read that they are."""
        part = self.maps[f"{source}->{target}"]
        weight, bias = _double(part.weight()), part.module.bias
        whole = torch.zeros(len(weight), dtype=torch.float64) if bias is None else _double(bias)[part.rows]
        nodes, fill = self.kept(source), self.means[source].clone()
        fill[nodes] = 0
        cut, at = self.cuts(source, target, len(weight))
        kept, bias, sources = weight[:, nodes], whole + weight @ fill, [f"{source}:{i}" for i in nodes.tolist()]
        if norm is not None and self.config.norm_type != "rms_norm":
            through = kept.masked_fill(
                cut, 0.0
            )  # of what the mean takes away from each node, and of what the norm's bias adds to it
            bias = bias if norm.bias is None else bias + through @ _double(norm.bias)[nodes]
            if self.mean is not None:
                kept = torch.cat([kept, -(through @ _double(norm.weight)[nodes])[:, None]], 1)
                cut = torch.cat([cut, torch.zeros(len(cut), 1, dtype=torch.bool)], 1)
                sources.append(f"{source}:{self.mean}")
        return self.linear(target, kept, bias, cut, at, sources, activation)

    def written(self, map_: Linear) -> Linear:
        """What is written, and its part of the stream's mean."""
        if self.mean is None or not len(map_.nodes):
            return map_
        width = self.config.d_model
        return dataclasses.replace(
            map_, nodes=torch.cat([map_.nodes, torch.tensor([self.mean])]), weight=torch.cat([map_.weight, map_.weight.sum(0, keepdim=True) / width]),
            bias=torch.cat([map_.bias, map_.bias.sum()[None] / width]),
        )  # fmt: skip

    def first(self, name: str, norm: Any, position_norm: Any) -> torch.Tensor:
        """What the nodes of the first read hold, [rows, nodes]: of embeddings alone."""
        found = _normed(self.embedding[:, : self.config.d_model], norm)
        beside, k = self.beside(position_norm), self.sites[name].k
        found = found if beside is None else torch.cat([found, beside], 1)
        return (abs_topk(found, k) if k < found.shape[1] else found)[:, self.kept(name)]

    # ------------------------------------------------------------------------------------------------------- sublayers

    def attention(self, layer: int, block: Any) -> Attention:
        names = {kind: site(layer, f"attn_{kind}") for kind in "qkv"}
        source, nodes = site(layer, "attn_in"), {kind: self.kept(name) for kind, name in names.items()}
        read = self.read(source, block.attn_norm, self.scales[2 * layer], block.attn_pos_norm)
        norm = block.attn_norm if layer else None
        maps = {kind: self.mapped(source, name, norm=norm) for kind, name in names.items()}
        tables = None
        if layer == 0:
            from .run import linear, read_tokens

            if self.config.norm_type == "rms_norm" and block.attn_pos_norm is None:
                values = read_tokens(read, torch.arange(len(self.embedding)), self.embedding[:, self.channels])
            else:
                values = self.first(source, block.attn_norm, block.attn_pos_norm)
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
        return tuple(heads), self.written(self.linear(target, torch.cat(columns, 1), bias, torch.cat(removed, 1), at, sources))

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
        read = self.read(source, block.mlp_norm, self.scales[2 * layer + 1], block.mlp_pos_norm)
        into = self.mapped(source, neurons, self.config.activation_type, block.mlp_norm)
        return MLP(layer, read, into, self.written(self.mapped(neurons, target)))

    def answers(self, tokens: tuple[int, ...]) -> Answers:
        model, final = self.model, self.model.transformer.final_norm
        nodes, gain, scale = self.kept(FINAL), _double(final.weight), self.scales[-1]
        read = self.read(FINAL, final, scale)
        fill = self.means[FINAL].clone()
        fill[nodes] = 0
        rows = _double(dense(model.lm_head.weight))[list(tokens)]
        bias = _double(model.final_logits_bias)[list(tokens)]
        weight, held = rows[:, nodes] * gain[nodes], rows @ (gain * fill)
        if self.config.norm_type != "rms_norm":
            through = (rows @ gain)[:, None] / self.config.d_model  # of the mean of what is read and of what is held
            weight, held = weight - through, held - through[:, 0] * fill.sum()
            bias = bias if final.bias is None else bias + rows @ _double(final.bias)
        table = None
        if model.bigram_table is not None:
            table = _double(model.bigram_table.logit_bias)[:, list(tokens)]
            table = table if self.symbols is None else table[self.symbols.tokens]
        return Answers(tokens, read, weight, held, float(fill.square().sum()), bias, table)


def _double(x: Any) -> torch.Tensor:
    return x.detach().cpu().double()


def _normed(x: torch.Tensor, norm: Any) -> torch.Tensor:
    """A norm's output for rows [n, width], in float64."""
    weight = _double(norm.weight)
    if isinstance(norm, torch.nn.RMSNorm):
        return F.rms_norm(x, x.shape[-1:], weight, norm.eps)
    return F.layer_norm(x, x.shape[-1:], weight, None if norm.bias is None else _double(norm.bias), norm.eps)


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
