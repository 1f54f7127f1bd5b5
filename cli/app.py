"""The `csp` command. Wrong input ends in one sentence that names the fix, and exit code 2."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

# Threads of PyTorch that wait shall sleep: where other work wants the cores, those that spin make a training step several times slower
# (benchmarks/busy.py). Read by OpenMP when PyTorch is loaded, which nothing here has done yet.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ..hub import MissingExtra
from .bridges import bridge_evaluate, bridge_steer, bridge_train
from .circuits import export_circuit, import_circuit, prune_task, show_node, show_tasks, verify_circuit
from .given import Corpus, Tokens, given_text, require_model
from .pages import label_nodes, publish_folder, view_circuits

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
DEMO_TASK = "single_double_quote"
tokenize_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train a tokenizer, or see how text is split.")
app.add_typer(tokenize_app, name="tokenize")
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
    return re.sub(r",? or pass force=True| \(force=True [^)]*\)", "", said)


def command(group: typer.Typer, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
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


@command(app, "generate")
def generate(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id.")],
    prompt: Annotated[
        str, typer.Argument(help="Text to continue; '-' reads standard input. Escapes such as \\n are understood.")
    ],
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the code that a foreign repository carries.")] = False,
) -> None:
    """Complete a prompt, printing tokens as they come.

    Example: csp generate . "def add(a, b):\\n    return " --max-new-tokens 16
    """
    from transformers import TextStreamer, set_seed

    from ..checkpoints.models import load_model, load_tokenizer

    text = given_text(prompt)
    if not text:
        raise ValueError("The prompt is empty; give at least one character.")
    require_model(model)
    network = load_model(model, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(model, network, trust_remote_code=trust_remote_code)
    set_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature > 0 else {"do_sample": False}
    network.generate(
        **tokenizer(text, return_tensors="pt"),
        max_new_tokens=max_new_tokens,
        streamer=TextStreamer(tokenizer, skip_special_tokens=True),
        **sampling,
    )


@command(app, "info")
def info(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub id.")],
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the code that a foreign repository carries.")] = False,
) -> None:
    """Count nonzeros, bytes, degrees and dead neurons of a model.

    Example: csp info .
    """
    from json import dumps

    from ..checkpoints.models import load_model
    from ..training.info import info_text, model_info

    require_model(model)
    network = load_model(model, trust_remote_code=trust_remote_code, sparse=True)
    described = model_info(network)
    typer.echo(dumps(described.to_dict(), indent=2) if json else info_text(described))


@command(tokenize_app, "train")
def tokenize_train(
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    corpus: Annotated[str, typer.Option(help="'stdlib', or a folder of .py files.")] = "stdlib",
    vocab_size: Annotated[int, typer.Option(min=257)] = 2048,
) -> None:
    """Train a byte-level BPE tokenizer on the training files of a corpus.

    Example: csp tokenize train --corpus stdlib --out runs/tokenizer
    """
    from ..corpora.blocks import held_out, read_sources
    from ..corpora.mixture import check_source
    from ..files import fresh_folder
    from ..tokenization_csp import CSPTokenizer

    check_source(corpus)
    with fresh_folder(out) as folder:
        sources = read_sources(corpus)
        typer.echo(sources.summary())
        # Files that evaluations hold out stay unseen here too.
        texts = [text for name, text in sources.texts.items() if not held_out(name)]
        tokenizer = CSPTokenizer.train_on(texts, vocab_size)
        tokenizer.save_pretrained(folder)
        ratio = sum(map(len, texts)) / sum(len(ids) for ids in tokenizer(texts)["input_ids"])
    typer.echo(f"{len(tokenizer)} tokens, {ratio:.2f} characters per token; saved to {out}")


@command(tokenize_app, "show")
def tokenize_show(
    model: Annotated[str, typer.Argument(help="Folder with a tokenizer, or Hub id.")],
    text: Annotated[str, typer.Argument(help="Text to split; '-' reads standard input.")],
) -> None:
    """Print the ids and tokens of a text.

    Example: csp tokenize show . "print('hello')"
    """
    from ..checkpoints.models import load_tokenizer

    require_model(model)
    tokenizer = load_tokenizer(model)
    for token in tokenizer.encode(given_text(text)):
        typer.echo(f"{token:6d}  {tokenizer.decode([token])!r}")


@command(app, "convert")
def convert(
    source: Annotated[str, typer.Argument(help="Folder or URL with beeg_config.json and final_model.pt; or a viz_data.pt.")],
    dest: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with vocab.bpe and encoder.json, or tokenizer.json.")] = None,
    model: Annotated[str | None, typer.Option(help="For a circuit: the converted model that it belongs to.")] = None,
    task: Annotated[str | None, typer.Option(help="For a circuit: its name.")] = None,
    form: Annotated[
        str, typer.Option(help="For a circuit: what the task asks for, published, line_end or bare (see csp prune).")
    ] = "published",
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    publish: Annotated[str | None, typer.Option(help="For a checkpoint: also publish it as user/name on the Hub.")] = None,
) -> None:
    """Turn a checkpoint of OpenAI's circuit_sparsity release into a Hub folder, or a circuit of it into a circuit folder.

    Example: csp convert downloads/csp_yolo2 runs/csp_yolo2 --tokenizer downloads/tinypython_2k

    Example: csp convert downloads/viz_data.pt runs/quotes --model runs/csp_yolo2 --task single_double_quote
    """
    from ..convert import convert_openai_checkpoint
    from ..hub import require
    from ..publishing.publish import require_repo_id

    if source.endswith("viz_data.pt"):
        if publish is not None:
            raise ValueError("--publish is for checkpoints; put the circuit under circuits/ of its model and publish that.")
        if model is None or task is None:
            raise ValueError("A circuit belongs to a model and a task; name them with --model (converted before) and --task.")
        typer.echo(f"Wrote {import_circuit(source, dest, model, task, corpus, tokens, form)}")
        return
    if publish is not None:
        require_repo_id(publish)  # before the work, as the scanner
        require("detect_secrets", "published folders")
    typer.echo(f"Wrote {convert_openai_checkpoint(source, dest, tokenizer=tokenizer)}")
    if publish is not None:
        publish_folder(dest, publish)


@command(app, "train")
def train(
    out: Annotated[Path, typer.Option(help="Folder of the run; new or empty, unless --resume.")],
    preset: Annotated[str, typer.Option(help="tiny, small, paper-1x ... paper-16x, or dense- before one of them.")] = "tiny",
    recipe: Annotated[Path | None, typer.Option(help="YAML file with sections model, sparsity, arguments, ...")] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Source, or source=weight; several are mixed. stdlib, idioms, a folder or glob, hf:NAME."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="arguments.max_steps.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any setting, such as model.d_model=128.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last complete checkpoint in the folder.")] = False,
) -> None:
    """Train a weight-sparse model, or its dense twin, by a preset, a file and single settings, in this order.

    Example: csp train --preset tiny --corpus idioms --out runs/tiny
    """
    from ..training.recipes import corpus_setting, make_recipe
    from ..training.train import train as run

    given = [*(settings or []), *corpus_setting(corpus)]
    if steps is not None:
        given.append(f"arguments.max_steps={steps}")
    run(make_recipe(preset, recipe, given), out, resume=resume, say=typer.echo)


@command(app, "demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")] = Path("runs/demo"),
    steps: Annotated[int | None, typer.Option(min=10, help="Optimizer steps; fewer is faster and worse.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train a small weight-sparse model on the standard library, save it, load it again, complete code, find a circuit. Under ten minutes.

    Example: csp demo --out runs/demo
    """
    from ..circuits import CannotDo
    from ..training.demo import DemoRecipe, run_demo

    defaults = DemoRecipe()
    run_demo(out, DemoRecipe(steps=steps or defaults.steps, seed=seed), say=typer.echo)
    typer.echo(f"\nA circuit for {DEMO_TASK}:")
    try:
        prune_task(str(out), DEMO_TASK, out / "circuits" / DEMO_TASK, setting=["steps=200"])
    except CannotDo as error:
        typer.echo(_as_options(str(error), demo))
        if steps is None:  # trained in full, it closes strings
            raise


command(app, "tasks")(show_tasks)
command(app, "prune")(prune_task)
command(app, "verify")(verify_circuit)
command(app, "node")(show_node)
command(app, "export")(export_circuit)
command(app, "view")(view_circuits)
command(app, "label")(label_nodes)
command(app, "publish")(publish_folder)
command(bridge_app, "train")(bridge_train)
command(bridge_app, "evaluate")(bridge_evaluate)
command(bridge_app, "steer")(bridge_steer)


if __name__ == "__main__":
    app()
