"""Models whose circuits are known because we wrote them: what a method that finds circuits can be tried on.

    known = plant("quote_closing", "runs/known")          # a random weight-sparse host; or host=a model that was trained
    known.score(prune(known.model, known.tokenizer, known.task, known.means))   # recall and precision of nodes and edges

The folder is a model like any other (`from_pretrained`, `csp prune`, `csp verify`), with `task.jsonl` and the truth under `circuits/known*`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from ..checkpoints.models import load_tokenizer, require_fit
from ..configuration_csp import CSPConfig
from ..corpora.blocks import BLOCKS, saved_blocks
from ..files import fresh_folder, read_object, write_whole
from ..wiring_csp import NODE_LOCATIONS
from .circuit import Circuit
from .edges import Edges, places
from .export import counted_edges
from .identity import identify, refuse_other_model, tokenizer_sha256, versions, weights_sha256
from .masks import Nodes, PruneConfig
from .means import Means, mean_activations
from .planting import Ground
from .python_tasks import SPLITS_VERSION
from .scoring import score
from .tasks import Task, load_task, padded

PAIRS, TEXTS, SAMPLES = 1200, 512, 2048
HOSTS = {  # of random weights: layers, heads, channels, neurons, density
    "small": (2, 4, 64, 128, 1 / 8),
    "medium": (4, 16, 256, 1024, 1 / 32),
    "large": (8, 32, 512, 2048, 1 / 64),
}
_FILE, _TASK, _LABEL = "known.json", "task.jsonl", "known"
_NAMED = re.compile(_LABEL + r"(_\d+)?")

Words = Mapping[str, int]  # name of a word in a program -> its token
Prompt = list[str]  # names of words; "." is any filler


class Program(NamedTuple):
    """What is planted.

    Args:
        words: that mean something to it. answers: to the first and to the second prompt of a pair. layers, d_head: that its host must have at least.
        prompts: a pair, by a random generator. write: into the ground, given which of its prompts are second ones, bool [n].
    """

    words: tuple[str, ...]
    answers: tuple[str, str]
    prompts: Callable[[Random], tuple[Prompt, Prompt]]
    write: Callable[[Ground, Words, torch.Tensor], None]
    layers: int = 1
    d_head: int = 2


# ------------------------------------------------------------------------------------------------------------- programs


def _quoted(random: Random) -> tuple[Prompt, Prompt]:
    before, inside = random.randint(0, 4), random.randint(9, 14)
    return tuple(["."] * before + [quote] + ["."] * inside + ["close"] for quote in ("'", '"'))  # type: ignore[return-value]


def _quote_circuit(ground: Ground, words: Words, layer: int) -> None:
    """A head looks from `close` for a quote and copies which it is. Four edges."""
    kind, present, asks, out = (ground.channel() for _ in range(4))
    ground.embed(kind, {words["'"]: 1, words['"']: -1})
    ground.embed(present, {words["'"]: 1, words['"']: 1})
    ground.embed(asks, {words["close"]: 1})
    head = ground.head(layer)
    ground.look(layer, head, 0, asks, present, sharp=8.0)
    ground.read(layer, "v", head, 1, kind)
    ground.write(layer, head, 1, out)
    ground.decide(out, words["close '"], words['close "'])


def _write_quotes(ground: Ground, words: Words, later: torch.Tensor) -> None:
    with ground.a_copy():
        _quote_circuit(ground, words, 0)


def _write_two_copies(ground: Ground, words: Words, later: torch.Tensor) -> None:
    """The same twice, in the first and in the last layer, with nothing in common: each does it alone."""
    for layer in (0, ground.config.n_layer - 1):
        with ground.a_copy():
            _quote_circuit(ground, words, layer)


def _write_with_distractors(ground: Ground, words: Words, later: torch.Tensor) -> None:
    """The circuit, and what looks like it: a head that copies the quote to two channels whose effects on the answer cancel, the one that would help by way of a neuron;
    and one whose copy speaks for two tokens that are no answers."""
    with ground.a_copy():
        _quote_circuit(ground, words, 0)
    with ground.a_decoy():
        for tokens in (("close '", 'close "'), ("a", "b")):
            kind, asks, copy_, relayed = (ground.channel() for _ in range(4))
            head, neuron = ground.head(0), ground.neuron(0)
            ground.embed(kind, {words["'"]: 1, words['"']: -1})
            ground.embed(asks, {words["close"]: 1})
            ground.read(0, "v", head, 0, kind)
            ground.write(0, head, 0, copy_)
            ground.threshold(0, neuron, copy_, relayed, ~later, asks)
            ground.decide(relayed, words[tokens[0]], words[tokens[1]], size=1.0)
            ground.decide(copy_, words[tokens[1]], words[tokens[0]], size=1.0)


def _bracketed(random: Random) -> tuple[Prompt, Prompt]:
    fillers = random.randint(9, 11)
    places = sorted(random.sample(range(fillers), 2))
    prompts = []
    for depth in (1, 2):
        words = ["."] * fillers
        for place in places[:depth]:
            words[place] = "["
        prompts.append([*words, "close"])
    return prompts[0], prompts[1]


def _write_brackets(ground: Ground, words: Words, later: torch.Tensor) -> None:
    """Opened brackets are averaged over the prompt, and a neuron holds the average against what `close` itself writes."""
    with ground.a_copy():
        opened, asks, average, deep = (ground.channel() for _ in range(4))
        ground.embed(opened, {words["["]: 1})
        ground.embed(asks, {words["close"]: 1})
        head, neuron = ground.head(0), ground.neuron(0)
        ground.read(0, "v", head, 0, opened)
        ground.write(0, head, 0, average)
        ground.threshold(0, neuron, average, deep, later, asks)
        ground.decide(deep, words["]]"], words["]"])


def _bound(random: Random) -> tuple[Prompt, Prompt]:
    names = random.sample(["x", "y"], 2)
    asked = random.choice(names)
    gaps = [random.randint(a, b) for a, b in ((9, 12), (0, 2), (1, 3), (0, 2), (2, 4))]
    prompts = []
    for values in (("set", "str"), ("str", "set")):
        words = ["."] * gaps[0] + [names[0]] + ["."] * gaps[1] + [values[0]] + ["."] * gaps[2] + [names[1]]
        prompts.append([*words, *["."] * gaps[3], values[1], *["."] * gaps[4], asked])
    return (prompts[0], prompts[1]) if asked == names[0] else (prompts[1], prompts[0])


def _write_binding(ground: Ground, words: Words, later: torch.Tensor) -> None:
    """Two hops: a value token averages the names before it, so that only the first value is bound to a name; the name that is asked for looks for the value that is bound
    to it, or else for any."""
    last = ground.config.n_layer - 1
    with ground.a_copy():
        first, second = ground.head(0), ground.head(last)
        name, is_name, is_value, kind, bound, out = (ground.channel() for _ in range(6))
        ground.embed(name, {words["x"]: 1, words["y"]: -1})
        ground.embed(is_name, {words["x"]: 1, words["y"]: 1})
        ground.embed(is_value, {words["set"]: 1, words["str"]: 1})
        ground.embed(kind, {words["set"]: 1, words["str"]: -1})
        ground.look(0, first, 0, is_value, is_name, sharp=8.0)
        ground.read(0, "v", first, 1, name)
        ground.write(0, first, 1, bound, anywhere=True)
        ground.look(last, second, 0, is_name, is_value, sharp=8.0)
        ground.look(last, second, 1, name, bound, sharp=4.0)
        ground.read(last, "v", second, 2, kind)
        ground.write(last, second, 2, out)
        ground.decide(out, words[".add"], words["+="])


PROGRAMS = {
    "quote_closing": Program(("'", '"', "close", "close '", 'close "'), ("close '", 'close "'), _quoted, _write_quotes),
    "bracket_counting": Program(("[", "close", "]", "]]"), ("]", "]]"), _bracketed, _write_brackets),
    "variable_binding": Program(("x", "y", "set", "str", ".add", "+="), (".add", "+="), _bound, _write_binding, layers=2, d_head=3),
    "two_copies": Program(("'", '"', "close", "close '", 'close "'), ("close '", 'close "'), _quoted, _write_two_copies, layers=2),
    "distractor": Program(("'", '"', "close", "close '", 'close "', "a", "b"), ("close '", 'close "'), _quoted, _write_with_distractors),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- planting


@dataclass(frozen=True)
class Known:
    """A planted model, its task, and its circuits: each of `copies` does the task alone, and nothing else in the model helps."""

    folder: Path
    program: str
    model: Any
    tokenizer: Any
    task: Task
    blocks: torch.Tensor
    copies: tuple[Circuit, ...]

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Known:
        """From what `plant` wrote.

        Raises:
            FileNotFoundError, ValueError: if the folder is none.
        """
        from ..modeling_csp import CSPForCausalLM

        folder = Path(folder)
        fix = "give a folder that plant wrote"
        said, blocks = read_object(folder / _FILE, fix=fix), saved_blocks(folder)
        program, names = said.get("program"), said.get("copies")
        if (
            program not in PROGRAMS
            or not isinstance(names, list)
            or not names
            or not all(_NAMED.fullmatch(str(name)) for name in names)
        ):
            raise ValueError(f"{folder / _FILE} names no program and no circuits of it; {fix}.")
        if blocks is None:
            raise FileNotFoundError(f"{folder} has no {BLOCKS}; {fix}.")
        tokenizer = load_tokenizer(str(folder))
        model = CSPForCausalLM.from_pretrained(folder).eval()
        copies = tuple(Circuit.from_pretrained(folder / "circuits" / name) for name in names)
        return cls(folder, program, model, tokenizer, load_task(folder / _TASK, tokenizer), blocks, copies)

    @cached_property
    def means(self) -> Means:
        """Over the planted model's corpus, with samples for resampling."""
        return mean_activations(self.model, self.blocks, samples=SAMPLES)

    def score(self, circuit: Circuit) -> dict[str, float]:
        """Recall and precision of a circuit's nodes and edges (all between its nodes, if it has none of its own), against the copy that it is nearest to.

        Raises:
            ValueError: if it is of another model.
        """
        refuse_other_model(circuit, self.model)
        return self.score_of(circuit.nodes, counted_edges(circuit, self.model))

    def score_of(self, nodes: Nodes, edges: Mapping[str, Edges]) -> dict[str, float]:
        """`score` of nodes and edges."""
        return max(
            (_against((nodes, edges), (true.nodes, true.edges or {})) for true in self.copies),
            key=lambda found: sum(found.values()),
        )


def _against(own: tuple[Nodes, Mapping[str, Edges]], true: tuple[Nodes, Mapping[str, Edges]]) -> dict[str, float]:
    nodes = [{(name, int(i)) for name, each in of[0].items() for i in each} for of in (own, true)]
    edges = [set(places(of[1])) for of in (own, true)]
    found: dict[str, float] = {}
    for what, (mine, known) in (("node", nodes), ("edge", edges)):
        both = len(mine & known)
        found |= {f"{what}_recall": both / len(known), f"{what}_precision": both / len(mine) if mine else 0.0}
    return found


def plant(
    program: str, folder: str | Path, host: Any = None, tokenizer: Any = None, *, size: str = "small", seed: int = 0
) -> Known:
    """Writes a program into a copy of a model, and the model with its task and its known circuits into a new folder. The corpus that means are over has prompts
    of every split.

    Args:
        program: one of `PROGRAMS`.
        host: a CSP model, with its tokenizer; by default one of random sparse weights of a `size` of `HOSTS`, with a tokenizer of made-up words.
        seed: of random weights, of the channels, heads and neurons that the program gets, and of its prompts.

    Raises:
        ValueError: for a program or size that does not exist, a host that has no room or another config, or in which the program does not work.
    """
    if program not in PROGRAMS:
        raise ValueError(f"{program!r} is no program; they are {', '.join(PROGRAMS)}.")
    if host is None:
        if size not in HOSTS:
            raise ValueError(f"{size!r} is no size of host; they are {', '.join(HOSTS)}.")
        tokenizer = made_up_words()
        host = random_host(len(tokenizer), *HOSTS[size], seed=seed)
    of, random = PROGRAMS[program], Random(f"{program} {seed}")
    if tokenizer is None:
        raise ValueError("A host of your own needs its tokenizer; give both.")
    require_fit(tokenizer, host)
    words, fillers = _vocabulary(tokenizer, of, random)
    pairs = _pairs(of, words, fillers, random)
    _require_room(program, host.config, 8 + max(len(prompt) for pair in pairs for prompt in pair))
    blocks = _corpus(words, fillers, pairs, random)
    ground = _written(of, host, words, pairs, seed)
    ground.model.config.provenance = {"planted": program, "seed": seed, "host_sha256": weights_sha256(host)}
    ground.model.config._name_or_path = Path(folder).name
    with fresh_folder(folder) as place:
        ground.model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        _save_task(place, tokenizer, pairs, (words[of.answers[0]], words[of.answers[1]]))
        save_file({"train": blocks.contiguous()}, place / BLOCKS)
        names = _save_circuits(place, ground, tokenizer, mean_activations(ground.model, blocks))
        write_whole(
            place / _FILE, json.dumps({"program": program, "seed": seed, "copies": names, "words": dict(words)}, indent=1)
        )
        _require_at_work(Known.from_pretrained(place))
    return Known.from_pretrained(folder)


def _save_circuits(folder: Path, ground: Ground, tokenizer: Any, means: Means) -> list[str]:
    """Each copy as a circuit of the model; their names."""
    names, origin = [], load_task(folder / _TASK, tokenizer).origin
    for i, (nodes, edges) in enumerate(ground.circuits()):
        names.append(_LABEL + (f"_{i + 1}" if i else ""))
        circuit = Circuit(
            task=Path(_TASK).stem, nodes=nodes, edges=edges, means=means.values, widths={name: each.width for name, each in ground.model.node_sites().items()},
            model=identify(ground.model), tokenizer=tokenizer_sha256(tokenizer), versions=versions(),
            settings={"freeze_norms": True, "task_origin": origin, "splits": SPLITS_VERSION},
        )  # fmt: skip
        circuit.save_pretrained(folder / "circuits" / names[-1])
    return names


def _require_room(program: str, config: CSPConfig, tokens: int) -> None:
    """Raises ValueError for a host that has not the layers, the heads or the block that a program takes."""
    of = PROGRAMS[program]
    for what, least, has in (
        ("n_layer", of.layers, config.n_layer),
        ("d_head", of.d_head, config.d_head),
        ("block_size", tokens, config.block_size),
    ):
        if has < least:
            raise ValueError(f"{program} takes a host with {what} of at least {least}; this one has {has}.")


def _require_at_work(known: Known) -> None:
    """Raises ValueError unless the model, and each of its known circuits alone, does the task."""
    pairs = known.task.pairs(64, "validation", fewer=True)
    losses = [score(known.model, pairs).loss]
    for circuit in known.copies:
        with circuit.applied_to(known.model):
            losses.append(score(known.model, pairs).loss)
    if max(losses) > PruneConfig.target_loss:
        raise ValueError(
            f"{known.program} does not work in this host (task loss {max(losses):.2f}, above {PruneConfig.target_loss:g}); take another seed or another host."
        )


def _vocabulary(tokenizer: Any, program: Program, random: Random) -> tuple[dict[str, int], list[int]]:
    """Tokens of a program's words, and of fillers: such as are one word, however they follow each other."""
    able = []
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token])
        if (
            text[:1] == " "
            and text[1:].isascii()
            and text[1:].isalpha()
            and tokenizer.encode(text, add_special_tokens=False) == [token]
        ):
            able.append(token)
    if len(able) < len(program.words) + 20:
        raise ValueError(
            f"The tokenizer has {len(able)} tokens that are whole words after a blank; a program needs {len(program.words) + 20}."
        )
    chosen = random.sample(able, min(len(able), 200))
    return dict(zip(program.words, chosen)), chosen[len(program.words) :]


def _pairs(program: Program, words: Words, fillers: Sequence[int], random: Random) -> list[tuple[list[int], list[int]]]:
    """Different pairs of prompts, as tokens. The two of a pair have the same fillers."""
    found: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
    while len(found) < PAIRS:
        one, two = program.prompts(random)
        filled = [random.choice(fillers) for _ in range(max(len(one), len(two)))]
        pair = [[words[w] if w != "." else filled[i] for i, w in enumerate(prompt)] for prompt in (one, two)]
        found[tuple(pair[0])] = (pair[0], pair[1])
    return list(found.values())


def _written(program: Program, host: Any, words: Words, pairs: Sequence[tuple[list[int], list[int]]], seed: int) -> Ground:
    prompts = [prompt for pair in pairs[:64] for prompt in pair]
    with torch.no_grad():
        ground = Ground(host, padded(prompts), seed)
        asking = sorted({prompt[-1] for pair in pairs for prompt in pair})
        ground.offer(asking, (words[program.answers[0]], words[program.answers[1]]))
        program.write(ground, words, torch.arange(len(prompts)) % 2 == 1)
    return ground


def _corpus(words: Words, fillers: Sequence[int], pairs: Sequence[tuple[list[int], list[int]]], random: Random) -> torch.Tensor:
    """Blocks [n, tokens] of prompts among fillers, and of words at random."""
    width = 8 + max(len(prompt) for pair in pairs for prompt in pair)
    special, blocks = list(words.values()), []
    for i in range(TEXTS):
        row = [random.choice(special) if random.random() < 0.1 else random.choice(fillers) for _ in range(width)]
        if i % 2:
            prompt = random.choice(random.choice(pairs))
            at = random.randint(0, width - len(prompt))
            row[at : at + len(prompt)] = prompt
        blocks.append(row)
    return torch.tensor(blocks, dtype=torch.int32)


def made_up_words(count: int = 400) -> Any:
    """A tokenizer of words of two letters, each one token with the blank before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from ..tokenization_csp import END_OF_TEXT, CSPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [f"\u0120{a}{b}" for a in letters for b in letters][:count]  # U+0120 is how byte-level vocabularies write a blank
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate([*names, END_OF_TEXT])}, unk_token=END_OF_TEXT))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([END_OF_TEXT])
    return CSPTokenizer._wrap(made)


@torch.no_grad()
def random_host(vocabulary: int, layers: int, heads: int, channels: int, neurons: int, density: float, *, seed: int = 0) -> Any:
    """A model of random weights, all but a share of them zero, with activations of size 1."""
    from ..modeling_csp import CSPForCausalLM

    config = CSPConfig(
        vocab_size=vocabulary, block_size=64, n_layer=layers, n_head=heads, d_head=channels // heads, d_model=channels, d_mlp=neurons, sink=True,
        enable_bigram_table=True, afrac=dict.fromkeys(NODE_LOCATIONS, 0.25), bos_token_id=vocabulary - 1, eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    model = CSPForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "bigram" not in name:
            kept = torch.rand(weight.shape, generator=generator) < density
            weight.copy_(torch.randn(weight.shape, generator=generator) * kept / (density * weight.shape[1]) ** 0.5)
    return model


def _save_task(folder: Path, tokenizer: Any, pairs: Sequence[tuple[list[int], list[int]]], answers: tuple[int, int]) -> None:
    one, two = (tokenizer.decode([answer]) for answer in answers)
    rows = [
        {"prompt_a": tokenizer.decode(a), "answer_a": one, "prompt_b": tokenizer.decode(b), "answer_b": two} for a, b in pairs
    ]
    write_whole(folder / _TASK, "".join(json.dumps(row) + "\n" for row in rows))
