"""Where files that are published come from, and where they are put together: nothing is out of the user's folder, nothing is left behind for long."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ..files import lives

SCRATCH = "csp-publish-"
LEFT_OVER = 24 * 3600  # seconds after which the scratch folder of a killed run is taken away


def is_own_file(path: Path, folder: Path) -> bool:
    """Whether there is a file, in the folder, that may go; False: there is nothing, or a folder.

    Raises:
        ValueError: naming a link that leads out of the folder or nowhere, or what is no regular file: reading a pipe would never end.
    """
    if not _is_inside(path, folder) or path.is_dir():
        return False
    if not path.is_file():
        raise ValueError(f"{_shown(path, folder)} is no regular file (a pipe or device, say); take it out and publish again.")
    return True


def is_own_folder(path: Path, folder: Path) -> bool:
    """The same of a folder."""
    return _is_inside(path, folder) and path.is_dir()


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether there is anything; if so, it is in the folder, wherever links on the way lead."""
    if not os.path.lexists(path):
        return False
    try:
        target, root = path.resolve(strict=True), folder.resolve()
    except (OSError, RuntimeError):
        raise ValueError(f"{_shown(path, folder)} is a link to nothing; put the file itself in its place.") from None
    if not target.is_relative_to(root) and not (path.is_symlink() and _is_cached(target, root)):
        raise ValueError(
            f"{_shown(path, folder)} is, or is behind, a link that leads out of the folder; put the file itself in its place."
        )
    return True


def _is_cached(target: Path, root: Path) -> bool:
    """Whether this is what the Hub's cache keeps for the snapshot that the folder is.

    A snapshot is models--user--name/snapshots/COMMIT and links to models--user--name/blobs/ETAG, which may link to blobs/HH/HASH beside models--user--name.
    """
    for place in (root, *root.parents):
        repository = place.parent.parent
        if place.parent.name == "snapshots" and re.match("(models|datasets|spaces)--", repository.name):
            shared = target.parents[1] == repository.parent / "blobs" and re.fullmatch("[0-9a-f]{64}", target.name)
            return target.parent == repository / "blobs" or bool(shared)
    return False


def _shown(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that is gone when its block ends; its name tells `sweep` whose it is."""
    return tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-")


def sweep() -> None:
    """Takes away scratch folders of this user's runs that were killed: old ones, of no process that runs."""
    with suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
            with suppress(OSError):
                found = path.lstat()
                mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
                if stat.S_ISDIR(found.st_mode) and mine and found.st_mtime < time.time() - LEFT_OVER and not _runs(path.name):
                    shutil.rmtree(path, ignore_errors=True)  # follows no links


def _runs(name: str) -> bool:
    process = re.match(rf"{SCRATCH}(\d+)-", name)
    return process is not None and os.name == "posix" and lives(int(process[1]))
