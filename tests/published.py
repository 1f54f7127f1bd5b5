"""What tests of publishing share: the command as another process runs it, and ways to damage a folder."""

import functools
import os
import shutil

import pytest

from forked import IMPORTED, LIBRARIES, Server
from sparse_circuits.convert import publish

TASK = "single_double_quote"


TOKEN = "a-token-of-an-odd-kind"


def _environment(url):
    """Of processes that know only the stand-in."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    switches = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    return environment | {"HF_ENDPOINT": url} | switches


@functools.cache
def _clients(url, imported):
    return Server(*imported, env=_environment(url))


def client(hub, cache, *words, code=None, token=True):
    """A process that knows only the stand-in, and keeps what it loads in `cache`."""
    environment = _environment(hub.url) | {"HF_HOME": str(cache)} | ({"HF_TOKEN": hub.token} if token else {})
    command = ["-c", code] if code else ["-m", "sparse_circuits.cli", *map(str, words)]
    server = _clients(hub.url, LIBRARIES if code else IMPORTED)  # code imports this package itself, or does not
    return server.run(command, str(cache.parent), environment, 600)


def called_at(hub, monkeypatch):
    """This process's client talks to the stand-in, and does not sleep."""
    import huggingface_hub.constants as constants
    import huggingface_hub.utils._http as http

    url = "http://127.0.0.1:1" if hub is None else hub.url
    for name, value in [("ENDPOINT", url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)]:
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)


def damaged(folder, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def edit(name, change):
    def apply(copy):
        path = copy / name
        path.write_text(change(path.read_text()))

    return apply


def cut(name):
    def apply(copy):
        (copy / name).write_bytes((copy / name).read_bytes()[:1000])

    return apply


def text(name, content):
    return lambda copy: (copy / name).write_text(content)


def refused(folder, hub, scratch, monkeypatch, case, repo_id, token):
    """What publishing a folder that is damaged says; nothing was sent."""
    change, message = case
    called_at(hub, monkeypatch)
    with pytest.raises((ValueError, OSError), match=message) as error:
        publish(damaged(folder, scratch, change), repo_id, token=token)
    assert hub.requests == []
    return str(error.value)
