"""Commands and code in processes of their own that begin with the libraries imported.

Importing torch and transformers takes a process some six seconds of a core, and the tests start some hundred. A server that has done nothing but import forks one for
each instead. What is about imports themselves, or about the environment that they read, starts `python` anew.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

# What nearly every command imports; none of it starts a thread or runs anything.
IMPORTED = (
    "sparse_circuits.cli.app",
    "sparse_circuits.modeling_csp",
    "sparse_circuits.tokenization_csp",
    "sparse_circuits.training.train",
    "sparse_circuits.viewer",
)
LIBRARIES = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.modeling_utils",
    "transformers.generation",
    "transformers.processing_utils",
)  # where this package is not to be imported, or only by what runs

_sleep = time.sleep  # tests of clients that wait replace it

multiprocessing.get_context("forkserver").set_forkserver_preload(
    list(IMPORTED)
)  # for those that are started by multiprocessing


class Server:
    """A process that has imported what it is told, and forks for each run.

    The Hub's client and transformers read where they keep things when they are imported: these are links, which each run has led to its own places.

    Args:
        imported: modules. flags: of Python. env: all variables at import; default: this process's.
    """

    def __init__(self, *imported: str, flags: Sequence[str] = (), env: Mapping[str, str] | None = None):
        self._place = tempfile.TemporaryDirectory()
        self._links = {name: Path(self._place.name) / name for name in ("HF_HOME", "HF_MODULES_CACHE")}
        variables = {**(os.environ if env is None else env), **{name: str(link) for name, link in self._links.items()}}
        self._lock = threading.Lock()
        self._process = subprocess.Popen([sys.executable, *flags, __file__, *imported], stdin=subprocess.PIPE, text=True, env=variables)  # fmt: skip
        atexit.register(self._process.kill)

    def run(self, words: Sequence[str], cwd: str, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        home = Path(env.get("HF_HOME", Path("~/.cache/huggingface").expanduser()))
        modules = Path(env.get("HF_MODULES_CACHE", home / "modules"))
        scratch = Path(tempfile.mkdtemp(dir=self._place.name))
        out, err, end = (scratch / name for name in ("out", "err", "end"))
        assert self._process.stdin is not None
        said = {
            "words": list(words),
            "cwd": cwd,
            "env": dict(env),
            "out": str(out),
            "err": str(err),
            "end": str(end),
            "timeout": timeout,
        }
        with self._lock:  # several threads may run something at the same time, with one place for what they load
            for link, place in zip(self._links.values(), (home, modules)):
                link.unlink(missing_ok=True)
                link.symlink_to(place)
                place.mkdir(parents=True, exist_ok=True)
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()
        while not end.exists():
            if self._process.poll() is not None:
                raise RuntimeError("The server that forks is gone.")
            _sleep(0.02)
        answer = end.read_text()
        text = [place.read_text(errors="replace") if place.exists() else "" for place in (out, err)]
        shutil.rmtree(scratch)
        if answer == "late":
            raise subprocess.TimeoutExpired(list(words), timeout)
        return subprocess.CompletedProcess([sys.executable, *words], int(answer), *text)


@functools.cache
def _server(imported: tuple[str, ...]) -> Server:
    return Server(*imported)


def run_forked(
    words: Sequence[str],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
    imported: tuple[str, ...] = IMPORTED,
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run([sys.executable, *words], capture_output=True, text=True)` gives.

    Args:
        words: "-m", module, ...; "-c", code, ...; or a script's path, ...
        env: all variables; default: this process's. Those that libraries read when they are imported are this process's at the first run, but for where the Hub's
            client and transformers keep things.

    Raises:
        subprocess.TimeoutExpired: after so many seconds; the process is killed.
    """
    return _server(imported).run(words, str(cwd or os.getcwd()), os.environ if env is None else env, timeout)


def in_forked_process(code: str, *words: str) -> str:
    """What `checkpoints.models.in_new_process` gives, in a process that begins with the libraries imported."""
    with tempfile.TemporaryDirectory() as empty:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": empty}
        done = run_forked(["-c", code, *words], cwd=empty, env=env, imported=LIBRARIES)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no reason given"])[-1][:300])
    return done.stdout


# ------------------------------------------------------------------------------------------------------- in the server


def _serve(imported: Sequence[str]) -> None:
    for name in imported:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who waits for a run is forgotten when it has written how that ended
    for line in sys.stdin:
        asked = json.loads(line)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child = os.fork()
            if child == 0:
                _end(asked)
            end = Path(asked["end"])
            end.with_suffix(".part").write_text(_waited(child, asked["timeout"]))
            end.with_suffix(".part").rename(end)
            os._exit(0)


def _waited(child: int, timeout: float) -> str:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "late"


def _end(asked: dict[str, Any]) -> NoReturn:
    code: Any = 1
    try:
        _child(asked["words"], asked["cwd"], asked["env"], asked["out"], asked["err"])
        code = 0
    except SystemExit as exit_:
        code = exit_.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr, flush=True)
            code = 1
    except BaseException:  # as Python's own end
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code or 0)


def _child(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for descriptor, place in ((1, out), (2, err)):
        file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, open(descriptor, "w", encoding="utf-8", buffering=1, closefd=False))  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # not the server's, from which it takes what to run
    sys.stdin = open(os.devnull)  # noqa: SIM115
    kind, rest = (words[0], words[1:]) if words[0] in ("-m", "-c") else ("", words)
    sys.path.insert(0, str(Path(rest[0]).resolve().parent) if kind == "" else "")
    sys.argv = [rest[0] if kind != "-c" else "-c", *rest[1:]]
    try:
        if kind == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(rest[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    del sys.path[0]  # this folder, which is on nobody's path
    _serve(sys.argv[1:])
