"""Files of torch.save: their checksums are verified before a byte of them is believed.

torch itself reads on without a look at them: one flipped bit would become another weight in silence.
"""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path
from typing import Any

import torch

_LARGEST_PICKLE = 256 << 20  # bytes of a file's data.pkl, which has names and shapes only


def read_archive(path: Path, fix: str = "download it again", largest: int = 1 << 46) -> Any:
    """What a file of torch.save holds; plain tensors and Python values only, other objects are never made.

    Raises:
        FileNotFoundError, ValueError: naming the file, what is wrong with it, and `fix`.
    """
    require_archive(path, fix, largest)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise dozens of kinds in torch
        raise ValueError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}): it holds other Python objects, which are never unpickled; {fix}."
        ) from None


def require_state_dict(loaded: Any, name: str | Path) -> None:
    """Raises ValueError, naming the file, if what it holds is no mapping from names to plain tensors."""
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
        for key, value in loaded.items()
    ):
        raise ValueError(f"{name} is no state dict: a mapping from names to tensors was expected.")


def require_archive(path: Path, fix: str = "download it again", largest: int = 1 << 46) -> None:
    """Raises, as `read_archive`, if a file is no zip as torch writes it, or any part of it is not what its CRC-32 says."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; {fix}.")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path} is empty (0 bytes), as some released files are; {fix}.")
    if size > largest:
        raise ValueError(f"{path} has {size:,} bytes, more than the {largest:,} that it can need; {fix}.")
    with open(path, "rb") as file:
        start = file.read(8)
    if not start.startswith(b"PK\x03\x04"):
        raise ValueError(
            f"{path} ({size:,} bytes) cannot be read as plain tensors: it is truncated, or no PyTorch checkpoint with checksums, which torch writes "
            f"since 1.6 (other Python objects are never unpickled); {fix}."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            fault = _fault(archive, size)
            if fault is None and (damaged := archive.testzip()) is not None:
                fault = f"{damaged!r:.60} in it does not have the checksum that it was written with"
    except Exception as error:  # of dozens of kinds: the directory is damaged
        fault = f"it may be truncated, or its directory is damaged: {str(error)[:80] or type(error).__name__}"
    if fault is not None:
        raise ValueError(f"{path} ({size:,} bytes) cannot be read, it is damaged ({fault}); {fix}.")


def _fault(archive: zipfile.ZipFile, size: int) -> str | None:
    """What torch.save would not have written."""
    members = archive.infolist()
    names = [each.filename for each in members]
    stem = names[0].partition("/")[0] if names else ""
    if f"{stem}/data.pkl" not in names:
        return "it has no data.pkl, or is truncated"
    if len(set(names)) < len(names):
        return f"{next(name for name in names if names.count(name) > 1)!r:.60} is in it twice"
    odd = next((name for name in names if not name.startswith(f"{stem}/") or ".." in name.split("/") or "\\" in name), None)
    if odd is not None:
        return f"it has a part {odd!r:.60}, which leads elsewhere"
    if any(each.compress_type != zipfile.ZIP_STORED or each.file_size != each.compress_size for each in members):
        return "it is compressed, which files of torch.save are not"
    if sum(each.file_size for each in members) > size or any(each.file_size < 0 for each in members):
        return "its parts are larger than the file"
    if archive.getinfo(f"{stem}/data.pkl").file_size > _LARGEST_PICKLE:
        return "its table of tensors is larger than any"
    places = sorted((each.header_offset, each.compress_size) for each in members)
    if places[0][0] != 0 or any(start + length > after for (start, length), (after, _) in itertools.pairwise(places)):
        return "its parts overlap"
    return None
