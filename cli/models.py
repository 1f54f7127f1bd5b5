"""The commands of `csp` that use, describe, tokenize for and convert models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .circuits import import_circuit
from .given import Corpus, Model, Tokens, given_text, require_model
from .publishing import publish_folder


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


def tokenize_train(
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")],
    corpus: Annotated[str, typer.Option(help="'stdlib', or a folder of .py files.")] = "stdlib",
    vocab_size: Annotated[int, typer.Option(min=257)] = 2048,
) -> None:
    """Train a byte-level BPE tokenizer on the training files of a corpus.

    Example: csp tokenize train --corpus stdlib --out runs/tokenizer
    """
    from ..corpora.mixture import check_source
    from ..corpora.sources import held_out, read_sources
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


Dense = Annotated[
    str | None,
    typer.Option(
        help="For a sparse_pretrain model with bridges: folder or Hub id of its dense model; a bridged pair is written."
    ),
]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="openai:NAME, or a folder or URL of the release; its viz_data.pt, or openai:MODEL/TASK/SWEEP/K; a folder or Hub id of sparse_pretrain, of a GPT-2-shaped model; a folder of nanoGPT."
        ),
    ],
    dest: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder with its files; a Hub id, but for OpenAI's checkpoints.")
    ] = None,
    dense: Dense = None,
    model: Annotated[str | None, typer.Option(help="For a circuit: the converted model that it belongs to.")] = None,
    task: Annotated[str | None, typer.Option(help="For a circuit: its name.")] = None,
    form: Annotated[
        str, typer.Option(help="For a circuit: what the task asks for, published, line_end or bare (see csp prune).")
    ] = "published",
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
    publish: Annotated[str | None, typer.Option(help="For a checkpoint: also publish it as user/name on the Hub.")] = None,
) -> None:
    """Turn a checkpoint of OpenAI's circuit_sparsity release, of sparse_pretrain, or a GPT-2-shaped one into a Hub folder, or a circuit of the release into a
    circuit folder.

    Example: csp convert openai:csp_yolo2 runs/csp_yolo2 --tokenizer downloads/tinypython_2k

    Example: csp convert downloads/viz_data.pt runs/quotes --model runs/csp_yolo2 --task single_double_quote
    """
    from ..convert import convert_checkpoint
    from ..hub import require
    from ..publishing.publish import require_repo_id

    if source.endswith("viz_data.pt") or (source.startswith("openai:") and source.count("/") == 3):
        if publish is not None:
            raise ValueError("--publish is for checkpoints; put the circuit under circuits/ of its model and publish that.")
        if model is None or task is None:
            raise ValueError("A circuit belongs to a model and a task; name them with --model (converted before) and --task.")
        if dense is not None or tokenizer is not None:
            raise ValueError("--dense and --tokenizer are for checkpoints; a circuit has its model's tokenizer.")
        typer.echo(f"Wrote {import_circuit(source, dest, model, task, corpus, tokens, form)}")
        return
    if publish is not None:
        require_repo_id(publish)  # before the work, as the scanner
        require("detect_secrets", "published folders")
    typer.echo(f"Wrote {convert_checkpoint(source, dest, tokenizer=tokenizer, dense=dense)}")
    if publish is not None:
        publish_folder(dest, publish)


def weigh(
    model: Model,
    out: Annotated[
        Path, typer.Option(help="CSV file: module, output, input, value, and what the loss rises by without the weight.")
    ],
    exact: Annotated[
        int, typer.Option(help="For how many, those with the largest effects, it is measured too, by a pass each.", min=0)
    ] = 0,
    corpus: Corpus = None,
    tokens: Tokens = 5_000,
) -> None:
    """Every nonzero weight of a model as a table, those first without which a text's loss changes most.

    Example: csp weights . --out runs/weights.csv --corpus idioms:200 --exact 10
    """
    from ..circuits.weights import as_csv, weight_table
    from ..files import require_writable, write_whole
    from .given import corpus_blocks, load, require_corpus

    require_corpus(corpus)
    require_writable(out.parent)
    loaded, tokenizer = load(model)
    rows = weight_table(loaded, corpus_blocks(model, corpus, tokenizer, tokens), exact)
    write_whole(out, as_csv(rows))
    typer.echo(f"{len(rows):,} weights; wrote {out}")


def save_activations_of(
    model: Model,
    site: Annotated[list[str], typer.Option(help="A site, such as 0.mlp.post_act; several times for several.")],
    out: Annotated[Path, typer.Option(help="Folder of parquet files; new or empty.")],
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    corpus: Corpus = None,
    tokens: Tokens = 50_000,
) -> None:
    """Write the activations of sites over a corpus as parquet, a row for each token, to train dictionaries or probes on.

    Example: csp activations . --site 0.mlp.post_act --site final_resid --out runs/activations --corpus idioms:200 --tokens 5000
    """
    from ..convert.activations import save_activations
    from ..files import require_fresh
    from ..hub import require
    from .given import corpus_blocks, load, require_corpus

    require_fresh(out)
    require_corpus(corpus)
    require("datasets", "activations as parquet")
    loaded, tokenizer = load(model, sparse=True)
    save_activations(loaded, tokenizer, corpus_blocks(model, corpus, tokenizer, tokens), site, out, dtype=dtype)
    typer.echo(f"Wrote {out}")
