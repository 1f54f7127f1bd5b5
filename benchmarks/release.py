"""From the paper's release to a verified circuit, rehearsed: files of the release's real shapes and formats, random but for a circuit that is written into them,
served on this machine; every command timed, with its peak memory.

    python benchmarks/release.py --shape small      # in half a minute and one process, for the tests
    python benchmarks/release.py                    # csp_yolo2: 419 million parameters, 1.7 GB
    python benchmarks/release.py --shape dense1_4x  # another model of the release

The store's stand-in has models/NAME/beeg_config.json and final_model.pt, and viz/NAME/TASK/SWEEP/K/viz_data.pt, as docs/method.md#openais-formats says. Prints a table.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine
from sparse import random_model
from typer.testing import CliRunner

from sparse_circuits import CSPTokenizer
from sparse_circuits.circuits.known import plant
from sparse_circuits.cli.app import app
from sparse_circuits.convert import config_from_openai

ROOT = Path(__file__).resolve().parent.parent
CONFIGS, TOKENIZER = ROOT / "tests" / "reference" / "openai_configs", ROOT / "tests" / "reference" / "tokenizer"
SMALL = {"n_layer": 3, "d_model": 64, "n_head": 8, "d_head": 8, "d_mlp": 128, "block_size": 128, "d_pos_emb": 8}
THEIRS = (
    (re.compile(r"\.attn_norm\."), ".ln_1."), (re.compile(r"\.attn_pos_norm\."), ".ln_p1."), (re.compile(r"\.mlp_norm\."), ".ln_2."),
    (re.compile(r"\.mlp_pos_norm\."), ".ln_p2."), (re.compile(r"\.sink_bias$"), ".attn_imp.sink_logit"), (re.compile(r"^transformer\.final_norm\."), "transformer.ln_f."),
    (re.compile(r"^bigram_table\.logit_bias$"), "bigram_table"),
)  # fmt: skip
CIRCUIT = "quote_closing/prune_v4/k_optim"


def release(shape: str, store: Path) -> None:
    """Files as the store has them, and quotes.jsonl, the circuit's task, where one could be written into the model (with a bigram table and RMSNorm)."""
    name = "csp_yolo2" if shape == "small" else shape
    beeg = json.loads((CONFIGS / f"{name}.json").read_text()) | (SMALL if shape == "small" else {})
    config = config_from_openai(beeg)
    model = random_model(config, *((1 / 1024, 1 / 128) if shape != "small" else (1 / 16, 1 / 4)))
    tokenizer = CSPTokenizer.from_folder(TOKENIZER)
    folder = store / "models" / name
    folder.mkdir(parents=True)
    if config.enable_bigram_table and config.norm_type == "rms_norm":
        known = plant("quote_closing", store / "planted", model, tokenizer)
        model = known.model
        (store / "planted" / "task.jsonl").rename(store / "quotes.jsonl")
        write_circuit(known.copies[0], beeg, store / "viz" / name / CIRCUIT)
    state: dict[str, torch.Tensor] = {}
    for key, tensor in model.state_dict().items():
        for pattern, theirs in THEIRS:
            key = pattern.sub(theirs, key)
        state[key] = tensor.clone()
    (folder / "beeg_config.json").write_text(json.dumps(beeg))
    torch.save(state, folder / "final_model.pt")


def commands_of(name: str, place: Path, prune: bool) -> list[list[str]]:
    store, model, circuit = place / "store", str(place / name), str(place / "quotes")
    corpus = ["--corpus", str(place / "corpus.py"), "--tokens", "4096"]
    found = [["convert", f"openai:{name}", model, "--tokenizer", str(TOKENIZER)], ["info", model]]
    if not (task := store / "quotes.jsonl").is_file():
        return found
    found += [
        ["convert", f"openai:{name}/{CIRCUIT}", circuit, "--model", model, "--task", "quotes", *corpus],
        ["verify", model, circuit, "--task", str(task), "--pairs", "16", "--no-controls", "--seeds", "1", *corpus],
        ["view", model, circuit, "--task", str(task), "--contexts", "0", "--out", str(place / "page.html")],
    ]  # fmt: skip
    return [*found, ["prune", model, "--task", str(task), "--out", str(place / "found"), *corpus]] if prune else found


def write_circuit(circuit: Any, beeg: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True)
    importances = {
        "loss": torch.tensor(0.2),
        "beeg_model_config": {key: beeg[key] for key in ("n_layer", "d_model", "n_head", "d_head", "vocab_size")},
    }
    torch.save(
        {"circuit_data": dict(circuit.nodes), "importances": importances, "prune_config": {"k": "optim"}},
        folder / "viz_data.pt",
    )


def served(store: Path) -> str:
    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(store)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def timed(words: list[str], store: str) -> tuple[float, float]:
    """Seconds of a command, and its peak memory in GB; it must end well."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "sparse_circuits.cli", *words], env={**os.environ, "CSP_OPENAI_STORE": store}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip
    said = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"csp {' '.join(words)} failed:\n{said[-2000:]}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1e6


def timed_here(words: list[str], store: str) -> tuple[float, float]:
    """The same in this process, so without the seconds that imports take."""
    begun = time.perf_counter()
    result = CliRunner().invoke(app, words, env={"CSP_OPENAI_STORE": store})
    if result.exit_code:
        raise SystemExit(f"csp {' '.join(words)} failed:\n{result.output[-2000:]}")
    return time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape", default="csp_yolo2", choices=["small", *sorted(path.stem for path in CONFIGS.glob("*.json"))]
    )
    parser.add_argument("--prune", action="store_true", help="Find the circuit anew too (minutes at csp_yolo2's shape).")
    parser.add_argument(
        "--write",
        type=Path,
        help="Only write the store's files into this folder.",
    )
    given = parser.parse_args()
    if given.write is not None:
        release(given.shape, given.write)
        return
    print(machine(f"shape {given.shape}"))
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        if given.shape == "small":
            release(given.shape, place / "store")
        else:  # in a process of its own: a command's peak is at least the memory of what starts it
            subprocess.run([sys.executable, __file__, "--shape", given.shape, "--write", str(place / "store")], check=True)
        name = next(each.name for each in (place / "store" / "models").iterdir())
        url = served(place / "store")
        (place / "corpus.py").write_text("".join(f"def f{i}(x):\n    return 'a{i}' + \"b\"\n\n" for i in range(2000)))
        print("\n| command | seconds | peak GB |\n|---|---|---|")
        for words in commands_of(name, place, given.prune):
            seconds, peak = (timed_here if given.shape == "small" else timed)(words, url)
            said = " ".join(words).replace(str(place) + "/", "").replace(str(TOKENIZER), "tinypython_2k")
            print(f"| `csp {said}` | {seconds:.0f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
