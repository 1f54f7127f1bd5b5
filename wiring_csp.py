"""Which weights connect which nodes, and which tensor plays which part: the one table that everything reads.

The model builds its node sites from it, the config its AbsTopK locations; projection, logs, edges, exports, storage, fused blocks and the
page find matrices and sites here. A new AbsTopK location is a row of `LOCATIONS`, a new matrix one of `MATRICES`, besides the line of the
model's forward pass that uses it (CONTRIBUTING.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple


class Location(NamedTuple):
    """Where AbsTopK can act.

    Args:
        path: of the module within a block. title: what a page calls its row.
        width: how many channels there are: "wide" (residual stream and concatenated positions), "heads" (over all of them), "neurons", "stream".
        node: whether its entries are nodes. The residual stream, before a block or after a sublayer, is none: what it holds is nodes of others, added up.
        reads: whether its nodes are channels of the residual stream, read through a norm; writes: whether they are added to it.
    """

    path: str
    width: str
    title: str = ""
    node: bool = True
    reads: bool = False
    writes: bool = False


LOCATIONS = {  # in forward order
    "resid_pre": Location("resid_in", "stream", node=False),
    "attn_in": Location("attn.act_in", "wide", "attention reads", reads=True),
    "attn_q": Location("attn.q", "heads", "queries"),
    "attn_k": Location("attn.k", "heads", "keys"),
    "attn_v": Location("attn.v", "heads", "values"),
    "attn_out": Location("attn.resid_delta", "stream", "attention writes", writes=True),
    "resid_post_attn": Location("resid_mid", "stream", node=False),
    "mlp_in": Location("mlp.act_in", "wide", "MLP reads", reads=True),
    "mlp_neuron": Location("mlp.post_act", "neurons", "neurons"),
    "mlp_out": Location("mlp.resid_delta", "stream", "MLP writes", writes=True),
    "resid_post_mlp": Location("resid_post", "stream", node=False),
}
NODE_LOCATIONS = tuple(name for name, location in LOCATIONS.items() if location.node)
FINAL = "final_resid"  # the last node site, after all blocks: channels of the residual stream, which the unembedding reads


class Matrix(NamedTuple):
    """A linear map of a block.

    Args:
        path: of the module within a block.
        reads: the location whose nodes are its inputs. writes: those whose nodes are its outputs, in the order of its rows.
        neuron_dim: the dimension of its weight that counts neurons or attention channels, each of which keeps a minimum of weights: 0 where an
            output row is a neuron's own weights, 1 where an input column is.
        inputs: where its inputs are not those nodes themselves but what is made of them, the name of that: its means stand for removed edges.
    """

    path: str
    reads: str
    writes: tuple[str, ...]
    neuron_dim: int
    inputs: str = ""

    def inputs_name(self, layer: int | str) -> str:
        """The name under which means of its inputs are kept."""
        return f"{layer}.{self.inputs or LOCATIONS[self.reads].path}"


MATRICES = (
    Matrix("attn.c_attn", "attn_in", ("attn_q", "attn_k", "attn_v"), 0),
    Matrix("attn.c_proj", "attn_v", ("attn_out",), 1, inputs="attn.y"),  # what attention makes of v, which is no node
    Matrix("mlp.c_fc", "mlp_in", ("mlp_neuron",), 0),
    Matrix("mlp.c_proj", "mlp_neuron", ("mlp_out",), 1),
)
EMBEDDING, POSITIONS, UNEMBEDDING, TABLE = "wte", "wpe", "lm_head", "bigram_table"
# Kept out of projection and decay: the bigram table, the only dense matrix.
TABLE_WEIGHT = f"{TABLE}.logit_bias"
_IN_BLOCK = re.compile(r"(?:^|\.)h\.\d+\.(?P<path>[\w.]+)\.(?P<kind>weight|bias)$")


def part(name: str) -> tuple[str, str | Matrix | None]:
    """(kind, what) of a parameter by its name: kind "weight", "bias", ...; what: one of `MATRICES`, "wte", "wpe", "lm_head", or None."""
    owner, _, kind = name.rpartition(".")
    inside = _IN_BLOCK.search(f".{name}")
    if inside is not None:
        return kind, next((matrix for matrix in MATRICES if matrix.path == inside["path"]), None)
    last = owner.rpartition(".")[2]
    return kind, last if last in (EMBEDDING, POSITIONS, UNEMBEDDING) else None


def writing(location: str) -> Matrix:
    """The matrix whose outputs are the nodes of a location."""
    return next(matrix for matrix in MATRICES if location in matrix.writes)


def reading(location: str) -> Matrix:
    """The matrix whose inputs are the nodes of a location."""
    return next(matrix for matrix in MATRICES if matrix.reads == location)


def made_inputs(names: Iterable[str]) -> dict[str, str]:
    """Name of inputs that are no nodes -> the node site that they are made of, and as wide as, for every layer of these sites."""
    layers = {located(name)[0] for name in names} - {None}
    made = [matrix for matrix in MATRICES if matrix.inputs]
    return {matrix.inputs_name(layer): site(layer, matrix.reads) for layer in layers for matrix in made}  # type: ignore[arg-type]


def site(layer: int | str, location: str) -> str:
    """The name of a location's node site in a layer: "3.attn.act_in"."""
    return f"{layer}.{LOCATIONS[location].path}"


def located(name: str) -> tuple[int | None, str]:
    """(layer, location) of a node site by its name; (None, "final_resid") of the last.

    Raises:
        ValueError: if no site has that name.
    """
    layer, _, path = name.partition(".")
    found = next((key for key, location in LOCATIONS.items() if location.node and location.path == path), None)
    if name == FINAL:
        return None, FINAL
    if found is None or not re.fullmatch(r"[0-9]{1,4}", layer):
        raise ValueError(f"{name!r:.80} is no node site; they are called as in model.node_sites(), such as 0.mlp.post_act.")
    return int(layer), found


def reads_residual(name: str) -> bool:
    """Whether the nodes of a site are channels of the residual stream, read through a norm or by the unembedding."""
    return name == FINAL or _has(name, "reads")


def writes_residual(name: str) -> bool:
    """Whether the nodes of a site are added to the residual stream."""
    return _has(name, "writes")


def _has(name: str, what: str) -> bool:
    path = name.partition(".")[2]
    return any(getattr(location, what) for location in LOCATIONS.values() if location.path == path)


def by_head(name: str) -> bool:
    """Whether the nodes of a site are channels of attention heads."""
    location = located(name)[1]
    return location != FINAL and LOCATIONS[location].width == "heads"


def site_names(layers: int) -> list[str]:
    """Every node site, in forward order."""
    return [site(layer, location) for layer in range(layers) for location in NODE_LOCATIONS] + [FINAL]


def ordered(names: Iterable[str]) -> list[str]:
    """Node sites in forward order."""

    def place(name: str) -> tuple[float, int]:
        layer, location = located(name)
        return (float("inf"), 0) if layer is None else (layer, NODE_LOCATIONS.index(location))

    return sorted(names, key=place)


def location_width(config: Any, location: str) -> int:
    """Channels at an AbsTopK location, by a config; over all heads for q, k and v."""
    widths = {"wide": config.d_model + (config.d_pos_emb or 0), "heads": config.n_head * config.d_head, "neurons": config.d_mlp}
    return widths.get(LOCATIONS[location].width, config.d_model)
