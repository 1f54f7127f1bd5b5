"""The doors through which files of others come in: how a good one is made, how it is opened and used, and what it is then.

A door's `make` fills an empty folder; `open` goes in as a user does, uses what it got, and returns what decides the result, to be compared with
that of the good folder. Whatever is damaged, it may raise ValueError or OSError in one sentence, or return the same.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "circuits")]

from foreign import make_bridged_sparse_pretrain, make_gpt2, make_nanogpt, make_sparse_pretrain  # noqa: E402

from sparse_circuits import Circuit, CSPForCausalLM, CSPTokenizer  # noqa: E402
from sparse_circuits.circuits.identity import tokenizer_sha256, weights_sha256  # noqa: E402
from tiny import ROOT, tiny_ids, tiny_model  # noqa: E402

REFERENCE = ROOT / "tests" / "reference" / "checkpoints"
TEXT = "def add(first, second):\n    return first + second\n\n\nfor name in ['a', \"b\"]:\n    print(name, 12345)\n"
SMALL = {"n_layer": 1, "n_head": 2, "d_head": 4, "d_model": 8, "d_mlp": 16, "block_size": 64}


class Bare(Exception):
    """The command line ended in another way than with exit code 2 and one line."""


@dataclass(frozen=True)
class Door:
    """A way in.

    Args:
        files: path in the folder (or a pattern) -> its format, as in `mutations.BY_FORMAT`.
        tells: files of which every changed byte could be told: by a checksum, theirs or another file's.
        weight: how often it is tried; slow doors less.
    """

    name: str
    make: Callable[[Path], None]
    open: Callable[[Path], Any]
    files: dict[str, str]
    tells: tuple[str, ...] = ()
    weight: float = 1.0


def csp(*words: Any) -> str:
    """What the command prints; ValueError for a clean refusal."""
    from typer.testing import CliRunner

    from sparse_circuits.cli.app import app

    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exit_code == 0:
        return done.stdout
    said = [line for line in done.stderr.splitlines() if line.strip() and "Warning" not in line]
    if done.exit_code == 2 and len(said) == 1 and said[0].startswith("csp: "):
        raise ValueError(said[0])
    raise Bare(f"exit code {done.exit_code}, {done.exception!r:.300}, {len(said)} lines: {' / '.join(said)[:300]}")


def digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(
            part.detach().float().numpy().tobytes()
            if isinstance(part, torch.Tensor)
            else repr(part).encode("utf-8", "surrogatepass")
        )
    return found.hexdigest()


# --------------------------------------------------------------------------------------------------------------- models


def thin(seed: int = 0, **features: Any) -> Any:
    model = tiny_model(seed, **{**SMALL, **features})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(3)) < 0.1)
    return model


def what_a_model_is(model: Any) -> str:
    with torch.no_grad():
        logits = model(tiny_ids(2, 9, vocab=min(97, model.config.vocab_size))).logits
    return digest(weights_sha256(model), logits, model.config.block_size, model.config.eos_token_id)


def make_model(sparse: bool, shards: str = "50GB", **features: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        model = thin(**features)
        model.generation_config.update(max_new_tokens=4, do_sample=False, eos_token_id=3, pad_token_id=0)
        model.save_pretrained(folder, sparse=sparse, max_shard_size=shards)
        (folder / "generation_config.json").write_text(
            json.dumps({"max_new_tokens": 4, "do_sample": False, "eos_token_id": 3, "pad_token_id": 0, "top_p": 0.9})
        )

    return make


def open_model(**options: Any) -> Callable[[Path], str]:
    return lambda folder: what_a_model_is(CSPForCausalLM.from_pretrained(folder, **options))


def generate(folder: Path) -> str:
    model = CSPForCausalLM.from_pretrained(folder)
    return digest(model.generate(tiny_ids(1, 5)).tolist(), what_a_model_is(model))


def with_tokenizer(folder: Path) -> None:
    tokenizer().save_pretrained(folder)
    make_model(True, vocab_size=len(tokenizer()), sink=True, enable_bigram_table=True)(folder)


_KEPT: dict[str, Any] = {}


def kept(make: Callable[[], Any]) -> Any:
    if make.__name__ not in _KEPT:
        _KEPT[make.__name__] = make()
    return _KEPT[make.__name__]


def _trained() -> CSPTokenizer:
    return CSPTokenizer.train_on([TEXT * 3, "class A:\n    def second(self):\n        return self.first\n" * 3], 290)


def tokenizer() -> CSPTokenizer:
    return kept(_trained)


def what_a_tokenizer_is(found: Any) -> str:
    ids = found(TEXT)["input_ids"]
    return digest(tokenizer_sha256(found), ids, found.decode(ids), found.eos_token_id, found.pad_token_id)


def open_tokenizer(folder: Path) -> str:
    from sparse_circuits.checkpoints.models import load_tokenizer

    return what_a_tokenizer_is(load_tokenizer(folder))


def make_openai_tokenizer(folder: Path) -> None:
    model = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "encoder.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- conversion


def make_release(folder: Path) -> None:
    for name in ("beeg_config.json", "final_model.pt"):
        shutil.copy(REFERENCE / "attention_sink" / name, folder / name)


def convert(folder: Path) -> str:
    from sparse_circuits.convert import convert_checkpoint

    try:
        return what_a_model_is(CSPForCausalLM.from_pretrained(convert_checkpoint(folder, folder.parent / "converted")))
    finally:
        shutil.rmtree(folder.parent / "converted", ignore_errors=True)


def convert_pair(folder: Path) -> str:
    from sparse_circuits.convert import convert_checkpoint

    given = {"tokenizer": folder / "words", "dense": folder / "dense"}
    try:
        return open_pair(convert_checkpoint(folder, folder.parent / "converted", **given))
    finally:
        shutil.rmtree(folder.parent / "converted", ignore_errors=True)


def convert_by_command(folder: Path) -> str:
    try:
        csp("convert", folder, folder.parent / "converted")
        return what_a_model_is(CSPForCausalLM.from_pretrained(folder.parent / "converted"))
    finally:
        shutil.rmtree(folder.parent / "converted", ignore_errors=True)


class Numbers:
    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(97)}


def _means() -> Any:
    from sparse_circuits.circuits import mean_activations

    return thin(), mean_activations(thin(), tiny_ids(8, 16))


def make_viz(folder: Path) -> None:
    nodes = {name: torch.arange(0, site.width, 3) for name, site in thin().node_sites().items()}
    config = {"n_layer": 1, "d_model": 8, "n_head": 2, "d_head": 4, "vocab_size": 97}
    importances = {"loss": torch.tensor(0.3), "interv_loss": 1.2, "beeg_model_config": config}
    torch.save(
        {"circuit_data": nodes, "importances": importances, "samples": {}, "prune_config": {"k_coef": 1e-4}},
        folder / "viz_data.pt",
    )


def convert_circuit(folder: Path) -> str:
    from sparse_circuits.circuits.identity import circuit_sha256
    from sparse_circuits.convert import convert_openai_circuit

    model, means = kept(_means)
    found = convert_openai_circuit(folder / "viz_data.pt", model, Numbers(), means, task="quotes")
    again = Circuit.from_pretrained(found.save_pretrained(folder / "out"))
    return digest(circuit_sha256(again), again.metrics)


# ------------------------------------------------------------------------------------------------------------- circuits


def _circuit() -> Any:
    from sparse_circuits.circuits import mean_activations, verify
    from toy import ToyTokenizer, toy_blocks, toy_circuit, toy_model, toy_task

    model, blocks = toy_model(), toy_blocks()
    from sparse_circuits.circuits.edges import edges_in

    found = toy_circuit(model, mean_activations(model, blocks))
    found.edges = edges_in(model, found.nodes)
    found.labels, found.groups = {"0.mlp.post_act:0": "a quote is open"}, {"final_resid:3": "the end"}
    report = verify(found, model, ToyTokenizer(), toy_task(), blocks=blocks, pairs=8, controls=False, seeds=1)
    return model, found, report


def make_circuit(folder: Path) -> None:
    _, found, report = kept(_circuit)
    found.save_pretrained(folder)
    report.save(folder)


def open_circuit(folder: Path) -> str:
    from sparse_circuits.circuits.identity import circuit_sha256
    from toy import toy_blocks

    model = kept(_circuit)[0]
    found = Circuit.from_pretrained(folder)
    with torch.no_grad(), found.applied_to(model):
        logits = model(toy_blocks()[:1]).logits
    return digest(circuit_sha256(found), logits)


def export(folder: Path) -> str:
    csp("export", folder, "--out", folder / "circuit.graphml")
    return digest((folder / "circuit.graphml").read_bytes())


def open_report(folder: Path) -> str:
    from sparse_circuits.circuits import Verification

    report = Verification.of(folder, Circuit.from_pretrained(folder))
    return digest("none" if report is None else (str(report), report.headline))


def make_labels(folder: Path) -> None:
    _, found, _ = kept(_circuit)
    found.save_pretrained(folder / "circuit")
    labels = {"0.mlp.post_act:1": "which quote", "final_resid:2": "é"}
    document = {
        "format": "sparse_circuits.labels",
        "version": 1,
        "task": found.task,
        "weights": found.model["weights"],
        "labels": labels,
        "groups": {},
    }
    (folder / "labels.json").write_text(json.dumps(document))


def label(folder: Path) -> str:
    csp("label", folder / "circuit", folder / "labels.json")
    found = Circuit.from_pretrained(folder / "circuit")
    return digest(found.labels, found.groups)


# ------------------------------------------------------------------------------------------------------ tasks, training


ROWS = [{"prompt_a": f"x{i} = 'abc", "answer_a": "'", "prompt_b": f'x{i} = "abc', "answer_b": '"'} for i in range(12)]


def make_tasks(folder: Path) -> None:
    (folder / "quotes.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    cells = [",".join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in ROWS]
    (folder / "quotes.csv").write_text("\n".join([",".join(ROWS[0]), *cells]) + "\n")


def open_task(name: str) -> Callable[[Path], str]:
    def go(folder: Path) -> str:
        from sparse_circuits.circuits import load_task

        pairs = load_task(folder / name, tokenizer()).pairs(3, "train", fewer=True)
        return digest(pairs.input_ids.tolist(), pairs.answers.tolist(), pairs.texts)

    return go


RECIPE = {
    "model": {"n_layer": 1, "d_model": 16, "d_mlp": 16, "n_head": 2, "d_head": 8}, "sparsity": {"density": 0.25},
    "arguments": {"max_steps": 4, "save_steps": 2, "logging_steps": 2, "eval_steps": 4, "per_device_train_batch_size": 2, "disable_tqdm": True},
    "corpora": {"idioms:100": 1.0}, "block": 16, "eval_blocks": 4,
}  # fmt: skip


def make_recipe_file(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))


def open_recipe(folder: Path) -> str:
    from sparse_circuits.training.recipes import make_recipe

    return digest(make_recipe("tiny", folder / "recipe.yaml").to_dict())


def make_settings(folder: Path) -> None:
    (folder / "settings.txt").write_text(
        "model.d_model=32\nsparsity.density=0.5\narguments.learning_rate=1e-3\ncorpora={'idioms': 1.0}\n"
    )


def open_settings(folder: Path) -> str:
    """What a user types after --set; any bytes that a shell can hand on."""
    from sparse_circuits.training.recipes import make_recipe

    path = folder / "settings.txt"
    text = path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""
    return digest(make_recipe("tiny", None, [line for line in text.split("\n") if line]).to_dict())


def make_blocks(folder: Path) -> None:
    from sparse_circuits.checkpoints.tensors import tensors_with_sha256

    blocks = {"train": tiny_ids(6, 16).int(), "held_out": tiny_ids(2, 16).int()}
    (folder / "blocks.safetensors").write_bytes(tensors_with_sha256(blocks))


def open_blocks(folder: Path) -> str:
    from sparse_circuits.corpora.blocks import saved_blocks

    found = saved_blocks(folder)
    return "none" if found is None else digest(found)


def _run() -> Path:
    """A run that ended after its second checkpoint, once for all tries."""
    import tempfile

    from sparse_circuits.training.recipes import make_recipe
    from sparse_circuits.training.train import train

    folder = Path(tempfile.mkdtemp(prefix="csp-fuzz-run-"))
    _KEPT["scratch"] = folder
    train(make_recipe("tiny", RECIPE), folder / "run", say=lambda text: None)
    for path in list((folder / "run").iterdir()):  # as if it had been killed after checkpoint-4
        if path.name not in ("recipe.yaml", "blocks.safetensors", "checkpoint-2", "checkpoint-4"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder / "run"


def make_run(folder: Path) -> None:
    shutil.copytree(kept(_run), folder, dirs_exist_ok=True)
    (folder.parent / "run-recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))


def resume(folder: Path) -> str:
    csp("train", "--preset", "tiny", "--recipe", folder.parent / "run-recipe.yaml", "--out", folder, "--resume")
    return what_a_model_is(CSPForCausalLM.from_pretrained(folder))


# -------------------------------------------------------------------------------------------------------------- bridges


def make_pair(folder: Path, gpt2: bool = False) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from sparse_circuits.bridges import BridgedPair

    torch.manual_seed(0)
    own = {"vocab_size": len(tokenizer())}
    dense, sparse = tiny_model(1, **{**SMALL, **own, "d_model": 12}), thin(2, **own)
    if gpt2:
        dense = GPT2LMHeadModel(GPT2Config(**own, n_positions=64, n_embd=8, n_layer=1, n_head=2)).eval()
    BridgedPair(dense, sparse, tokenizer()).save_pretrained(folder / "pair")
    for path in (folder / "pair").iterdir():
        path.rename(folder / path.name)
    (folder / "pair").rmdir()


def open_pair(folder: Path) -> str:
    from sparse_circuits.bridges import BridgedPair

    pair = BridgedPair.from_pretrained(folder)
    ids = tiny_ids(1, 8)
    with torch.no_grad():
        logits = [side.model(ids).logits for side in (pair.dense, pair.sparse)]
        moved = pair.bridges.encode(0, torch.ones(1, pair.dense.width))
    return digest(*logits, moved, *pair.bridges.state_dict().values(), pair.bridges.keep)


def page(folder: Path) -> str:
    """As `csp view` shows a circuit with its report."""
    from sparse_circuits.circuits import Verification
    from sparse_circuits.viewer import Subject, write_page
    from toy import ToyTokenizer, toy_blocks, toy_task

    found = Circuit.from_pretrained(folder)
    write_page(
        [Subject(found, kept(_circuit)[0], ToyTokenizer(), toy_task(), toy_blocks(), Verification.of(folder, found), 1)],
        folder / "page.html",
    )
    return digest((folder / "page.html").read_bytes())


def make_tokenizer(folder: Path) -> None:
    """With the files that older versions of transformers wrote."""
    tokenizer().save_pretrained(folder)
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": len(tokenizer()) - 1}))


_MODEL = {"config.json": "json", "generation_config.json": "json"}
_TOKENIZER = {"tokenizer.json": "json", "tokenizer_config.json": "json"}

DOORS = [
    Door("dense weights", make_model(False), open_model(), {"model.safetensors": "tensors"}, weight=2),
    Door("dense shards", make_model(False, "2KB"), open_model(), {"model.safetensors.index.json": "json", "model-*.safetensors": "tensors"}),
    Door("sparse weights", make_model(True), open_model(), {"sparse_weights.safetensors": "tensors"}, ("*",), 2),
    Door("sparse weights, run sparse", make_model(True), open_model(sparse=True), {"sparse_weights.safetensors": "tensors"}, ("*",), 2),
    Door("sparse shards", make_model(True, "1KB"), open_model(sparse=True),
         {"sparse_weights.safetensors.index.json": "json", "sparse_weights-*.safetensors": "tensors"}, ("sparse_weights-*.safetensors",)),
    Door("dense weights, run sparse", make_model(False), open_model(sparse=True), {"model.safetensors": "tensors"}, weight=0.5),
    Door("config", make_model(False, sink=True), open_model(), {"config.json": "json"}, weight=2),
    Door("config, sparse", make_model(True, position_embedding_type="added"), open_model(sparse=True), {"config.json": "json"}, weight=2),
    Door("generation config", make_model(True), generate, {"generation_config.json": "json"}),
    Door("tokenizer", make_tokenizer, open_tokenizer,
         {**_TOKENIZER, "special_tokens_map.json": "json", "added_tokens.json": "json"}, weight=2),
    Door("CSPTokenizer", lambda folder: tokenizer().save_pretrained(folder), lambda f: what_a_tokenizer_is(CSPTokenizer.from_folder(f)),
         {"tokenizer.json": "json"}),
    Door("OpenAI's tokenizer", make_openai_tokenizer, lambda f: what_a_tokenizer_is(CSPTokenizer.from_folder(f)),
         {"vocab.bpe": "text", "encoder.json": "json"}),
    Door("convert a checkpoint", make_release, convert, {"beeg_config.json": "json", "final_model.pt": "zip"}, ("final_model.pt",)),
    Door("convert a GPT-2", make_gpt2, convert, {"config.json": "json", "pytorch_model.bin": "zip"}, ("pytorch_model.bin",)),
    Door("convert a nanoGPT", make_nanogpt, convert, {"ckpt.pt": "zip"}, ("ckpt.pt",)),
    Door("convert a sparse_pretrain", make_sparse_pretrain, convert, {"config.json": "json", "pytorch_model.bin": "zip"}, ("pytorch_model.bin",)),
    Door("convert a bridged sparse_pretrain", make_bridged_sparse_pretrain, convert_pair, {"config.json": "json", "training_config.yaml": "yaml",
         "sparse_model.bin": "zip", "bridges.bin": "zip", "words/tokenizer.json": "json"}, ("bridges.bin", "sparse_model.bin"), 0.5),
    Door("convert a circuit", make_viz, convert_circuit, {"viz_data.pt": "zip"}, ("viz_data.pt",)),
    Door("circuit", make_circuit, open_circuit, {"circuit.json": "json", "circuit.safetensors": "tensors"}, ("circuit.safetensors",), 2),
    Door("report", make_circuit, open_report, {"report.json": "json"}),
    Door("labels", make_labels, label, {"labels.json": "json"}),
    Door("task, JSON lines", make_tasks, open_task("quotes.jsonl"), {"quotes.jsonl": "lines"}),
    Door("task, CSV", make_tasks, open_task("quotes.csv"), {"quotes.csv": "csv"}),
    Door("recipe", make_recipe_file, open_recipe, {"recipe.yaml": "yaml"}),
    Door("settings", make_settings, open_settings, {"settings.txt": "text"}),
    Door("blocks", make_blocks, open_blocks, {"blocks.safetensors": "tensors"}, ("*",)),
    Door("resume", make_run, resume, {"recipe.yaml": "yaml", "blocks.safetensors": "tensors", "checkpoint-4/*.json": "json",
         "checkpoint-4/model.safetensors": "tensors", "checkpoint-4/*.pt": "zip", "checkpoint-4/*.pth": "zip", "checkpoint-4/*.bin": "zip"},
         ("checkpoint-4/*", "blocks.safetensors"), 0.5),
    Door("bridges", make_pair, open_pair, {"bridges.json": "json", "bridges.safetensors": "tensors"}, ("bridges.safetensors",), 0.7),
    Door("models of a pair", make_pair, open_pair, {f"{part}/{name}": kind for part in ("dense", "sparse") for name, kind in
         {**_MODEL, **_TOKENIZER, "*.safetensors": "tensors"}.items()}, ("sparse/*.safetensors",), 0.5),
    Door("GPT-2 in a pair", lambda folder: make_pair(folder, gpt2=True), open_pair,
         {"dense/config.json": "json", "dense/generation_config.json": "json", "dense/model.safetensors": "tensors"}, weight=0.5),
    Door("page", make_circuit, page, {"circuit.json": "json", "circuit.safetensors": "tensors", "report.json": "json"}, ("circuit.safetensors",), 0.5),
    Door("csp generate", with_tokenizer, lambda f: csp("generate", f, "def add", "--max-new-tokens", 4),
         {**_MODEL, **_TOKENIZER, "sparse_weights.safetensors": "tensors"}, ("sparse_weights.safetensors",)),
    Door("csp info", with_tokenizer, lambda f: csp("info", f, "--json"), {**_MODEL, "sparse_weights.safetensors": "tensors"},
         ("sparse_weights.safetensors",)),
    Door("csp tokenize show", with_tokenizer, lambda f: csp("tokenize", "show", f, TEXT), {**_TOKENIZER, "config.json": "json"}),
    Door("csp convert", make_release, convert_by_command, {"beeg_config.json": "json", "final_model.pt": "zip"}, ("final_model.pt",), 0.5),
    Door("csp export", make_circuit, export, {"circuit.json": "json", "circuit.safetensors": "tensors"}, ("circuit.safetensors",), 0.5),
]  # fmt: skip
