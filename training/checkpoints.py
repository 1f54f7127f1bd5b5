"""A run's checkpoints know the sha256 of their files, so that none is taken up that is torn or damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

from ..checkpoints.archive import require_archive
from ..checkpoints.fitting import headers
from ..files import file_sha256, read_object, write_whole

SUMS = "sha256.json"
_STATE = "trainer_state.json"


class SumCheckpoints(TrainerCallback):
    """Writes sha256.json into every checkpoint. Not where several processes write one: none knows when the others have ended."""

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if args.world_size == 1 and folder.is_dir():
            sums = {
                path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()
            }
            sums.pop(SUMS, None)
            write_whole(folder / SUMS, json.dumps(sums, indent=1) + "\n")


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was written to its end and is as it was written.

    By its sha256.json; one without it (of earlier versions, of several processes, or torn) by what its files say of themselves.
    """
    try:
        state = read_object(folder / _STATE)
        step = state.get("global_step")
        if (
            isinstance(step, bool)
            or step != int(folder.name.rpartition("-")[2])
            or not isinstance(state.get("log_history"), list)
        ):
            return False
        TrainerState.load_from_json(str(folder / _STATE))
        if (folder / SUMS).exists():
            return _as_written(folder, read_object(folder / SUMS))
        for path in folder.iterdir():
            if path.suffix in (".pt", ".pth", ".bin"):
                require_archive(path)
            elif path.suffix == ".safetensors":
                headers([path])
        return True
    except (OSError, ValueError, TypeError):
        return False


def _as_written(folder: Path, sums: dict[str, Any]) -> bool:
    inside = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != SUMS and not path.is_dir()}
    if not sums or inside - set(sums):
        return False
    return (
        all(
            (folder / name).is_file() and file_sha256(folder / name) == digest
            for name, digest in sums.items()
            if name in inside
        )
        and set(sums) <= inside
    )
