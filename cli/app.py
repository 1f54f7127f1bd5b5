"""The `csp` command. Wrong input ends in one sentence that names the fix, and exit code 2."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

# Threads of PyTorch that wait shall sleep: where other work wants the cores, those that spin make a training step several times slower
# (benchmarks/busy.py). Read by OpenMP when PyTorch is loaded, which nothing here has done yet.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ..hub import MissingExtra
from . import bridges, circuits, models, pages, programs, publishing, training, trials
from .given import without_options

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
tokenize_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train a tokenizer, or see how text is split.")
app.add_typer(tokenize_app, name="tokenize")
corpus_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Gather text to train on.")
app.add_typer(corpus_app, name="corpus")
bridge_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Read a dense model through a sparse one.")
app.add_typer(bridge_app, name="bridge")


def _say_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"sparse_circuits {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Weight-sparse transformers whose circuits can be read."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are no news; what fails in the end is said
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character gets its number, no traceback
            stream.reconfigure(errors="backslashreplace")


class _Terminated(BaseException):
    """SIGTERM: whatever is under way is left as by an error, so that scratch folders go."""


@contextmanager
def _ending_well() -> Iterator[None]:
    """While the block runs, SIGTERM ends it like an error. (Training that can be resumed takes the signal over and saves first.)"""
    if threading.current_thread() is not threading.main_thread():  # elsewhere signals cannot be received
        yield
        return

    def end(kind: int, frame: Any) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_options(said: str, function: Callable[..., Any]) -> str:
    """What functions say of their arguments, in the words of the command line."""
    if "force" in inspect.signature(function).parameters:
        return said.replace("force=True", "--force")
    return without_options(said)


def command(group: typer.Typer, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function as a command of a group: its errors end in one sentence."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                with _ending_well():
                    return function(*args, **kwargs)
            except (ValueError, OSError, FloatingPointError, MissingExtra) as error:
                # transformers' messages run over many lines; the first says what is wrong.
                said = next(iter(str(error).strip().splitlines()), type(error).__name__)
                typer.echo(f"csp: {_as_options(said, function)}", err=True)
                raise typer.Exit(2) from None
            except KeyboardInterrupt:
                typer.echo("csp: stopped.", err=True)
                raise typer.Exit(130) from None
            except _Terminated:
                typer.echo("csp: stopped; nothing half-done is left.", err=True)
                raise typer.Exit(128 + signal.SIGTERM) from None

        group.command(name)(run)
        return function

    return register


COMMANDS: dict[typer.Typer, dict[str, Callable[..., Any]]] = {
    app: {
        "generate": models.generate, "info": models.info, "weights": models.weigh, "activations": models.save_activations_of, "convert": models.convert, "train": training.train, "demo": training.demo,
        "tasks": circuits.show_tasks, "prune": circuits.prune_task, "verify": circuits.verify_circuit, "node": circuits.show_node,
        "explain": circuits.explain_nodes, "export": circuits.export_circuit, "view": pages.view_circuits, "label": pages.label_nodes, "atlas": pages.write_atlas_of,
        "publish": publishing.publish_folder, "plant": trials.plant_program, "attack": trials.attack_circuit, "prove": programs.prove_circuit, "circuits": programs.list_circuits,
    },
    corpus_app: {"build": training.build_corpus},
    tokenize_app: {"train": models.tokenize_train, "show": models.tokenize_show},
    bridge_app: {"train": bridges.bridge_train, "evaluate": bridges.bridge_evaluate, "steer": bridges.bridge_steer},
}  # fmt: skip
for _group, _commands in COMMANDS.items():
    for _name, _function in _commands.items():
        command(_group, _name)(_function)
