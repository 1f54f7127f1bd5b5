"""Trackers that `report_to` names get the densities too."""

import pytest

from sparse_circuits.cli.app import app

pytest.importorskip("wandb", reason="the extra `ecosystem` is part of make test")


def test_wandb_offline_gets_density_and_l0(tmp_path, monkeypatch):
    import wandb
    from typer.testing import CliRunner

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged = []
    original = wandb.sdk.wandb_run.Run.log
    monkeypatch.setattr(
        wandb.sdk.wandb_run.Run, "log", lambda self, data, *a, **k: (logged.append(data), original(self, data, *a, **k))[1]
    )
    words = ["train", "--preset", "tiny", "--steps", "4", "--corpus", "idioms:200", "--out", str(tmp_path / "run")]
    small = [
        "model.d_model=32",
        "model.n_head=2",
        "model.n_layer=1",
        "arguments.report_to=wandb",
        "arguments.logging_steps=2",
        "arguments.eval_strategy='no'",
    ]
    done = CliRunner().invoke(app, [*words, *(part for each in small for part in ("--set", each))])
    assert done.exit_code == 0, done.output
    names = {name for data in logged for name in data}
    assert {"train/loss", "train/l0", "train/density/weights"} <= names, names
    assert list(tmp_path.glob("wandb/offline-run-*"))
