"""`make gpu` before there is a GPU: every stage at tiny sizes, what becomes of one that fails, and a training step that never waits for the device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from forked import run_forked
from sparse_circuits import CSPForCausalLM, SparsityConfig
from sparse_circuits.training.callback import WeightSparsityCallback
from sparse_circuits.training.projection import sparse_tensors
from tiny import FEATURES, tiny_config

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
MOST_FILES, LARGEST = 8, 16 << 20  # what comes back from a lent machine


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the dry run is for machines without a GPU")
def test_a_dry_run(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu as script

    run_forked(["-c", ""])  # the server has begun before anything is replaced

    class Forked:
        """A stage's process, begun with the libraries imported."""

        def __init__(self, command, stdout, stderr, env):
            self._done = run_forked(command[1:], env=env)
            stdout.write(self._done.stdout + self._done.stderr)

        def wait(self, limit):
            return self._done.returncode

    monkeypatch.setattr(script, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Forked}))
    monkeypatch.setattr(script, "on_the_path", lambda: None)  # stages do it themselves
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry", "--out", str(tmp_path)])
    assert script.main() == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {name: (stage["status"], stage["error"]) for name, stage in report["stages"].items()} == dict.fromkeys(
        ["kernels", "topk", "products", "decode", "attention", "training", "run"], ("done", "")
    )
    rows = {name: stage["rows"] for name, stage in report["stages"].items()}
    failed = [row for stage in rows.values() for row in stage if "failed" in row]
    assert all("flash" in row.get("implementation", "") or "CPU with flex" in row["failed"] for row in failed)
    assert all(row.get("equal", True) and row.get("error", 0) < 1e-3 for row in rows["kernels"])
    assert "passed" in next(row["result"] for row in rows["kernels"] if "result" in row)
    assert [row["step"] for row in rows["run"] if row["what"] == "curve"] == [1, 2, 3, 4]
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert sorted(path.name for path in files) == ["report.json", "report.md", "trained.zip"]
    assert len(files) <= MOST_FILES
    assert max(path.stat().st_size for path in files) < LARGEST


STAND_IN = """
import sys, time
stage = sys.argv[sys.argv.index("--stage") + 1]
print('ROW {"what": "%s"}' % stage, flush=True)
if stage == "topk":
    raise RuntimeError("no such instruction")
if stage == "products":
    time.sleep(60)
"""


def test_a_stage_that_fails_or_hangs_is_reported_and_the_next_one_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu as script

    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(script, "__file__", str(tmp_path / "stand_in.py"))
    monkeypatch.setattr(script, "STAGES", {"kernels": 30, "topk": 30, "products": 2, "decode": 30})
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry", "--out", str(tmp_path / "out")])
    assert script.main() == 0
    stages = json.loads((tmp_path / "out" / "report.json").read_text())["stages"]
    assert [stage["status"] for stage in stages.values()] == ["done", "failed", "out of time", "done"]
    assert [stage["rows"] for stage in stages.values()] == [[{"what": name}] for name in stages]
    assert "no such instruction" in stages["topk"]["error"]
    assert "no such instruction" in (tmp_path / "out" / "report.md").read_text()


def test_it_says_so_where_there_is_no_gpu(tmp_path):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert said.returncode == 2
    assert "--dry" in said.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES.keys())
def test_a_training_step_never_reads_the_device(features):
    """On the meta device, whose tensors have no data, whatever would have to be read raises; what is done there is what is done on a GPU, but for kernels."""
    model = CSPForCausalLM(tiny_config(**features)).to("meta")
    callback = WeightSparsityCallback(SparsityConfig(0.5, min_alive=1))
    callback._tensors, callback._watched = sparse_tensors(model), 100  # the first steps are watched, which does read
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    ids = torch.zeros(2, 8, dtype=torch.long, device="meta")
    for step in range(3):
        state = SimpleNamespace(global_step=step, max_steps=9)
        with torch.autocast("cpu", torch.bfloat16):
            model(ids, labels=ids, use_cache=False).loss.backward()
        callback.on_pre_optimizer_step(None, state, None, model=model)
        optimizer.step()
        callback.on_optimizer_step(None, state, None)
        optimizer.zero_grad()
    callback._watched = 0
    with pytest.raises(NotImplementedError):  # this test can fail
        callback.on_optimizer_step(None, state, None)
