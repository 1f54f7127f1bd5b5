"""Which k entries of a tensor are the largest by magnitude, without sorting: exact, ties to the lower index, a minimum per neuron.

With c_n(t) the entries of neuron n whose magnitude is at least t, and at least j of each neuron to be kept, the threshold is the
largest t for which the sum over neurons of max(j, c_n(t)) reaches k. Counts of that kind add up over shards, so that a sharded
tensor needs sums of counts only, never the other shards' weights.

Two ways with the same result. By counting alone: a search over the bits of the magnitudes, without host synchronisation, on any device
and over shards. On CPU: a sample brackets the threshold, one pass counts and collects what lies in the bracket, one pass writes; by
Numba where that is installed (`kernels/selection.py`), else by PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..kernels.run import run, serve
from ..topk_csp import abs_topk, largest_mask, magnitude_bits


@dataclass(frozen=True)
class Shards:
    """The other shards of a tensor that is cut along dimension 0: a process group's rank, its size, and the rows before this shard's."""

    group: Any
    rank: int
    size: int

    def total(self, counts: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all shards."""
        counts = counts.clone()
        torch.distributed.all_reduce(counts, group=self.group)
        return counts

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """[shards, ...] of tensors of one shape."""
        tensor = tensor.int() if tensor.dtype == torch.int16 else tensor  # which gloo does not send
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        torch.distributed.all_gather(parts, tensor.contiguous(), group=self.group)
        return torch.stack(parts)


def top_mask(
    keys: torch.Tensor, k: int, *, neuron_dim: int | None = None, at_least: int = 0, shards: Shards | None = None
) -> torch.Tensor:
    """Bool mask of exactly k largest whole numbers of a tensor, ties to the lower flat index, at least `at_least` of each neuron.

    Args:
        keys: integers >= 0, of any shape, or this process' rows of it.
        k: entries to select of the whole tensor, 0 < k <= its size.
        neuron_dim: 0 if a row of a matrix is a neuron's weights, 1 if a column is, None for no neurons.
        at_least: entries of each neuron that are selected first; with neuron_dim, and k at least that many.
        shards: where the other rows are, for a tensor that is cut along dimension 0.
    """
    minimum = at_least if neuron_dim is not None else 0
    if shards is None and keys.numel() < SMALL and keys.device.type == "cpu":  # sorting is faster, and nothing waits for it
        if minimum:
            keys = keys.masked_fill(_forced(keys, minimum, neuron_dim == 0, None), torch.iinfo(keys.dtype).max)
        return largest_mask(keys.reshape(1, -1), k).view(keys.shape)

    def total(threshold: torch.Tensor) -> torch.Tensor:
        """How many entries a threshold selects."""
        reached = keys >= threshold
        if not minimum:
            count = reached.sum()
        elif neuron_dim == 0:  # rows are never cut, so each shard knows its neurons' counts
            count = reached.sum(1).clamp(min=minimum).sum()
        else:
            counts = reached.sum(0)
            return (counts if shards is None else shards.total(counts)).clamp(min=minimum).sum()
        return count if shards is None else shards.total(count)

    threshold = torch.zeros((), dtype=keys.dtype, device=keys.device)
    for bit in reversed(range(8 * keys.element_size() - 1)):
        candidate = threshold | (1 << bit)
        threshold = torch.where(total(candidate) >= k, candidate, threshold)
    chosen = keys > threshold
    if minimum:
        chosen |= _forced(keys, minimum, neuron_dim == 0, shards)
    tied = (keys == threshold) & ~chosen
    count = chosen.sum()
    room = k - (count if shards is None else shards.total(count))
    if shards is not None:
        room = room - shards.gathered(tied.sum())[: shards.rank].sum()
    return chosen | (tied & (tied.flatten().cumsum(0).view(tied.shape) <= room))


def _forced(keys: torch.Tensor, minimum: int, by_row: bool, shards: Shards | None) -> torch.Tensor:
    """Mask of each neuron's `minimum` largest entries, ties to the lower index."""
    if by_row:
        return largest_mask(keys, minimum) if keys.numel() else torch.zeros_like(keys, dtype=torch.bool)
    if shards is None:
        return largest_mask(keys.t().contiguous(), minimum).t()
    # The best of each shard, in the order of the shards, is all that the best of the whole can come from.
    columns = keys.t().contiguous()
    if keys.shape[0] < minimum:
        columns = F.pad(columns, (0, minimum - keys.shape[0]), value=-1)
    own = largest_mask(columns, minimum)
    place = own.nonzero()[:, 1].view(-1, minimum)  # rising, so ties keep their order
    best = shards.gathered(columns.gather(1, place))  # [shards, neurons, minimum]
    chosen = largest_mask(best.permute(1, 0, 2).flatten(1), minimum).view(-1, shards.size, minimum)[:, shards.rank]
    forced = torch.zeros_like(columns, dtype=torch.bool).scatter_(1, place, chosen)
    return forced[:, : keys.shape[0]].t()


# ------------------------------------------------------------------------------------------------------------ on CPU, fast

SAMPLE = 1 << 15
MARGIN = 4.0  # standard deviations of the sample's quantile on each side of the bracket
SMALL = 1 << 14  # below so many entries, one search over all of them is faster than a sample
_ENTRIES_PER_CHUNK = 1 << 18


_MAX = 0x7FFFFFFF  # no number's magnitude has these bits, only one NaN's


def select_in_place(weight: torch.Tensor, k: int, neuron_dim: int | None, at_least: int) -> bool:
    """Zeroes all but the k selected entries of a tensor on CPU; False where it does not pay or cannot (small; mostly ties; float64)."""
    if not SMALL <= weight.numel() < _MAX or weight.device.type != "cpu" or not weight.is_contiguous():
        return False
    if weight.dtype == torch.float64 or torch.compiler.is_compiling():
        return False
    minimum = at_least if neuron_dim is not None else 0
    if (
        minimum and minimum * weight.shape[neuron_dim or 0] == k
    ):  # all there is to give is given: no threshold tells anything apart
        own = weight.detach() if neuron_dim == 0 else weight.detach().t().contiguous()
        kept = abs_topk(own, minimum)
        weight.detach().copy_(kept if neuron_dim == 0 else kept.t())
        return True
    extra, margin = 0, MARGIN  # entries that neurons are given below the threshold, which must be higher for them
    for _ in range(12):
        low, high = _bracket(weight, max(1, k - extra), margin)
        found = _collect(weight, low, high, neuron_dim if minimum else None)
        if found.overflow:  # the bracket is wide, as for a small sample
            found = _collect_by_torch(weight, low, high, neuron_dim if minimum else None)
        above, reached = found.selected(high, minimum), found.selected(low, minimum)
        if above < k <= reached:
            _apply(weight, k, minimum, neuron_dim, found)
            return True
        at = high if above >= k else low
        given = found.selected(at, minimum) - int(found.counts_at(at).sum())
        margin = margin if given != extra else 2 * margin
        extra = given
    return False


def _bracket(weight: torch.Tensor, k: int, margin: float) -> tuple[int, int]:
    """Magnitudes, as bits, between which the k-th largest very probably lies."""
    flat, size = weight.view(-1), weight.numel()
    step = max(1, size // SAMPLE)
    # Every step-th entry, shifted from stretch to stretch, so that no column is favoured.
    index = torch.arange(0, size - step + 1, step, device=weight.device)
    index = index + (index // step * 7919) % step
    sample = magnitude_bits(flat[index].detach()).numpy()
    share, most = k / size, len(sample) - 1
    spread = margin * (share * (1 - share) / len(sample)) ** 0.5 + 1 / len(sample)
    # Places in the sample, counted from its largest.
    first, last = int((share - spread) * len(sample)), int((share + spread) * len(sample)) + 1
    places = {name: most - place for name, place in (("high", first), ("low", last)) if 0 < place <= most}
    ordered = np.partition(sample, sorted(set(places.values()))) if places else sample
    high = min(int(ordered[places["high"]]) + 1, _MAX) if "high" in places else _MAX
    low = int(ordered[places["low"]]) if "low" in places else 0
    return min(low, high - 1), high


@dataclass
class _Bracketed:
    """What one pass found: entries at or above `high` (by neuron, if asked), and those from `low` on, by magnitude and flat index."""

    counts: torch.Tensor  # by neuron, or one
    keys: torch.Tensor
    index: torch.Tensor
    neurons: torch.Tensor | None
    overflow: bool
    high: int

    def counts_at(self, threshold: int) -> torch.Tensor:
        wanted = self.keys >= threshold
        if self.neurons is None:
            return self.counts + wanted.sum()
        return self.counts + torch.bincount(self.neurons[wanted], minlength=len(self.counts))

    def selected(self, threshold: int, minimum: int) -> int:
        """How many entries a threshold in the bracket selects."""
        return int(self.counts_at(threshold).clamp(min=minimum).sum())


def _collect(weight: torch.Tensor, low: int, high: int, neuron_dim: int | None) -> _Bracketed:
    if not serve(weight):
        return _collect_by_torch(weight, low, high, neuron_dim)
    if neuron_dim is None:
        rows, width = -(-weight.numel() // _ENTRIES_PER_CHUNK), _ENTRIES_PER_CHUNK  # the last row is short
    else:
        rows, width = weight.shape
    per_chunk = max(1, _ENTRIES_PER_CHUNK // width)
    chunks = -(-rows // per_chunk)
    room = per_chunk * width // 8
    keys, index = (torch.empty(chunks, room, dtype=torch.int32, device=weight.device) for _ in range(2))
    by_row = torch.zeros(rows, dtype=torch.int32, device=weight.device)
    by_column = torch.zeros((chunks, width) if neuron_dim == 1 else (0, 0), dtype=torch.int32, device=weight.device)
    collected = torch.zeros(chunks, dtype=torch.int64, device=weight.device)
    kernels = _kernels()
    job = kernels.CollectJob(
        weight.data_ptr(), weight.numel(), rows, width, per_chunk, low, high, room, by_row.data_ptr(),
        by_column.data_ptr() if neuron_dim == 1 else 0, keys.data_ptr(), index.data_ptr(), collected.data_ptr(),
    )  # fmt: skip
    run(kernels.collect_kernel, chunks, job)
    sizes = [min(size, room) for size in collected.tolist()]
    # Indices are counted from their chunk's first entry.
    flat = torch.cat([index[i, :size].long() + i * per_chunk * width for i, size in enumerate(sizes)])
    counts = by_row.long().sum().view(1) if neuron_dim is None else by_row.long() if neuron_dim == 0 else by_column.sum(0)
    kept = torch.cat([keys[i, :size] for i, size in enumerate(sizes)])
    return _Bracketed(counts, kept, flat, _neurons(flat, weight, neuron_dim), bool((collected > room).any()), high)


def _collect_by_torch(weight: torch.Tensor, low: int, high: int, neuron_dim: int | None) -> _Bracketed:
    keys = magnitude_bits(weight.detach())
    above = keys >= high
    flat = ((keys >= low) & ~above).view(-1).nonzero()[:, 0]
    counts = above.count_nonzero().view(1) if neuron_dim is None else above.count_nonzero(dim=1 - neuron_dim)
    return _Bracketed(counts, keys.view(-1)[flat], flat, _neurons(flat, weight, neuron_dim), False, high)


def _neurons(flat: torch.Tensor, weight: torch.Tensor, neuron_dim: int | None) -> torch.Tensor | None:
    if neuron_dim is None:
        return None
    return flat // weight.shape[1] if neuron_dim == 0 else flat % weight.shape[1]


def _kernels() -> Any:
    from ..kernels import selection  # which needs Numba

    return selection


def _apply(weight: torch.Tensor, k: int, minimum: int, neuron_dim: int | None, found: _Bracketed) -> None:
    threshold = _threshold(k, minimum, found)
    counts = found.counts_at(threshold + 1)
    forced = torch.zeros(0, dtype=torch.int64, device=weight.device)
    if minimum:
        poor = (counts < minimum).nonzero()[:, 0]
        if len(poor):
            own = weight.index_select(neuron_dim or 0, poor)
            mask = largest_mask(magnitude_bits((own if neuron_dim == 0 else own.t()).contiguous()), minimum)
            which, place = mask.nonzero(as_tuple=True)
            forced = poor[which] * weight.shape[1] + place if neuron_dim == 0 else place * weight.shape[1] + poor[which]
    tied = found.index[found.keys == threshold]
    if len(forced):
        tied = tied[~torch.isin(tied, forced)]
    room = k - int(counts.clamp(min=minimum).sum())
    kept = torch.cat([forced, tied.sort().values[:room]])
    flat = weight.view(-1)
    values = flat[kept]
    if serve(weight):
        chunks = -(-weight.numel() // _ENTRIES_PER_CHUNK)
        kernels = _kernels()
        run(
            kernels.zero_up_to_kernel,
            chunks,
            kernels.ZeroUpToJob(weight.data_ptr(), weight.numel(), _ENTRIES_PER_CHUNK, threshold),
        )
    else:
        weight.masked_fill_(magnitude_bits(weight) <= threshold, 0)
    flat[kept] = values


def _threshold(k: int, minimum: int, found: _Bracketed) -> int:
    """The largest t that selects at least k, which lies among the collected."""
    if not minimum or bool((found.counts >= minimum).all()):
        rank = k - int(found.counts.sum())  # of the collected, the rank-th largest
        return int(found.keys.kthvalue(len(found.keys) - rank + 1).values)
    # Neurons that have their minimum above the bracket only count; the others are counted one by one.
    poor = found.counts < minimum
    of_poor = poor[found.neurons]
    rich_keys, poor_keys, poor_neurons = found.keys[~of_poor], found.keys[of_poor], found.neurons[of_poor]  # type: ignore[index]
    base, rich = found.counts, int(found.counts[~poor].sum())
    low, high = int(found.keys.min()), found.high
    while high - low > 1:  # low selects at least k, high fewer
        middle = low + (high - low) // 2
        counts = base + torch.bincount(poor_neurons[poor_keys >= middle], minlength=len(base))
        selected = rich + int((rich_keys >= middle).sum()) + int(counts[poor].clamp(min=minimum).sum())
        low, high = (middle, high) if selected >= k else (low, middle)
    return low
