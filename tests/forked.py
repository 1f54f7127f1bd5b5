"""Commands and code in processes of their own that begin with the libraries imported.

Importing torch and transformers takes a process some six seconds of a core, and the tests start some hundred. A server that has done nothing but import forks one for
each instead. What is about imports themselves, or about the environment that they read, starts `python` anew.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# What nearly every command imports; none of it starts a thread or runs anything.
IMPORTED = [
    "sparse_circuits.cli.app",
    "sparse_circuits.modeling_csp",
    "sparse_circuits.tokenization_csp",
    "sparse_circuits.training.train",
    "sparse_circuits.viewer",
]

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(IMPORTED)


def run_forked(
    words: Sequence[str], *, cwd: str | Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run([sys.executable, *words], capture_output=True, text=True)` gives.

    Args:
        words: "-m", module, ...; "-c", code, ...; or a script's path, ...
        env: all variables; default: this process's.

    Raises:
        subprocess.TimeoutExpired: after so many seconds; the process is killed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        places = [str(Path(scratch) / name) for name in ("out", "err")]
        process = _server.Process(
            target=_child, args=(list(words), str(cwd or os.getcwd()), dict(os.environ if env is None else env), *places)
        )
        process.start()
        process.join(timeout)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(words), timeout)
        said = [Path(place).read_text(errors="replace") if Path(place).exists() else "" for place in places]
    return subprocess.CompletedProcess([sys.executable, *words], process.exitcode, *said)


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
