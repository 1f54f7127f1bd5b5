"""Everything that is to be known of a GPU, in one command that needs no decisions and may be cut off anywhere.

    python benchmarks/gpu.py                 # on a machine with a CUDA device: under ten minutes (`make gpu`)
    python benchmarks/gpu.py --dry           # the same stages at tiny sizes on CPU, kernels in Triton's interpreter

It runs from a bare copy of this repository on a machine with PyTorch, Triton and transformers (with what that brings: tokenizers, safetensors,
huggingface-hub, accelerate, NumPy), typer, tqdm, PyYAML and networkx; no network, no install: the repository's root is put on the path as
`sparse_circuits`. Nothing else travels: models are random, text is generated, the tokenizer lies in the root (150 kB).

Stages, in order of worth, each in a process of its own with its own time limit, so that one that fails or hangs costs the others nothing.
After each, `report.json` and `report.md` in the folder --out (default runs/gpu) have all that is known; with `trained.zip` of the last stage those
are all files that matter, each far below 16 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Stage -> seconds that it may take; together under ten minutes. The last takes what is left.
STAGES = {"kernels": 60, "topk": 60, "products": 60, "decode": 70, "attention": 40, "training": 110, "run": 170}
TOTAL = 570


def on_the_path() -> None:
    """Makes `sparse_circuits` and the benchmarks importable where nothing is installed."""
    link = Path(os.environ.get("TMPDIR", "/tmp")) / f"sparse_circuits-{os.getuid()}" / "sparse_circuits"
    link.parent.mkdir(exist_ok=True)
    if link.is_symlink() and link.resolve() != ROOT:
        link.unlink()
    if not link.exists():
        link.symlink_to(ROOT)
    sys.path[:0] = [str(link.parent), str(ROOT / "benchmarks")]


def write(out: Path, report: dict[str, Any]) -> None:
    """Both files, each at once: what is there is whole."""
    for name, text in (("report.json", json.dumps(report, indent=1) + "\n"), ("report.md", as_markdown(report))):
        partial = out / f".{name}"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, out / name)


def as_markdown(report: dict[str, Any]) -> str:
    """A table for each stage, as docs/results.md takes them."""
    lines = [f"# {report['machine']}", ""]
    for name, stage in report["stages"].items():
        lines += [f"## {name}: {stage['status']}, {stage['seconds']:.0f} s", ""]
        if stage.get("error"):
            lines += ["```", stage["error"], "```", ""]
        if stage["rows"]:
            heads = list(dict.fromkeys(key for row in stage["rows"] for key in row))
            lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
            lines += [f"| {' | '.join(shown(row.get(head)) for head in heads)} |" for row in stage["rows"]]
            lines.append("")
    return "\n".join(lines)


def shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def run_stage(name: str, out: Path, dry: bool, limit: float) -> dict[str, Any]:
    """What a stage found before it ended, failed or ran out of time: it prints a row as soon as it has it."""
    command = [sys.executable, str(Path(__file__).resolve()), "--stage", name, "--out", str(out), "--seconds", str(limit)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"TRITON_INTERPRET": "1"} if dry else {}
    begun, log = time.monotonic(), out / f".{name}.log"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*command, *(["--dry"] if dry else [])], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        try:
            status = "done" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "out of time"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    log.unlink()
    rows = [json.loads(line.removeprefix("ROW ")) for line in lines if line.startswith("ROW ")]
    said = [line for line in lines if not line.startswith("ROW ") and "\r" not in line]
    error = "" if status == "done" else "\n".join(said[-15:])[-2000:]
    return {"status": status, "seconds": round(time.monotonic() - begun, 1), "rows": rows, "error": error}


def machine_line() -> str:
    import torch
    from side_by_side import machine

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: dry run, figures mean nothing"
    return machine(f"CUDA {torch.version.cuda}", device)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu")
    parser.add_argument("--only", nargs="*", choices=STAGES, default=[])
    parser.add_argument("--stage", choices=STAGES, help="one stage, in this process")
    parser.add_argument("--seconds", type=float, default=TOTAL)
    given = parser.parse_args()
    on_the_path()
    if given.stage:
        from gpu_stages import run

        run(given.stage, given.dry, given.out, given.seconds)
        return 0
    import torch

    if not given.dry and not torch.cuda.is_available():
        print("There is no CUDA device here; --dry runs the stages at tiny sizes on CPU.", file=sys.stderr)
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine_line(), "stages": {}}
    end = time.monotonic() + given.seconds
    for name in given.only or STAGES:
        left = end - time.monotonic()
        if left < 10:
            break
        limit = left if name == list(STAGES)[-1] else min(left, STAGES[name])
        report["stages"][name] = run_stage(name, given.out, given.dry, limit)
        write(given.out, report)
        print(as_markdown({**report, "stages": {name: report["stages"][name]}}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
