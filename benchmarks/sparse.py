"""Sparse execution and storage at the shape of csp_yolo2: plain, our dense and our sparse path, side by side in one run.

    python benchmarks/sparse.py                          # the table of the README; some eight minutes and 6 GB on 2 cores
    python benchmarks/sparse.py --layers 1 --rounds 1 --width 512 --only forward decode    # a quick look

Random weights at csp_yolo2's shape and densities (419 M parameters; blocks 1/1024, embeddings 1/128, dense bigram table), float32.
"plain" is written here the way released code works: dense products, `torch.topk` + scatter, the sink through a materialised mask,
no cache. "dense" and "sparse" are this package's model in its two forms. Medians over rounds in which the paths take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from plain import Plain, plain_abs_topk
from side_by_side import in_turns, machine, ratio
from torch.nn import functional as F

import sparse_circuits.attention_csp as attention_csp
import sparse_circuits.nonzeros_csp as nonzeros_csp
import sparse_circuits.topk_csp as topk_csp
from sparse_circuits import CSPConfig, CSPForCausalLM
from sparse_circuits.kernels.run import available
from sparse_circuits.nonzeros_csp import SparseMatrix
from sparse_circuits.wiring_csp import NODE_LOCATIONS

PROMPT, NEW_TOKENS, TOKENS = 256, 64, 512


def yolo2(layers: int, width: int = 2048) -> CSPConfig:
    """csp_yolo2 (docs/method.md#architecture: d 2048, 128 heads of 16, MLP 8192, vocabulary 2048, AbsTopK 1/4 at every site, positions of width 32), or narrower."""
    return CSPConfig(
        vocab_size=2048, block_size=1024, n_layer=layers, n_head=width // 16, d_head=16, d_model=width, d_mlp=4 * width, sink=True,
        enable_bigram_table=True, position_embedding_type="concatenated", d_pos_emb=32, afrac=dict.fromkeys(NODE_LOCATIONS, 0.25),
    )  # fmt: skip


def random_model(config: CSPConfig, block_density: float, embedding_density: float, seed: int = 0) -> CSPForCausalLM:
    """A dense model whose matrices have random nonzeros at the given densities, scaled so that activations stay of size 1."""
    torch.manual_seed(seed)
    model = CSPForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "bigram" not in name:
            density = embedding_density if name.endswith(("wte.weight", "wpe.weight", "lm_head.weight")) else block_density
            count = int(parameter.numel() * density)
            parameter.zero_()
            scale = max(1.0, density * parameter.shape[1]) ** -0.5
            parameter.view(-1)[torch.randperm(parameter.numel())[:count]] = torch.randn(count) * scale
        elif "norm" not in name:
            parameter.normal_(0, 0.1)
    return model


@contextlib.contextmanager
def breakdown(seconds: dict[str, float]) -> Iterator[None]:
    """Times the parts of our own model, module by module (a hook on one site of each block keeps it from running fused)."""
    originals = (nonzeros_csp.sparse_product, topk_csp.abs_topk, attention_csp.sdpa_attention_forward, F.linear)

    def timed(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            out = function(*args, **kwargs)
            seconds[kind] += time.perf_counter() - begun
            return out

        return run

    nonzeros_csp.sparse_product = timed("products", originals[0])
    topk_csp.abs_topk = timed("AbsTopK", originals[1])
    attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"] = timed("attention", originals[2])
    F.linear = timed("products", originals[3])
    begun = time.perf_counter()
    try:
        yield
    finally:
        seconds["rest"] += time.perf_counter() - begun - sum(seconds.values())
        nonzeros_csp.sparse_product, topk_csp.abs_topk, _, F.linear = originals
        attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"] = originals[2]


# ------------------------------------------------------------------------------------------------------------- measurements


def line(label: str, times: dict[str, list[float]], unit: float = 1e3, suffix: str = "ms") -> None:
    cells = [f"{name} {statistics.median(t) * unit:9.2f} {suffix}" for name, t in times.items()]
    ratios = [f"{name} / sparse {ratio(t, times['sparse'])}" for name, t in times.items() if name != "sparse"]
    print(f"{label:<34} " + "   ".join(cells) + "   |   " + "   ".join(ratios), flush=True)


def parts_line(label: str, seconds: dict[str, float]) -> None:
    kinds = ("products", "AbsTopK", "attention", "rest")
    print(f"{'  of which, ' + label:<34} " + "   ".join(f"{kind} {seconds[kind] * 1e3:.1f} ms" for kind in kinds), flush=True)


def bandwidth() -> float:
    """Bytes per second of reading 512 MB, best of 5."""
    x, best = torch.ones(1 << 27), float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        x.sum()
        best = min(best, time.perf_counter() - begun)
    return x.nbytes / best


def watched(model: CSPForCausalLM) -> list[Any]:
    return [block.mlp.post_act.register_forward_hook(lambda *a: None) for block in model.transformer.h]


@torch.no_grad()
def forward(plain: Plain, dense: CSPForCausalLM, sparse: CSPForCausalLM, rounds: int) -> None:
    ids = torch.randint(0, 2048, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    paths = {"plain": lambda: plain(ids), "dense": lambda: dense(ids), "sparse": lambda: sparse(ids)}
    agree = (sparse(ids).logits - dense(ids).logits).abs().median()
    line(f"forward, {TOKENS} tokens", in_turns(paths, rounds))
    plain.seconds.clear()
    plain(ids)
    parts_line("plain", plain.seconds)
    for name, model in (("dense", dense), ("sparse, module by module", sparse)):
        hooks, seconds = watched(model), defaultdict(float)
        model(ids)
        with breakdown(seconds):
            model(ids)
        for hook in hooks:
            hook.remove()
        parts_line(name, seconds)
    print(f"  median |difference| of logits, sparse against dense: {agree:.1e}")


def backward(plain: Plain, dense: CSPForCausalLM, sparse: CSPForCausalLM, rounds: int) -> None:
    ids = torch.randint(0, 2048, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    embeds = dense.transformer.wte(ids)

    def loss_of(run: Callable[[torch.Tensor], torch.Tensor]) -> None:
        leaf = embeds.clone().requires_grad_()
        logits = run(leaf)
        F.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()

    line(
        f"forward + backward, {TOKENS} tokens",
        in_turns(
            {
                "plain": lambda: loss_of(lambda leaf: plain(ids, leaf)),
                "dense": lambda: loss_of(lambda leaf: dense(ids, inputs_embeds=leaf).logits),
                "sparse": lambda: loss_of(lambda leaf: sparse(ids, inputs_embeds=leaf).logits),
            },
            rounds,
        ),
    )


def generated(model: CSPForCausalLM, ids: torch.Tensor, tokens: int) -> torch.Tensor:
    return model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)


@torch.no_grad()
def decode(plain: Plain, dense: CSPForCausalLM, sparse: CSPForCausalLM, rounds: int) -> None:
    ids = torch.randint(0, 2048, (1, PROMPT), generator=torch.Generator().manual_seed(2))

    def per_token(model: CSPForCausalLM) -> float:
        begun = time.perf_counter()
        generated(model, ids, 1)
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        generated(model, ids, NEW_TOKENS + 1)
        return (time.perf_counter() - begun - first) / NEW_TOKENS

    def recomputed() -> float:  # two of the 64 prefixes, the shortest and the longest
        begun = time.perf_counter()
        for length in (PROMPT, PROMPT + NEW_TOKENS):
            plain(torch.zeros(1, length, dtype=torch.long))
        return (time.perf_counter() - begun) / 2

    times: dict[str, list[float]] = {"prefix recomputed": [], "dense": [], "sparse": []}
    for turn in range(rounds + 1):
        measured = {"prefix recomputed": recomputed(), "dense": per_token(dense), "sparse": per_token(sparse)}
        if turn:
            for name, value in measured.items():
                times[name].append(value)
    line("decoding, per token", times)
    print(f"  sparse: {1 / statistics.median(times['sparse']):.0f} tokens per second")
    decode_parts(sparse, ids, statistics.median(times["sparse"]))


def decode_parts(sparse: CSPForCausalLM, ids: torch.Tensor, per_token: float) -> None:
    import sparse_circuits.kernels.fused as fused

    seconds, original, runs = defaultdict(float), fused.run, 32

    def timed(kernel: Callable[..., None], *args: Any) -> None:
        begun = time.perf_counter()
        original(kernel, *args)
        seconds[kernel.__name__.removesuffix("_kernel").replace("_", " ")] += time.perf_counter() - begun

    cache = sparse(ids, use_cache=True).past_key_values
    fused.run = timed
    for _ in range(runs):
        sparse(ids[:, :1], past_key_values=cache)
    fused.run = original
    parts = {name: value / runs * 1e3 for name, value in seconds.items()}
    rest = per_token * 1e3 - sum(parts.values())
    print(
        "  of which, sparse: "
        + "   ".join(f"{name} {value:.2f} ms" for name, value in parts.items())
        + f"   rest {rest:.2f} ms"
    )
    speed = bandwidth()
    nonzeros = sum(
        m.values.nbytes + m.columns.nbytes + m.row_starts.nbytes for m in sparse.modules() if isinstance(m, SparseMatrix)
    )
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    print(
        f"  floor: {nonzeros / 1e6:.1f} MB of nonzeros + {kept / 1e6:.1f} MB of cache at {speed / 1e9:.1f} GB/s = "
        f"{(nonzeros + kept) / speed * 1e3:.2f} ms"
    )


def repeated(function: Callable[..., Any], repeats: int, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    def run() -> None:
        for _ in range(repeats):
            function(*args, **kwargs)

    return run


def sorted_abs_topk(x: torch.Tensor, k: int) -> torch.Tensor:
    index = torch.topk(x.abs(), k, dim=-1).indices
    return torch.zeros_like(x).scatter_(-1, index, x.gather(-1, index))


def abs_topk_rows(rounds: int) -> None:
    for rows, width in ((512, 8192), (512, 2048), (1, 8192), (1, 2048)):
        x, repeats = torch.randn(rows, width), max(1, 100_000 // (rows * width))
        functions = {"topk sorted": sorted_abs_topk, "topk unsorted": plain_abs_topk, "sparse": topk_csp.abs_topk}
        times = in_turns({name: repeated(function, repeats, x, width // 4) for name, function in functions.items()}, 3 * rounds)
        line(f"AbsTopK, {rows} x {width}", {n: [v / repeats for v in t] for n, t in times.items()}, 1e6, "us")


_LOAD = """
import sys, time, json
import torch, transformers, numba
from sparse_circuits import CSPForCausalLM
import sparse_circuits.kernels.fused
def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1024
before = peak()
begun = time.perf_counter()
model = CSPForCausalLM.from_pretrained(sys.argv[1], sparse=sys.argv[2] == "sparse")
with torch.no_grad():
    for parameter in model.parameters():
        parameter.sum()  # a memory-mapped weight is loaded when it is first read
loaded = time.perf_counter() - begun
ids = torch.randint(0, 2048, (1, 256), generator=torch.Generator().manual_seed(2))
model.generate(ids, max_new_tokens=64, do_sample=False, pad_token_id=0)
print(json.dumps({"seconds": loaded, "MB": peak() - before}))
"""


def storage(dense: CSPForCausalLM, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folders = {"dense": Path(folder) / "dense", "sparse": Path(folder) / "sparse"}
        dense.save_pretrained(folders["dense"], sparse=False)
        dense.save_pretrained(folders["sparse"], sparse=True)
        sizes = {name: sum(f.stat().st_size for f in path.glob("*.safetensors")) for name, path in folders.items()}
        print(f"{'checkpoint':<34} dense {sizes['dense'] / 1e6:.1f} MB   sparse {sizes['sparse'] / 1e6:.1f} MB   |   "
              f"dense / sparse {sizes['dense'] / sizes['sparse']:.1f}")  # fmt: skip
        peaks: dict[str, list[float]] = {"dense": [], "sparse": []}
        for cold in (True, False):
            seconds: dict[str, list[float]] = {"dense": [], "sparse": []}
            for _ in range(rounds):
                for name, path in folders.items():
                    for file in path.glob("*.safetensors"):
                        forget(file) if cold else file.read_bytes()
                    done = subprocess.run([sys.executable, "-c", _LOAD, path, name], capture_output=True, text=True, check=True)
                    result = json.loads(done.stdout.splitlines()[-1])
                    seconds[name].append(result["seconds"])
                    peaks[name].append(result["MB"])
            line(f"load, {'from disk' if cold else 'from the page cache'}", seconds)
        line("peak memory, load + decoding", peaks, 1, "MB")


def forget(path: Path) -> None:
    """Drops a file from the page cache, so that it is read from disk next time."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


@torch.no_grad()
def small(rounds: int) -> None:
    config = CSPConfig(n_layer=4, d_model=256, n_head=16, d_head=16, d_mlp=1024, afrac=dict.fromkeys(NODE_LOCATIONS, 0.25))
    dense = random_model(config, 1 / 32, 1 / 32)
    sparse = random_model(config, 1 / 32, 1 / 32).to_sparse()
    for batch, tokens in ((1, 1), (1, 16), (1, 128), (8, 256)):
        ids = torch.randint(0, 2048, (batch, tokens), generator=torch.Generator().manual_seed(3))
        repeats = max(1, 200 // (batch * tokens))
        models = {"dense": dense, "sparse": sparse}
        times = in_turns({name: repeated(model, repeats, ids, use_cache=False) for name, model in models.items()}, 3 * rounds)
        line(f"small model, forward {batch} x {tokens}", {n: [v / repeats for v in t] for n, t in times.items()})
    ids = torch.randint(0, 2048, (1, 64), generator=torch.Generator().manual_seed(3))
    paths = {"dense": lambda: generated(dense, ids, 32), "sparse": lambda: generated(sparse, ids, 32)}
    line("small model, 32 new tokens", in_turns(paths, 3 * rounds))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    print(
        machine(
            f"seed 0, {options.layers} layers of {options.width}, {options.rounds} rounds: medians, and the range of the ratios"
        )
    )
    if not available():
        raise SystemExit("Numba is not installed: pip install 'sparse-circuits[fast]'")

    def wanted(name: str) -> bool:
        return not options.only or name in options.only

    if wanted("abs_topk"):
        abs_topk_rows(options.rounds)
    if wanted("small"):
        small(options.rounds)
    if not any(wanted(name) for name in ("forward", "backward", "decode", "storage")):
        return
    config = yolo2(options.layers, options.width)
    dense = random_model(config, 1 / 1024, 1 / 128)
    if wanted("storage"):
        storage(dense, options.rounds)
    sparse = random_model(config, 1 / 1024, 1 / 128).to_sparse()
    gc.collect()
    plain = Plain(dense)
    if wanted("forward"):
        forward(plain, dense, sparse, options.rounds)
    if wanted("backward"):
        backward(plain, dense, sparse, options.rounds)
    if wanted("decode"):
        decode(plain, dense, sparse, options.rounds)


if __name__ == "__main__":
    main()
