"""What is not on this machine: the Hub, and the packages that extras bring. Asked for in one way, refused in one sentence that names the fix."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_ADVICE = {
    400: "the Hub does not accept what was sent; read its message",
    401: "the Hub knows no such token; log in with `hf auth login`, or set HF_TOKEN",
    403: "this token may not write there; use one with write access to the repository's owner",
    404: "there is no such repository or revision, or the token may not see it",
    409: "the repository changed meanwhile; run the same command again, which sends only what is missing",
    413: "the Hub refuses files of this size",
    429: "too many requests; wait some minutes and run the same command again, which sends only what is missing",
}


@contextmanager
def hub_errors(repo_id: str, doing: str) -> Iterator[None]:
    """Turns what goes wrong on the way to the Hub into a ConnectionError (an OSError) in one sentence; doing: "published to", say."""
    try:
        yield
    except Exception as error:
        status = _status(error)
        if status is not None:
            advice = _ADVICE.get(
                status, "the Hub has a problem; try again later" if status >= 500 else "read the Hub's message"
            )
            raise ConnectionError(f"{repo_id} could not be {doing} (HTTP {status}): {advice}.") from error
        if _is_network(error):
            raise ConnectionError(
                f"{repo_id} could not be {doing}: no connection to the Hub ({_first_line(error)}); check the network and run it again."
            ) from error
        raise


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error, or of what caused it: uploads wrap theirs."""
    for each in _chain(error):
        status = getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _is_network(error: BaseException) -> bool:
    names = {name for each in _chain(error) for kind in type(each).__mro__ for name in (kind.__name__,)}
    return bool(
        names & {"TransportError", "ConnectionError", "TimeoutError", "OfflineModeIsEnabled", "LocalEntryNotFoundError"}
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]


def require_on_hub(repo_id: str) -> None:
    """Asks the Hub once whether it has a repository, so that what it has not, or a Hub that cannot be reached, is said at once and not after
    retries. Where the Hub cannot be reached but the repository is in the cache, this process goes on without the network.

    Raises:
        ConnectionError: in one sentence.
        FileNotFoundError: if the network is switched off (HF_HUB_OFFLINE) and the cache does not have it.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    cached = any(isinstance(try_to_load_from_cache(repo_id, name), str) for name in ("config.json", "bridges.json"))
    if constants.HF_HUB_OFFLINE:
        if not cached:
            raise FileNotFoundError(
                f"{repo_id} is no folder here, and not in the cache of the Hub, which is switched off (HF_HUB_OFFLINE); give a folder."
            )
        return
    try:
        with hub_errors(repo_id, "read from the Hub"):
            HfApi().model_info(repo_id, timeout=10)
    except ConnectionError as error:
        if not cached or _status(error) is not None:
            raise ConnectionError(f"{repo_id} is no folder here, and {str(error)[0].lower()}{str(error)[1:]}") from None
        constants.HF_HUB_OFFLINE = True


def upload(
    folder: Path, repo_id: str, *, kind: str = "model", private: bool | None = None, token: str | None = None, **how: Any
) -> str:
    """Creates the repository if it is not there, and uploads a folder in one commit; returns the commit's address.

    Args:
        kind: "model" or "space" (a static one). how: what `HfApi.upload_folder` takes besides.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with hub_errors(repo_id, "published to"):
        space = "static" if kind == "space" else None
        made = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk=space)
        done = api.upload_folder(repo_id=made.repo_id, repo_type=kind, folder_path=folder, **how)
    return str(done.commit_url)


# -------------------------------------------------------------------------------------------------------------- extras

_EXTRA_OF = {
    "datasets": "train",
    "datasketch": "train",
    "detect_secrets": "publish",
    "matplotlib": "train",
    "optuna": "search",
    "starlette": "serve",
    "transformer_lens": "lens",
    "uvicorn": "serve",
}


class MissingExtra(ImportError):
    """A package that an extra brings is not installed."""


def missing(module: str) -> str | None:
    """What to install for a package that is not there, as a command; None if it is."""
    if importlib.util.find_spec(module) is not None:
        return None
    return f'pip install "sparse-circuits[{_EXTRA_OF[module]}]"'


def require(module: str, what: str) -> None:
    """Raises MissingExtra, in one sentence, if a package is not installed; what: for which it is needed, such as "corpora of the Hub"."""
    command = missing(module)
    if command is not None:
        raise MissingExtra(f"{module} is missing, which {what} need: {command}")
