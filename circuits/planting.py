"""Planting: a program written into a model's weights, with channels, heads and neurons of its own that nothing else in the model touches.

What is planted is recorded node by node and edge by edge as it is written, so that the circuit is known because it was made
(docs/method.md#known-circuits). Weights are set by what the host does: planted values are made loud enough for AbsTopK to keep them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import torch

from ..wiring_csp import FINAL, TABLE_WEIGHT, reads_residual, site
from .ablation import recorded_scales
from .edges import Edges
from .masks import Nodes, as_nodes
from .means import watching
from .sites import edge_maps, evaluating, require_csp

LOUD = 3.0  # planted values against what the host keeps at the same site, its root mean square
DECISIVE = 8.0  # between the logits of the right answer and of the other
NOISE = 2.0  # of the host's own part in that difference, by prompt
PRESENT = 4.0  # of both answers above all other tokens, halfway between the two
_PROBE = 1e4  # a weight that is loud for certain, for the time of a measurement

Place = tuple[str, int]
Prompts = tuple[torch.Tensor, torch.Tensor]


class Ground:
    """A copy of a host model in which a program is written, and what has been written so far.

    Channels, heads and neurons are drawn at random, each once, and emptied before they are given out.

    Args:
        host: not changed. prompts: ids and mask [n, tokens], padded on the left, what the program will run on: weights are set by what it does there.
        seed: of what is drawn.

    Raises:
        ValueError: if the host has no biases, another norm than rms_norm, no bigram table, tied embeddings, or an activation on the residual stream.
    """

    def __init__(self, host: Any, prompts: Prompts, seed: int = 0):
        config = require_csp(host).config
        for wanted, has in (("bias=True", config.bias), ("norm_type='rms_norm'", config.norm_type == "rms_norm"),
                            ("enable_bigram_table=True", config.enable_bigram_table), ("tie_word_embeddings=False", not config.tie_word_embeddings),
                            ("residual_activation_type='identity'", config.residual_activation_type == "identity")):  # fmt: skip
            if not has:
                raise ValueError(f"A program is planted in a model with {wanted}; this host has another config.")
        self.model = copy.deepcopy(host).to_dense().eval().requires_grad_(False)
        self.config, self.prompts, random = config, prompts, Random(seed)
        self._free = {
            "channel": random.sample(range(config.d_model), config.d_model),
            **{f"head {i}": random.sample(range(config.n_head), config.n_head) for i in range(config.n_layer)},
            **{f"neuron {i}": random.sample(range(config.d_mlp), config.d_mlp) for i in range(config.n_layer)},
        }
        self.copies: list[tuple[dict[Place, None], dict[tuple[str, int, int], None]]] = []
        self._known = True
        levels = {
            name: float(each[each != 0].square().mean().sqrt()) if bool(each.any()) else 1.0
            for name, each in self._seen().items()
        }
        self.loudness = {name: LOUD * each for name, each in levels.items()}
        self.rms = self._rms()
        self.embedded = LOUD * max(self.rms.values())

    # ----------------------------------------------------------------------------------------------------- what is known

    @contextmanager
    def a_copy(self) -> Iterator[None]:
        """What is written in the block is one circuit that does the task by itself."""
        self.copies.append(({}, {}))
        yield

    @contextmanager
    def a_decoy(self) -> Iterator[None]:
        """What is written in the block belongs to no circuit of the task."""
        self._known = False
        yield
        self._known = True

    def _note(self, *places: Place, edge: tuple[str, int, int] | None = None) -> None:
        if self._known:
            nodes, edges = self.copies[-1]
            nodes |= dict.fromkeys(places)
            edges |= dict.fromkeys([edge] if edge else [])

    def circuits(self) -> list[tuple[Nodes, dict[str, Edges]]]:
        """Nodes and edges of each copy, edges with their weights."""
        maps, sites, found = edge_maps(self.model), list(self.model.node_sites()), []
        for nodes, edges in self.copies:
            by_map: dict[str, Edges] = {}
            for name in maps:
                here = sorted((target, source) for each, source, target in edges if each == name)
                if here:
                    source, target = torch.tensor([s for _, s in here]), torch.tensor([t for t, _ in here])
                    by_map[name] = Edges(source, target, maps[name].entries(source, target).float().cpu())
            found.append((as_nodes(list(nodes), sites), by_map))
        return found

    # --------------------------------------------------------------------------------------------------- room of its own

    def _take(self, kind: str) -> int:
        if not self._free[kind]:
            raise ValueError(f"The host has no {kind.split()[0]} left for this program; take a larger one.")
        return self._free[kind].pop()

    def channel(self) -> int:
        """A channel of the residual stream that nothing reads or writes."""
        c, base = self._take("channel"), self.model.transformer
        base.wte.weight[:, c] = 0
        if self.config.position_embedding_type == "added":
            base.wpe.weight[:, c] = 0
        for block in base.h:
            for reader, norm in ((block.attn.c_attn, block.attn_norm), (block.mlp.c_fc, block.mlp_norm)):
                reader.weight[:, c], norm.weight[c] = 0, 1
            for writer in (block.attn.c_proj, block.mlp.c_proj):
                writer.weight[c], writer.bias[c] = 0, 0
        self.model.lm_head.weight[:, c], base.final_norm.weight[c] = 0, 1
        return c

    def head(self, layer: int) -> int:
        """A head that attends to all tokens alike, and to no sink, and moves nothing."""
        h, attn = self._take(f"head {layer}"), self.model.transformer.h[layer].attn
        for part in range(3):
            rows = self._rows(part, h)
            attn.c_attn.weight[rows], attn.c_attn.bias[rows] = 0, 0
        attn.c_proj.weight[:, self._rows(0, h)] = 0
        if attn.sink_bias is not None:
            attn.sink_bias[h] = -1e4
        return h

    def neuron(self, layer: int) -> int:
        n, mlp = self._take(f"neuron {layer}"), self.model.transformer.h[layer].mlp
        mlp.c_fc.weight[n], mlp.c_fc.bias[n], mlp.c_proj.weight[:, n] = 0, 0, 0
        return n

    def _rows(self, part: int, head: int) -> slice:
        first = (part * self.config.n_head + head) * self.config.d_head
        return slice(first, first + self.config.d_head)

    # ----------------------------------------------------------------------------------------------------------- writing

    def embed(self, channel: int, values: dict[int, float]) -> None:
        """Token -> what it writes to a channel, in units of loudness."""
        for token, value in values.items():
            self.model.transformer.wte.weight[token, channel] = value * self.embedded

    def read(self, layer: int, kind: str, head: int, index: int, channel: int, size: float | None = None) -> None:
        """A query, key or value ("q", "k", "v") of a head becomes what a channel has.

        Args:
            size: its largest magnitude on the prompts; by default loud enough.
        """
        part = "qkv".index(kind)
        here, row = head * self.config.d_head + index, self._rows(part, head).start + index
        weight = self.model.transformer.h[layer].attn.c_attn.weight
        name, reads = site(layer, f"attn_{kind}"), site(layer, "attn_in")
        self._set(weight, row, channel, (name, here), size or self.loudness[name])
        self._note((reads, channel), (name, here), edge=(f"{reads}->{name}", channel, here))

    def look(self, layer: int, head: int, index: int, asks: int, shows: int, sharp: float) -> None:
        """A head looks, from tokens that have one channel, for tokens that have another: where both are at their largest, logits differ by `sharp`, or more
        if less is not loud enough."""
        names = [site(layer, f"attn_{kind}") for kind in "qk"]
        size = max((sharp * self.config.d_head**0.5) ** 0.5, *(self.loudness[name] for name in names))
        self.read(layer, "q", head, index, asks, size)
        self.read(layer, "k", head, index, shows, size)

    def write(
        self, layer: int, head: int, index: int, channel: int, *, size: float | None = None, anywhere: bool = False
    ) -> None:
        """What a head makes of a value goes to a channel, loud, or of a `size`, at the end of prompts, or at its loudest `anywhere`."""
        here, name, values = head * self.config.d_head + index, site(layer, "attn_out"), site(layer, "attn_v")
        self._set(
            self.model.transformer.h[layer].attn.c_proj.weight,
            channel,
            here,
            (name, channel),
            size or self._stream(name),
            anywhere,
        )
        self._note((values, here), (name, channel), edge=(f"{values}->{name}", here, channel))

    def threshold(self, layer: int, neuron: int, source: int, target: int, high: torch.Tensor, against: int) -> None:
        """A neuron that reads a channel, as a share of another, and writes to a third: + where it has what it has at the end of `high` prompts (bool [n]),
        - where what it has at the others'. By the share, as both go through one norm, whose scale is the host's affair."""
        mlp = self.model.transformer.h[layer].mlp
        reads, name, writes = (site(layer, each) for each in ("mlp_in", "mlp_neuron", "mlp_out"))
        unit = self.at_the_end((reads, against))
        _some(float(unit.abs().min()))
        share = self.at_the_end((reads, source)) / unit
        below, above = float(share[~high].median()), float(share[high].median())
        steep = 1.5 * max(4.0, self.loudness[name]) / (_some(above - below) * float(unit.median()))
        mlp.c_fc.weight[neuron, source], mlp.c_fc.weight[neuron, against] = steep, -steep * (above + below) / 2
        size = self._stream(writes)
        mlp.c_proj.weight[target, neuron] = 2 * size / _some(float(self.at_the_end((name, neuron))[high].median()))
        mlp.c_proj.bias[target] = -size
        for channel in (source, against):
            self._note((reads, channel), (name, neuron), edge=(f"{reads}->{name}", channel, neuron))
        self._note((name, neuron), (writes, target), edge=(f"{name}->{writes}", neuron, target))

    def decide(self, channel: int, up: int, down: int, size: float = DECISIVE) -> None:
        """A channel that is above 0 prefers one answer, below 0 the other."""
        level = _some(float(self._final(channel).abs().median()))
        for token, sign in ((up, 1), (down, -1)):
            self.model.lm_head.weight[token, channel] = sign * size / (2 * level)
        self._note((FINAL, channel))

    def offer(self, asking: list[int], answers: tuple[int, int], noise: float = NOISE) -> None:
        """The tokens that ask for an answer say so: both answers are above all others there, one like the other. What else the host has to say to the one and to
        the other differs by `noise` at the end of the prompts, its standard deviation, 0 in the mean."""
        table, rows, bias = self.model.get_parameter(TABLE_WEIGHT), self.model.lm_head.weight, self.model.final_logits_bias
        answers_ = list(answers)
        table[:, answers_], bias[answers_] = 0, 0
        found = self._run()[:, answers_]
        apart = found[:, 0] - found[:, 1]
        rows[answers_] *= noise / max(float(apart.std()), 1e-6)
        bias[answers[1]] = float(apart.mean()) * noise / max(float(apart.std()), 1e-6)
        top = float(self._run().max())
        for token in asking:
            table[token, answers_] = max(0.0, top) + PRESENT

    # --------------------------------------------------------------------------------------------------------- measuring

    def _run(self) -> Any:
        """Logits after the prompts, [n, vocabulary]."""
        ids, mask = self.prompts
        with evaluating(self.model), torch.no_grad():
            return self.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1).logits[:, -1]

    def _seen(self) -> dict[str, torch.Tensor]:
        """Site -> activations on the prompts, [n, tokens, width], 0 on padding."""
        with watching(self.model) as seen:
            self._run()
        return {name: each * self.prompts[1][..., None] for name, each in seen.items()}

    def _rms(self) -> dict[str, float]:
        """Of the residual stream where it is read: site -> root mean square, mean over the prompts' tokens."""
        reading = [name for name in self.model.node_sites() if reads_residual(name)]
        with recorded_scales(self.model) as scales:
            self._run()
        mask = self.prompts[1].bool()
        return {name: float((1 / each[mask]).mean()) for name, each in zip(reading, scales.values())}

    def at_the_end(self, place: Place) -> torch.Tensor:
        """Activations of a node at the end of the prompts, [n]."""
        return self._seen()[place[0]][:, -1, place[1]]

    def _final(self, channel: int) -> torch.Tensor:
        """What the unembedding reads of a channel at the end of the prompts, [n]."""
        ids, mask = self.prompts
        with evaluating(self.model), torch.no_grad():
            found = self.model.transformer(input_ids=ids, attention_mask=mask, use_cache=False)
        return found.last_hidden_state[:, -1, channel]

    def _stream(self, writes: str) -> float:
        """How much is written to the residual stream so that it is loud among what is written there, and in the stream."""
        return max(self.loudness[writes], LOUD * max(self.rms.values()))

    def _set(self, weight: torch.Tensor, row: int, column: int, place: Place, size: float, anywhere: bool = True) -> None:
        """Sets a weight so that the node it leads to has `size` at most on the prompts; or, not `anywhere`, in the median at their ends."""
        weight[row, column] = _PROBE
        found = self._seen()[place[0]][..., place[1]].abs()
        level = float(found.max() if anywhere else found[:, -1].median())
        if level == 0:
            raise ValueError(f"Nothing that was planted reaches {place[0]} in this host; take another seed, or a wider host.")
        weight[row, column] = _PROBE * size / level


def _some(level: float) -> float:
    """A level that something is divided by.

    Raises:
        ValueError: if it is 0.
    """
    if level == 0:
        raise ValueError(
            "Nothing that was planted reaches the end of the prompts in this host; take another seed, or a wider host."
        )
    return level
