"""The stages of `gpu.py`. Each prints `ROW {json}` as soon as a figure is there. A floor stands beside what has one."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from plain import plain_abs_topk, plain_attention
from sparse import random_model, yolo2
from torch.nn import functional as F

import sparse_circuits.attention_csp as attention_csp
import sparse_circuits.topk_csp as topk_csp
from sparse_circuits import CSPConfig, CSPForCausalLM, SparsityConfig
from sparse_circuits.kernels import gpu
from sparse_circuits.nonzeros_csp import SparseMatrix
from sparse_circuits.topk_csp import abs_topk_mask
from sparse_circuits.training import normalize_gradients_, project_tensor_, sparse_tensors
from sparse_circuits.training.recipes import make_recipe
from sparse_circuits.wiring_csp import NODE_LOCATIONS

ROOT = Path(__file__).resolve().parent.parent

LIMIT = 15 << 20  # bytes of one file that come back from a lent machine
MICRO_BATCHES = 4  # of 64 sequences of 256 tokens: 64k tokens a step


class Bench:
    """The device, sizes for it, and the clock."""

    def __init__(self, dry: bool, out: Path, seconds: float):
        self.dry, self.out, self.end = dry, out, time.monotonic() + seconds
        self.device = torch.device("cpu" if dry else "cuda")
        self.unmeasured = 1 if dry else 2  # first calls, which compile
        torch.manual_seed(0)

    def size(self, real: Any, tiny: Any) -> Any:
        return tiny if self.dry else real

    def row(self, **found: Any) -> None:
        print("ROW " + json.dumps(found), flush=True)

    def time(self, function: Callable[[], Any], repeats: int = 20) -> float:
        """Milliseconds: the median of some runs, after those that are not counted."""
        repeats, times = (1 if self.dry else repeats), []
        for turn in range(repeats + self.unmeasured):
            self.wait()
            begun = time.perf_counter()
            function()
            self.wait()
            if turn >= self.unmeasured:
                times.append((time.perf_counter() - begun) * 1e3)
        return statistics.median(times)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def tried(self, what: str, function: Callable[[], Any], **more: Any) -> None:
        """A row of what a function gives, or of why it fails: one thing that does not work leaves the others to be measured."""
        try:
            self.row(what=what, **more, **function())
        except Exception as error:
            self.row(what=what, **more, failed=f"{type(error).__name__}: {str(error)[:160]}")


def run(stage: str, dry: bool, out: Path, seconds: float) -> None:
    """One stage."""
    {
        "kernels": kernels, "topk": topk, "products": products, "decode": decode, "attention": attention, "training": training, "run": run_recipe,
    }[stage](Bench(dry, out, seconds))  # fmt: skip


def kernels(bench: Bench) -> None:
    """Every kernel against PyTorch, and a model on the device against itself on CPU."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for rows, width, k in bench.size(
            ((512, 8192, 2048), (513, 2048, 512), (1000, 300, 75), (7, 32, 8)), ((5, 48, 12), (3, 7, 3))
        ):
            x = torch.randn(rows, width)
            x[:, ::3] = x[:, ::3].round()  # ties, among them zeros
            x[0, 1], x[0, 2] = float("nan"), float("inf")
            x = x.to(dtype)
            found, kept = gpu.selected(x.to(bench.device), k)
            expected = abs_topk_mask(x, k)
            same = torch.equal(kept.cpu(), expected) and torch.equal(
                found.cpu().nan_to_num(), torch.where(expected, x, 0).nan_to_num()
            )
            bench.row(what="AbsTopK", dtype=str(dtype).removeprefix("torch."), shape=f"{rows} x {width}", equal=same)
    for tokens in bench.size((1, 64, 1000), (1, 5)):
        dense = sparse_matrix(bench, *bench.size((4096, 2048), (20, 30)), 0.02)
        x, dy = (
            torch.randn(tokens, dense.shape[1], device=bench.device),
            torch.randn(tokens, dense.shape[0], device=bench.device),
        )
        matrix = SparseMatrix.from_dense(dense)
        wide = x.double(), dense.double(), dy.double()
        product = gpu.product(x, matrix.row_starts, matrix.columns, matrix.values.detach())
        bench.row(what="product", shape=f"{tokens} tokens", error=float((product.double() - wide[0] @ wide[1].t()).abs().max()))
        found = gpu.value_gradient(dy, x, matrix.support.row_of, matrix.columns)
        expected = (wide[2].t() @ wide[0])[dense.nonzero(as_tuple=True)]
        bench.row(what="gradient of values", shape=f"{tokens} tokens", error=float((found.double() - expected).abs().max()))
    bench.tried("tests marked gpu", lambda: marked_tests(bench))
    model = CSPForCausalLM(CSPConfig(**tiny_settings())).eval()
    ids = torch.randint(0, model.config.vocab_size, (2, 33))
    with torch.no_grad():
        expected = model(ids).logits
        for name, other in (("dense", model), ("sparse", CSPForCausalLM(model.config).eval())):
            other.load_state_dict(model.state_dict())
            other = other.to_sparse(max_density=1.0) if name == "sparse" else other
            logits = other.to(bench.device)(ids.to(bench.device)).logits.cpu()
            bench.row(what=f"model, {name}", shape="2 x 33", error=float((logits - expected).abs().max()))


def marked_tests(bench: Bench) -> dict[str, str]:
    """The last line that pytest says of the tests marked `gpu`, with the names of those that fail; a dry run takes some of them."""
    some = ["-k", "device or fill"] if bench.dry else []
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(ROOT / "tests" / "kernels"),
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        *some,
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])}
    said = subprocess.run(command, capture_output=True, text=True, env=environment).stdout.splitlines()
    return {"result": "; ".join([*(line for line in said if line.startswith(("FAILED", "ERROR"))), *said[-1:]])[:400]}


def tiny_settings() -> dict[str, Any]:
    return {
        "vocab_size": 128,
        "n_layer": 2,
        "n_head": 4,
        "d_head": 8,
        "d_model": 32,
        "d_mlp": 64,
        "sink": True,
        "afrac": dict.fromkeys(NODE_LOCATIONS, 0.25),
    }


def sparse_matrix(bench: Bench, rows: int, width: int, density: float) -> torch.Tensor:
    return torch.randn(rows, width, device=bench.device) * (torch.rand(rows, width, device=bench.device) < density)


def topk(bench: Bench) -> None:
    """AbsTopK and projection, against `torch.topk` and the time that reading and writing take."""
    for dtype in (torch.float32, torch.bfloat16):
        for width in bench.size((2048, 4096, 8192), (64,)):
            x = torch.randn(bench.size(16384, 4), width, device=bench.device).to(dtype)
            ours = bench.time(lambda x=x: gpu.selected(x, x.shape[-1] // 4))
            plain = bench.time(lambda x=x: plain_abs_topk(x, x.shape[-1] // 4))
            floor = bench.time(x.clone)  # one read, one write; ours writes a mask besides
            bench.row(what="AbsTopK, k 1/4", dtype=str(dtype).removeprefix("torch."), shape=f"{x.shape[0]} x {width}", ours_ms=ours, topk_scatter_ms=plain,
                      floor_ms=floor, times_floor=ours / floor, topk_by_ours=plain / ours)  # fmt: skip
    weight = torch.randn(*bench.size((16384, 25344), (64, 96)), device=bench.device)  # 415 M entries
    for density in (1 / 2, 1 / 1024):
        k, repeats = int(density * weight.numel()), 3
        ours = bench.time(lambda k=k: project_tensor_(weight.clone(), k), repeats)
        counted = (
            bench.time(lambda k=k: project_tensor_(weight.clone(), k, min_alive=4, neuron_dim=0), repeats)
            if k >= 4 * len(weight)
            else None
        )
        plain = bench.time(lambda k=k: weight.abs().flatten().topk(k, sorted=False).values.amin(), repeats)
        bench.row(what="projection", shape=f"{weight.numel():,}", density=density, ours_ms=ours, with_minimum_ms=counted, topk_ms=plain,
                  floor_ms=bench.time(weight.clone, repeats))  # fmt: skip


def products(bench: Bench) -> None:
    """Sparse products against dense ones, by density: where they cross."""
    rows, width = bench.size((8192, 2048), (24, 32))
    for tokens in bench.size((1, 64, 4096), (1, 5)):
        x, dy = torch.randn(tokens, width, device=bench.device), torch.randn(tokens, rows, device=bench.device)
        for density in bench.size((1 / 16, 1 / 64, 1 / 128, 1 / 256, 1 / 1024), (1 / 4,)):
            dense = sparse_matrix(bench, rows, width, density)
            found = functools.partial(both_ways, bench, dense, x, dy)
            bench.tried("products", found, shape=f"{rows} x {width}", tokens=tokens, density=density)


def both_ways(bench: Bench, dense: torch.Tensor, x: torch.Tensor, dy: torch.Tensor) -> dict[str, float]:
    """A matrix forward, to its input's gradient and to its own, by nonzeros and dense."""
    matrix, narrow = SparseMatrix.from_dense(dense), (x.bfloat16(), dense.bfloat16())
    support, values = matrix.support, matrix.values.detach()
    back, order = support.transposed
    turned = values[order]
    return {
        "forward_ms": bench.time(lambda: gpu.product(x, support.starts, support.columns, values)),
        "dense_forward_ms": bench.time(lambda: F.linear(x, dense)),
        "dense_forward_bf16_ms": bench.time(lambda: F.linear(*narrow)),
        "input_gradient_ms": bench.time(lambda: gpu.product(dy, back.starts, back.columns, turned)),
        "dense_input_gradient_ms": bench.time(lambda: dy @ dense),
        "weight_gradient_ms": bench.time(lambda: gpu.value_gradient(dy, x, support.row_of, support.columns)),
        "dense_weight_gradient_ms": bench.time(lambda: dy.t() @ x),
    }


def shape_of_yolo2(bench: Bench) -> CSPConfig:
    return CSPConfig(**tiny_settings()) if bench.dry else yolo2(8)


@torch.no_grad()
def decode(bench: Bench) -> None:
    """Decoding and forward at csp_yolo2's shape: dense, sparse, and the forward pass as a CUDA graph."""
    config, prompt, new = shape_of_yolo2(bench), *bench.size((256, 64), (8, 3))
    ids = torch.randint(0, config.vocab_size, (1, prompt), device=bench.device)
    for form in ("dense", "sparse"):
        model = random_model(config, *bench.size((1 / 1024, 1 / 128), (1 / 4, 1 / 4))).eval()
        model = (model.to_sparse(max_density=0.1 if not bench.dry else 1.0) if form == "sparse" else model).to(bench.device)

        def decoded(model: Any = model) -> dict[str, float]:
            took = bench.time(
                lambda: model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0), 3
            )
            return {"ms_per_token": took / new}

        bench.tried(f"decoding after {prompt}", decoded, form=form)
        long = torch.randint(0, config.vocab_size, (1, bench.size(512, 8)), device=bench.device)
        bench.tried(
            "forward",
            lambda model=model, long=long: {"ms": bench.time(lambda: model(long, use_cache=False), 5)},
            form=form,
            tokens=long.shape[1],
        )
        if bench.device.type == "cuda":
            bench.tried(
                "forward, CUDA graph",
                lambda model=model, long=long: graphed(bench, model, long),
                form=form,
                tokens=long.shape[1],
            )


def graphed(bench: Bench, model: Any, ids: torch.Tensor) -> dict[str, float]:
    """The forward pass captured once and replayed; its logits against the plain pass."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        expected = model(ids, use_cache=False).logits
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model(ids, use_cache=False).logits
    took = bench.time(graph.replay, 5)
    return {"ms": took, "error": float((logits - expected).abs().max())}


def attention(bench: Bench) -> None:
    """Implementations of attention with a sink: equal to eager, or refused; and their time."""
    settings = (
        tiny_settings()
        if bench.dry
        else {**tiny_settings(), "n_head": 32, "d_head": 64, "d_model": 512, "d_mlp": 512, "n_layer": 1, "vocab_size": 2048}
    )
    model = CSPForCausalLM(CSPConfig(**settings)).eval().to(bench.device, bench.size(torch.bfloat16, torch.float32))
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.sink_bias.normal_()
    ids = torch.randint(0, settings["vocab_size"], bench.size((4, 2048), (2, 20)), device=bench.device)
    expected = model(ids, use_cache=False).logits.detach()
    model.set_attn_implementation("eager")
    eager = model(ids, use_cache=False).logits.detach()
    bench.row(what="sdpa against eager", error=float((expected - eager).abs().max()))
    for name in (
        "eager",
        "sdpa",
        "flex_attention",
        "flash_attention_2",
        "flash_attention_4",
        "kernels-community/vllm-flash-attn3",
    ):

        def measured(name: str = name) -> dict[str, float]:
            model.set_attn_implementation(name)
            with torch.no_grad():
                logits = model(ids, use_cache=False).logits
                took = bench.time(lambda: model(ids, use_cache=False), 5)
            return {"ms": took, "error": float((logits - eager).abs().max())}

        bench.tried("attention with a sink", measured, implementation=name)


@contextlib.contextmanager
def the_plain_way(plain: bool) -> Iterator[None]:
    """While the block runs, AbsTopK and attention are those of released code, if it is to be plain."""
    ours = topk_csp.abs_topk, attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"]
    if plain:
        topk_csp.abs_topk = plain_abs_topk  # type: ignore[assignment]
        attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"] = plain_attention
    try:
        yield
    finally:
        topk_csp.abs_topk, attention_csp.ALL_ATTENTION_FUNCTIONS["sdpa"] = ours


def training(bench: Bench) -> None:
    """A training step of paper-1x and paper-4x, in parts, against the plain loop."""
    for preset in bench.size(("paper-1x", "paper-4x"), ("paper-1x",)):
        recipe = make_recipe(preset)
        settings = tiny_settings() if bench.dry else {**recipe.model, "vocab_size": 2048}
        batch, tokens = bench.size((64, 256), (2, 16))
        pieces = bench.size(MICRO_BATCHES, 1)
        ids = torch.randint(0, settings["vocab_size"], (batch, tokens), device=bench.device)
        for plain in (False, True):
            step = functools.partial(a_step, bench, settings, recipe, ids, pieces, plain)
            bench.tried(f"a step of {preset}", step, way="plain" if plain else "ours", batch=f"{pieces} x {batch} x {tokens}")


def a_step(
    bench: Bench, settings: dict[str, Any], recipe: Any, ids: torch.Tensor, pieces: int, plain: bool
) -> dict[str, float]:
    """The time of a step of `pieces` times `ids`, by its parts, and how much of it AbsTopK is: by leaving AbsTopK out of the same step."""
    model = CSPForCausalLM(CSPConfig(**settings)).to(bench.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.01, betas=(0.9, 0.95), eps=0.1, weight_decay=0.1, fused=bench.device.type == "cuda"
    )
    tensors, sparsity = sparse_tensors(model), SparsityConfig(**recipe.sparsity)
    parts: dict[str, list[float]] = {"forward_backward_ms": [], "optimizer_ms": [], "projection_ms": []}

    def step() -> None:
        marks = [mark(bench)]
        for _ in range(pieces):
            with torch.autocast(bench.device.type, torch.bfloat16):
                loss = model(ids, labels=ids, use_cache=False).loss
            loss.backward()
        marks.append(mark(bench))
        normalize_gradients_(model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        marks.append(mark(bench))
        for tensor in tensors:
            k = tensor.count(sparsity.densities_at(25, 100)[tensor.group])
            if plain:
                by_topk(tensor.parameter, k)
            else:
                project_tensor_(tensor.parameter, k, min_alive=sparsity.min_alive, neuron_dim=tensor.neuron_dim)
        marks.append(mark(bench))
        for name, (one, two) in zip(parts, itertools.pairwise(marks)):
            parts[name].append((two - one) * 1e3)

    with the_plain_way(plain):
        took = bench.time(step, 5)
    found = {name: statistics.median(times[bench.unmeasured :]) for name, times in parts.items()}
    with everything_kept():
        without = bench.time(step, 3)
    shares = {"projection_share": found["projection_ms"] / took, "topk_share": 1 - without / took}
    return {"tokens_per_second": pieces * ids.numel() / took * 1e3, "ms": took, **found, **shares}


@contextlib.contextmanager
def everything_kept() -> Iterator[None]:
    """While the block runs, AbsTopK keeps everything: what a step takes without it."""
    ours, topk_csp.abs_topk = topk_csp.abs_topk, lambda x, k: x
    try:
        yield
    finally:
        topk_csp.abs_topk = ours


def by_topk(parameter: torch.Tensor, k: int) -> None:
    flat = parameter.data.view(-1)
    kept = flat.abs().topk(k, sorted=False).indices
    flat.copy_(torch.zeros_like(flat).scatter_(0, kept, flat[kept]))


def mark(bench: Bench) -> float:
    bench.wait()
    return time.perf_counter()


def run_recipe(bench: Bench) -> None:
    """`paper-1x` under the Trainer for the time that is left, with its curve; the weights come back as nonzeros."""
    from sparse_circuits.training.train import train

    folder, steps = bench.out / "trained", 4
    if not bench.dry:  # as many steps as half of the time has room for, by the time of one; the rest is for text and baselines
        recipe = make_recipe("paper-1x")
        ids = torch.randint(0, 2048, (64, 256), device=bench.device)
        took = a_step(bench, {**recipe.model, "vocab_size": 2048}, recipe, ids, MICRO_BATCHES, plain=False)["ms"] / 1e3
        steps = max(20, int((bench.end - time.monotonic()) / 2 / took))
    settings = [
        f"arguments.max_steps={steps}", f"arguments.gradient_accumulation_steps={bench.size(MICRO_BATCHES, 1)}", "arguments.eval_strategy='no'",
        f"arguments.save_steps={steps}", f"arguments.logging_steps={max(1, steps // 20)}", "arguments.report_to=none",
        "eval_blocks=64", "round_table=true", f"corpora={{'idioms{bench.size('', ':300')}': 1.0}}",
    ]  # fmt: skip
    if bench.dry:
        settings += [
            "model.n_layer=1", "model.d_model=32", "model.d_mlp=64", "model.n_head=2", "block=64", "arguments.per_device_train_batch_size=2",
            "arguments.bf16=false", "sparsity.density=0.3", "sparsity.embedding_density=0.3", "sparsity.bias_density=0.3",
        ]  # fmt: skip
    begun = time.monotonic()
    report = train(make_recipe("paper-1x", settings=settings), folder, say=lambda text: print(text, flush=True))
    bench.row(what="paper-1x", steps=report["steps"], tokens=report["tokens"], seconds_with_text_and_baselines=time.monotonic() - begun,
              loss=report["held out"], loss_of_bigrams=report["bigram"])  # fmt: skip
    for entry in json.loads(next(folder.glob("checkpoint-*/trainer_state.json")).read_text(encoding="utf-8"))["log_history"]:
        if "loss" in entry:
            bench.row(what="curve", step=entry["step"], loss=entry["loss"], density=entry["density/weights"])
    bring_back(bench, folder)


def bring_back(bench: Bench, folder: Path) -> None:
    """`trained.zip`: the weights as nonzeros, the report and the curve; without the weights where they are over the limit."""
    CSPForCausalLM.from_pretrained(folder).save_pretrained(folder / "small", sparse=True)
    packed = bench.out / "trained.zip"
    for weights in (True, False):
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in (*sorted((folder / "small").glob("*.safetensors") if weights else []), *sorted(folder.glob("*.*"))):
                if path.suffix in (".json", ".png", ".md", ".yaml") or path.parent.name == "small":
                    archive.write(path, path.name)
        if packed.stat().st_size < LIMIT:
            break
    bench.row(what="brought back", MB=packed.stat().st_size / 1e6, weights=weights)
