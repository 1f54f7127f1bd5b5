"""A model for the page: its nonzeros, and its tokenizer, so that `model.js` and `tokenizer.js` can run it without a server."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import Any

import torch

from ..sparse_form_csp import dense_state_dict

_CONFIG = (
    "n_layer", "d_model", "n_head", "d_head", "vocab_size", "activation_type", "residual_activation_type", "norm_type", "position_embedding_type", "afrac",
)  # fmt: skip


# Of a table's additive part: steps in an eighth; what counts as near the median, in eighths; rounds (more change nothing).
_FINE, _NEAR, _ROUNDS = 16, 1.5, 8


@torch.no_grad()
def pack_model(model: Any) -> dict[str, Any]:
    """{"config", "tensors": name -> where its parts lie, "data": base64 of the gzipped parts, "sha256": of the parts}.

    Matrices are stored by their inputs, nonzeros alone; the embedding by token. Values are float32, or bfloat16 where that is exact."""
    parts = _Parts()
    tensors: dict[str, Any] = {}
    for name, tensor in _tensors(model).items():
        value = tensor.detach().cpu().float()
        if value.dim() == 2 and not name.startswith(("bigram_table", "transformer.wpe")):
            tensors[name] = parts.matrix(value if name != "transformer.wte.weight" else value.T)
        else:
            tensors[name] = parts.dense(value)
    data = bytes(parts.data)
    return {
        "config": {name: getattr(model.config, name) for name in _CONFIG}, "tensors": tensors, "sha256": hashlib.sha256(data).hexdigest(),
        "data": base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii"),
    }  # fmt: skip


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """Every parameter by name, sorted, matrices as dense ones, also of a model in sparse form; a tied head too."""
    found = dict(dense_state_dict(model) or model.state_dict())
    found.setdefault("lm_head.weight", found["transformer.wte.weight"])
    return dict(sorted(found.items()))


@torch.no_grad()
def nonzero_count(model: Any) -> int:
    """Nonzeros of a model, the bigram table aside, which packs to a fraction of them."""
    return sum(int(each.count_nonzero()) for name, each in model.named_parameters() if not name.startswith("bigram_table"))


class _Parts:
    """Bytes, each part at a multiple of four."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, values: torch.Tensor) -> list[int]:
        self.data += b"\0" * (-len(self.data) % 4)
        start = len(self.data)
        self.data += values.contiguous().view(torch.uint8).numpy().tobytes() if values.numel() else b""
        return [start, values.numel()]

    def values(self, values: torch.Tensor) -> tuple[str, list[int]]:
        narrow = values.to(torch.bfloat16)
        exact = torch.equal(narrow.float(), values)
        return ("bf16", self.add(narrow.view(torch.int16))) if exact else ("f32planes", self.planes(values))

    def planes(self, values: torch.Tensor) -> list[int]:
        """All first bytes, then all second ones, ...: alike bytes stand together, and compress."""
        if not values.numel():
            return self.add(values)
        start, count = self.add(values.contiguous().view(torch.uint8).view(len(values), -1).T), len(values)
        return [start[0], count]

    def dense(self, value: torch.Tensor) -> dict[str, Any]:
        grid = (value * 8).round()
        if value.dim() == 2 and float(grid.abs().max()) < 1 << 13 and torch.equal(grid / 8, value):
            return self.grid(grid.to(torch.int16))
        kind, place = self.values(value.flatten())
        return {"kind": "dense", "shape": list(value.shape), "type": kind, "values": place}

    def grid(self, eighths: torch.Tensor) -> dict[str, Any]:
        """A table in eighths, as `training.train` rounds those of bigrams: what is left of it beside a number for each row and one for each column (in
        sixteenths of an eighth), rows and columns in the order of those numbers, so that alike ones stand together; 1, -1, 2, -2 as 1, 2, 3, 4 (shifted
        by one), low bytes first. It compresses to a seventh."""
        rows, columns = _additive(eighths)
        rest = eighths.int() - (rows[:, None] + columns + _FINE // 2).div(_FINE, rounding_mode="floor")
        ordered = rest[rows.argsort(stable=True)][:, columns.argsort(stable=True)].T
        folded = ((ordered << 1) ^ (ordered >> 31)).to(torch.int16).contiguous().view(torch.uint8).view(-1, 2)
        return {
            "kind": "grid", "shape": list(eighths.shape), "rows": self.add(rows), "columns": self.add(columns), "low": self.add(folded[:, 0]), "high": self.add(folded[:, 1]),
        }  # fmt: skip

    def matrix(self, value: torch.Tensor) -> dict[str, Any]:
        """[outputs, inputs] by inputs."""
        column, row = value.T.nonzero(as_tuple=True)
        counts = torch.bincount(column, minlength=value.shape[1])
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        narrow = value.shape[0] <= 1 << 16
        rows = row.to(torch.int32) if not narrow else (row - (row >= 1 << 15).long() * (1 << 16)).to(torch.int16)
        kind, weights = self.values(value[row, column])
        return {
            "kind": "matrix", "shape": list(value.shape), "type": kind, "index": "u16planes" if narrow else "u32", "starts": self.add(starts.to(torch.int32)),
            "rows": self.planes(rows) if narrow else self.add(rows), "weights": weights,
        }  # fmt: skip


def _additive(eighths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of rows and of columns, int32, in sixteenths, whose sums come near the table: means of what is near the median, in turn."""
    table = eighths.float()
    rows, columns = table.median(1).values, torch.zeros(table.shape[1])
    for _ in range(_ROUNDS):
        columns = _near_median(table - rows[:, None], 0)
        rows = _near_median(table - columns, 1)
    return (rows * _FINE).round().int(), (columns * _FINE).round().int()


def _near_median(values: torch.Tensor, dim: int) -> torch.Tensor:
    middle = values.median(dim, keepdim=True).values
    return values.clamp(middle - _NEAR, middle + _NEAR).mean(dim)


def pack_tokenizer(tokenizer: Any) -> dict[str, Any] | None:
    """What `tokenizer.js` needs of a byte-level BPE: vocabulary, merges, pattern, special tokens; None for a tokenizer of another kind."""
    found = json.loads(tokenizer.backend_tokenizer.to_str())
    model, before = found.get("model") or {}, (found.get("pre_tokenizer") or {}).get("pretokenizers") or []
    kinds = [each.get("type") for each in before]
    plain = (
        model.get("type") == "BPE"
        and kinds == ["Split", "ByteLevel"]
        and not found.get("normalizer")
        and not model.get("ignore_merges")
    )
    pattern = before[0].get("pattern", {}).get("Regex") if plain and before[0].get("behavior") == "Isolated" else None
    if pattern is None or before[1].get("use_regex") or before[1].get("add_prefix_space"):
        return None
    merges = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
    special = {each["content"]: each["id"] for each in found.get("added_tokens", [])}
    vocab = {text: i for text, i in model["vocab"].items() if text not in special}
    return {"vocab": vocab, "merges": merges, "pattern": pattern, "special": special}
