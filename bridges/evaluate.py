"""How good bridges are: what they carry at each point, and what hybrids of the two models predict; against what costs nothing."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from ..circuits.sites import evaluating
from .bridge import Bridges
from .hybrids import kl, next_token_loss, stream, switched, tails
from .sides import Side

PATHS = 8  # random paths with several switches


class _Moments:
    """Sums for NMSE and fraction of variance explained over a stream of batches, in float64."""

    def __init__(self) -> None:
        self.error = self.square = 0.0
        self.sum: torch.Tensor | None = None
        self.count = 0

    def add(self, found: torch.Tensor, target: torch.Tensor) -> None:
        found, target = found.double().flatten(0, 1), target.double().flatten(0, 1)
        self.error += float((found - target).square().sum())
        self.square += float(target.square().sum())
        self.sum = target.sum(0) if self.sum is None else self.sum + target.sum(0)
        self.count += len(target)

    @property
    def nmse(self) -> float:
        assert self.sum is not None
        variance = self.square - float(self.sum.square().sum()) / self.count
        return self.error / max(variance, 1e-300)


def evaluate_bridges(
    dense: Side, sparse: Side, bridges: Bridges, blocks: torch.Tensor, *, batch: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Measures bridges on token ids [n, tokens].

    Returns:
        dense, sparse: next-token losses in nats; encode, decode: for each point nmse, fve (1 - nmse), loss (of the hybrid with its one switch there),
        kl (of the hybrid to the dense model); paths: losses of random paths that switch several times (the bools of `switched`);
        mean_hybrid: mean loss of all hybrids with one switch; excess: that minus the dense model's loss.
    """
    points = bridges.points
    moments = {(way, i): _Moments() for way in ("encode", "decode") for i in range(points)}
    sums: dict[str, Any] = {
        "dense": 0.0,
        "sparse": 0.0,
        **{f"{way} {what}": torch.zeros(points) for way in ("encode", "decode") for what in ("loss", "kl")},
    }
    paths = list(_paths(points, seed))
    path_sums = [0.0] * len(paths)
    with evaluating(dense.model), evaluating(sparse.model), torch.no_grad():
        for ids in tqdm(blocks.split(batch), desc="hybrids", unit="batch", disable=None, delay=2):
            ids = ids.long().to(dense.model.device)
            dense_stream, wanted = stream(dense, ids)
            sparse_stream, logits = stream(sparse, ids)
            sums["dense"] += float(next_token_loss(wanted, ids)) * len(ids)
            sums["sparse"] += float(next_token_loss(logits, ids)) * len(ids)
            for way, side, carried, target in (
                ("encode", sparse, [bridges.encode(i, x) for i, x in enumerate(dense_stream)], sparse_stream),
                ("decode", dense, [bridges.decode(i, x) for i, x in enumerate(sparse_stream)], dense_stream),
            ):
                for i in range(points):
                    moments[way, i].add(carried[i], target[i])
                found = tails(side, carried, ids)
                sums[f"{way} loss"] += next_token_loss(found, ids).cpu() * len(ids)
                sums[f"{way} kl"] += kl(wanted, found).cpu() * len(ids)
            for j, path in enumerate(paths):
                path_sums[j] += float(next_token_loss(switched(dense, sparse, bridges, ids, path), ids)) * len(ids)
    n = len(blocks)
    report: dict[str, Any] = {"dense": sums["dense"] / n, "sparse": sums["sparse"] / n}
    for way in ("encode", "decode"):
        report[way] = [
            {"nmse": moments[way, i].nmse, "fve": 1 - moments[way, i].nmse, "loss": float(sums[f"{way} loss"][i]) / n, "kl": float(sums[f"{way} kl"][i]) / n}
            for i in range(points)
        ]  # fmt: skip
    report["paths"] = [{"path": list(path), "loss": total / n} for path, total in zip(paths, path_sums)]
    report["mean_hybrid"] = statistics.fmean(each["loss"] for way in ("encode", "decode") for each in report[way])
    report["excess"] = report["mean_hybrid"] - report["dense"]
    return report


def _paths(points: int, seed: int) -> Iterator[list[bool]]:
    """Different random paths that change models at least twice."""
    draw = random.Random(seed)
    seen: set[tuple[bool, ...]] = set()
    for _ in range(50 * PATHS):
        path = tuple(draw.random() < 0.5 for _ in range(points))
        changes = sum(a != b for a, b in zip((False, *path), path))
        if changes >= 2 and path not in seen and len(seen) < PATHS:
            seen.add(path)
            yield list(path)


@torch.no_grad()
def ridge_bridges(dense: Side, sparse: Side, blocks: torch.Tensor, *, penalty: float = 1e-3, batch: int = 8) -> Bridges:
    """The baseline for two models that were trained apart: linear bridges by ridge regression of one stream on the other, without AbsTopK.

    Args:
        blocks: token ids [n, tokens] to fit on.
        penalty: times the mean variance of the inputs.
    """
    points = dense.sublayers + 1
    sums: list[dict[str, torch.Tensor]] = [{} for _ in range(points)]
    count = 0
    with evaluating(dense.model), evaluating(sparse.model), torch.no_grad():
        for ids in blocks.split(batch):
            ids = ids.long().to(dense.model.device)
            for i, (d, s) in enumerate(zip(stream(dense, ids)[0], stream(sparse, ids)[0])):
                d, s = d.flatten(0, 1).double().cpu(), s.flatten(0, 1).double().cpu()
                for name, value in (("d", d.sum(0)), ("s", s.sum(0)), ("dd", d.T @ d), ("ss", s.T @ s), ("ds", d.T @ s)):
                    sums[i][name] = sums[i][name] + value if name in sums[i] else value
            count += ids.numel()
    found = Bridges(dense.width, sparse.width, points)
    for i, m in enumerate(sums):
        mean_d, mean_s = m["d"] / count, m["s"] / count
        cross = m["ds"] / count - torch.outer(mean_d, mean_s)
        for linear, inputs, mean_in, mean_out, product in (
            (found.encoders[i], m["dd"] / count - torch.outer(mean_d, mean_d), mean_d, mean_s, cross),
            (found.decoders[i], m["ss"] / count - torch.outer(mean_s, mean_s), mean_s, mean_d, cross.T),
        ):
            scale = inputs.diagonal().mean().clamp_min(1e-12)
            weight = torch.linalg.solve(inputs + penalty * scale * torch.eye(len(inputs), dtype=inputs.dtype), product).T
            linear.weight.copy_(weight)  # type: ignore[operator]
            linear.bias.copy_(mean_out - weight @ mean_in)  # type: ignore[operator]
    return found.to(dense.model.device)


@torch.no_grad()
def constant_bridges(dense: Side, sparse: Side, kind: str) -> Bridges:
    """Baselines that cost nothing: "identity" (equal widths only), or "zero".

    Raises:
        ValueError: for identity between different widths.
    """
    found = Bridges(dense.width, sparse.width, dense.sublayers + 1)
    if kind == "identity" and dense.width != sparse.width:
        raise ValueError(f"There is no identity between widths {dense.width} and {sparse.width}.")
    for linear in (*found.encoders, *found.decoders):
        linear.weight.copy_(torch.eye(dense.width) if kind == "identity" else torch.zeros_like(linear.weight))  # type: ignore[operator,arg-type]
        linear.bias.zero_()  # type: ignore[operator]
    return found.to(dense.model.device)
