"""`prove`: a circuit's program, and a certificate over every prompt of its task's language."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..circuits.circuit import Circuit
from ..circuits.identity import circuit_sha256, refuse_other_task
from ..circuits.scoring import score
from ..circuits.sites import norms
from ..circuits.tasks import Task
from ..files import read_json, read_text, write_whole
from .certificate import FORMAT, VERSION, Certificate, headline, held_scales, story
from .certify import WORST, answer_tokens, certify, runs
from .compile import compile_circuit, mean_scales
from .language import count, language
from .lengths import by_length, repetitions
from .parts import Parts
from .ranges import specialised
from .simplify import sample_prompts, simplified
from .story import story_text
from .symbols import symbols_of
from .text import program_text
from .tokens import TokenTemplate, fewer, tokenised

PROGRAM, SIMPLE, STORY, CERTIFICATE = "program.py", "simple.py", "program.md", "certificate.json"
MOST = 20_000_000  # prompts that are run, unless more are asked for
_LARGEST, _LONGEST = 64 << 20, 200_000  # bytes of a certificate, and of a simplified program that is shown


@dataclass(frozen=True)
class Proof:
    """A circuit's parts, program and certificate, and, if it was asked for and could be, its simplified program (docs/method.md#programs)."""

    parts: Parts
    program: str
    certificate: dict[str, Any]
    simple: str = ""

    def save(self, folder: str | Path) -> Path:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / PROGRAM, self.program)
        if self.simple:
            write_whole(folder / SIMPLE, self.simple)
            write_whole(folder / STORY, story(self.certificate, self.simple))
        else:  # of an earlier proof
            for name in (SIMPLE, STORY):
                (folder / name).unlink(missing_ok=True)
        write_whole(folder / CERTIFICATE, json.dumps(self.certificate, indent=1) + "\n")
        return folder


def prove(
    model: Any,
    tokenizer: Any,
    circuit: Circuit,
    task: Task,
    blocks: torch.Tensor | None = None,
    *,
    most: int = MOST,
    scales: Sequence[float] | None = None,
    own_norms: bool | None = None,
    split: str | None = None,
    lengths: bool = False,
    simplify: float | None = None,
    tell: Callable[[int], None] = lambda count: None,
) -> Proof:
    """Compiles a circuit, and runs every prompt of its task through it.

    A circuit that was pruned with frozen norms depends, through their scales, on all of the model. What is compiled has its own norms, or scales at their
    means over a corpus, like all else that is outside of the circuit: whichever loses less on validation pairs. One that was pruned with free norms has its own.

    Args:
        blocks: token ids [n, tokens] of the corpus, for the scales' means; not needed where `scales` are given or norms are its own.
        own_norms: True: its own; False: scales at their means; None: as above.
        most: prompts that are run. A language with more is restricted to values of the test split, or to its shortest templates.
        split: values of one split alone.
        lengths: bounds too over any number of repetitions of what templates repeat; a minute or so each.
        simplify: a second program too, whose mean task loss over all prompts is at most this many nats more.

    Raises:
        ValueError: for a circuit of another model or task, and for what cannot be compiled or certified, by name.
    """
    refuse_other_task(circuit, task)
    begun = time.perf_counter()
    if circuit.settings.get("freeze_norms") and scales is None and not own_norms:
        scales = _scales(model, circuit, task, blocks, own_norms)
    templates, chosen, restricted = _within(model, tokenizer, circuit, task, scales, most, split)
    parts = _compiled(model, circuit, templates, scales)
    document = Certificate(model, tokenizer, circuit, task, parts, scales).of(
        certify(parts, chosen, tell), templates, restricted
    )
    document |= {"lengths": _lengths(parts, templates, tokenizer)} if lengths else {}
    small, simple = specialised(parts, torch.arange(parts.vocab)), ""
    if simplify is not None:
        simple, document["simple"] = _simple(small, circuit, tokenizer, chosen, document, simplify, tell)
    program = program_text(small, circuit, lambda token: tokenizer.decode([token]), _header(circuit))
    document["program_sha256"] = hashlib.sha256(program.encode()).hexdigest()
    document["seconds"] = round(time.perf_counter() - begun, 1)
    return Proof(parts, program, document, simple)


def _compiled(model: Any, circuit: Circuit, templates: Sequence[TokenTemplate], scales: Sequence[float] | None) -> Parts:
    symbols = None if model.config.position_embedding_type == "none" else symbols_of(templates)
    return compile_circuit(model, circuit, answer_tokens(templates), scales, symbols)


def _scales(
    model: Any, circuit: Circuit, task: Task, blocks: torch.Tensor | None, own_norms: bool | None
) -> list[float] | None:
    """Scales at their means, or None where the circuit's own norms lose less on validation pairs."""
    if blocks is None:
        raise ValueError("The circuit was pruned with frozen norms; give text, for the mean scales that its program may have.")
    scales = mean_scales(model, blocks)
    if (
        model.config.norm_type != "rms_norm" or model.config.position_embedding_type == "concatenated"
    ):  # no program can have their own
        return scales
    better = own_norms is None and _loss(model, circuit, task, False) < _loss(model, circuit, task, held_scales(model, scales))
    return None if better else scales


def _loss(model: Any, circuit: Circuit, task: Task, freeze: Any) -> float:
    with circuit.running(model, freeze_norms=freeze):
        return score(model, task.pairs(64, "validation", fewer=True)).loss


def _header(circuit: Circuit) -> list[str]:
    said = f"The circuit for {circuit.task} of {circuit.model.get('id') or 'a model'}, written out by csp prove."
    return [said, f"Circuit {circuit_sha256(circuit)[:16]}."]


def _simple(
    parts: Parts,
    circuit: Circuit,
    tokenizer: Any,
    templates: Sequence[TokenTemplate],
    exact: dict[str, Any],
    bound: float,
    tell: Callable[[int], None],
) -> tuple[str, dict[str, Any]]:
    """A simplified program that keeps within the bound on every prompt of the certificate: on a sample first, and where that was too hopeful, again with
    half of the bound."""
    sample = sample_prompts(templates, parts)
    for part in (1.0, 0.5, 0.25):
        small, steps = simplified(parts, sample, bound * part)
        tallies = certify(small, templates, tell)
        total = sum(each.count for each in tallies)
        loss = sum(each.loss * each.count for each in tallies) / max(1, total)
        said = {
            "bound": bound, "loss": loss, "exact_loss": exact["loss"], "prompts": total, "right": sum(each.right for each in tallies),
            "steps": [dataclasses.asdict(each) for each in steps],
        }  # fmt: skip
        if loss > exact["loss"] + bound:
            continue
        header = [
            f"The circuit for {circuit.task}, simplified: right on {said['right']:,} of {total:,} prompts, where the circuit itself is on {exact['right']:,};",
            f"mean pairwise loss {loss:.3f}, of the circuit itself {exact['loss']:.3f}. Tokens are ids; comments have their texts.",
        ]
        try:
            text = story_text(small, circuit, lambda token: tokenizer.decode([token]), header)
        except ValueError as error:
            return "", said | {"not_told": str(error)}
        return text, said | {"lines": len(text.splitlines()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return "", said | {"not_told": "No simplified program keeps within the bound on all prompts."}


def _within(
    model: Any, tokenizer: Any, circuit: Circuit, task: Task, scales: Sequence[float] | None, most: int, split: str | None
) -> tuple[list[TokenTemplate], list[TokenTemplate], dict[str, Any]]:
    """(all templates, those that are run, what the language is restricted to): all of it, or, of what fits, that with the most prompts: templates with the values of
    all splits, those with the values of the test split, every template with the first few values at each place. What fits has to have every right answer, so
    that no program does which says one thing always; the test split's values go before others of which there are not four times as many."""
    found: list[_Restricted] = []
    least = 0

    def needs(templates: Sequence[TokenTemplate]) -> list[int]:
        return runs(_compiled(model, circuit, templates, scales), templates)

    for values in dict.fromkeys((split, split or "test")):
        templates = list(
            {each.template: each for each in (tokenised(one, tokenizer) for one in language(task, values))}.values()
        )
        needed, chosen, total = needs(templates), [], 0
        least = min(needed)
        for i in sorted(range(len(templates)), key=lambda i: needed[i]):
            if total + needed[i] <= most:
                chosen.append(i)
                total += needed[i]
        picked = [templates[i] for i in sorted(chosen)]
        restricted = {"values": values or "all", "templates": len(picked), "of": len(templates), "most": most}
        if len(picked) == len(templates):
            found.append((templates, picked, restricted))
            break
        few = first_few(templates, tokenizer, lambda some: sum(needs(some)) <= most)
        found += [
            (templates, picked, restricted),
            *([] if few is None else [(templates, few[0], few[1] | {**restricted, "templates": len(templates)})]),
        ]
    some = [each for each in found if _right_answers(each[1]) == _right_answers(each[0])] or [
        each for each in found if "texts" in each[2]
    ]
    if not some:
        raise ValueError(
            f"The smallest part of the language of {task.name} has {least:,} prompts that have to be run, over {most:,}; ask for more (--most)."
        )
    return max(some, key=lambda each: count([one.template for one in each[1]]) * (4 if each[2]["values"] == "test" else 1))


_Restricted = tuple[list[TokenTemplate], list[TokenTemplate], dict[str, Any]]
_MOST_TEXTS = 48  # values at each place, where a language is cut to the first few


def first_few(
    templates: Sequence[TokenTemplate], tokenizer: Any, fits: Callable[[list[TokenTemplate]], bool]
) -> tuple[list[TokenTemplate], dict[str, int]] | None:
    """Templates with the first few values at each place, as many as fit; None if not even one each does."""
    best, low, high = None, 1, _MOST_TEXTS + 1
    while low < high:
        middle = (low + high) // 2
        few = [fewer(each, middle, tokenizer) for each in templates]
        if fits(few):
            best, low = (few, {"texts": middle}), middle + 1
        else:
            high = middle
    return best


def _right_answers(templates: Sequence[TokenTemplate]) -> set[int]:
    return {token for each in templates for token in (each.right.token, *each.right.by_text)}


def _lengths(parts: Parts, templates: Sequence[TokenTemplate], tokenizer: Any) -> list[dict[str, Any]]:
    """Bounds on margins by the number of repetitions, for each part that templates repeat."""
    found = []
    for each in repetitions(templates):
        texts = [
            tokenizer.decode([t for place in places for t in place[0]]) for places in (each.before, each.piece, each.after)
        ]
        row: dict[str, Any] = {"before": texts[0], "repeated": texts[1], "after": texts[2]}
        try:
            rows = by_length(parts, each)
        except ValueError as error:
            found.append(row | {"not_known": str(error)})
            continue
        found.append(
            row
            | {"margins": [[low, None if high == float("inf") else int(high), least, most] for low, high, least, most in rows]}
        )
    return found


def read_certificate(path: str | Path) -> dict[str, Any]:
    """A certificate, not yet believed (`check`).

    Raises:
        FileNotFoundError, ValueError: if there is none, or it is of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; write it with csp prove.")
    found = read_json(path, largest=_LARGEST, fix="write it again with csp prove")
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise ValueError(f"{path} is no certificate of this version; write it again with csp prove.")
    return found


def certified(folder: str | Path, circuit: Circuit) -> str:
    """What a circuit's folder has certified of it, in a few words; "" without a certificate, or with one of another circuit."""
    found = certificate_of(folder, circuit)
    return headline(found) if found else ""


def certificate_of(folder: str | Path, circuit: Circuit) -> dict[str, Any]:
    """The certificate in a circuit's folder, not yet believed; {} where there is none, or one of another circuit."""
    path = Path(folder) / CERTIFICATE
    found = read_certificate(path) if path.is_file() else {}
    return found if found.get("circuit") == circuit_sha256(circuit) else {}


def worst(certificate: dict[str, Any]) -> list[dict[str, Any]]:
    """The prompts on which a circuit is worst, the worst first: prompt, right, wrong (texts), margin and model_margin (the right answer's logit above the
    other's)."""
    texts, numbers = ("prompt", "right", "wrong"), ("margin", "model_margin")
    try:
        return [
            {name: str(each[name]) for name in texts} | {name: float(each[name]) for name in numbers}
            for each in certificate.get("worst", [])[:WORST]
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("A certificate is damaged; write it again with csp prove.") from None


def simpler(certificate: dict[str, Any], folder: str | Path) -> tuple[str, str]:
    """(the simplified program in a circuit's folder, what was counted of it in words); nothing where it is not the one that the certificate is of."""
    simple, path = certificate.get("simple"), Path(folder) / SIMPLE
    if not isinstance(simple, dict) or not path.is_file() or path.stat().st_size > _LONGEST:
        return "", ""
    text = read_text(path, largest=_LONGEST)
    if hashlib.sha256(text.encode()).hexdigest() != simple.get("sha256"):
        return "", ""
    try:
        said = (
            f"right on {int(simple['right']):,} of {int(simple['prompts']):,} prompts, where the circuit is on {int(certificate['right']):,}; "
            f"mean loss {float(simple['loss']):.3f}, of the circuit {float(certificate['loss']):.3f}"
        )
    except (KeyError, TypeError, ValueError):
        raise ValueError("A certificate is damaged; write it again with csp prove.") from None
    return text, said


def check(
    model: Any,
    tokenizer: Any,
    circuit: Circuit,
    task: Task,
    folder: str | Path,
    tell: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """What in a folder's program and certificate is not so, by doing all of it again; [] if everything is.

    Of the certificate it is taken whether norms are their own, else their scales, and which values and templates it is restricted to; the rest is compared."""
    folder = Path(folder)
    given = read_certificate(folder / CERTIFICATE)
    scales, restricted, simple = given.get("scales"), given.get("restricted") or {}, given.get("simple")
    if scales is not None and not (
        isinstance(scales, list) and len(scales) == len(norms(model)) and all(isinstance(x, float) for x in scales)
    ):
        raise ValueError(f"{folder / CERTIFICATE} has no scale for each norm of this model; write it again with csp prove.")
    bound = float(simple["bound"]) if isinstance(simple, dict) and isinstance(simple.get("bound"), (int, float)) else None
    again = prove(
        model, tokenizer, circuit, task, most=int(restricted.get("most") or 1), scales=scales, own_norms=given.get("norms") == "own",
        split=None if restricted.get("values") == "all" else str(restricted.get("values")), simplify=bound, tell=tell,
    )  # fmt: skip
    faults = []
    for name in (
        "task",
        "form",
        "circuit",
        "model",
        "tokenizer",
        "norms",
        "restricted",
        "language",
        "prompts",
        "right",
        "one_answer",
        "program_sha256",
    ):
        if given.get(name) != again.certificate[name]:
            faults.append(f"{name} is {given.get(name)!r:.70} in the certificate, and {again.certificate[name]!r:.70} in truth")
    for name in ("loss", "smallest_margin"):
        if not _close(given.get(name), again.certificate[name]):
            faults.append(f"{name} is {given.get(name)!r:.70} in the certificate, and {again.certificate[name]!r:.70} in truth")
    faults += _simple_faults(simple, again, folder) if bound is not None else []
    program = folder / PROGRAM
    if not program.is_file() or program.read_text() != again.program:
        faults.append(f"{PROGRAM} is not the circuit's program")
    return faults


def _simple_faults(simple: Any, again: Proof, folder: Path) -> list[str]:
    faults = []
    for name in ("loss", "right", "prompts", "sha256"):
        if not _close(simple.get(name), again.certificate["simple"].get(name)):
            faults.append(
                f"{name} of the simplified program is {simple.get(name)!r:.70} in the certificate, and {again.certificate['simple'].get(name)!r:.70} in truth"
            )
    if again.simple and (not (folder / SIMPLE).is_file() or (folder / SIMPLE).read_text() != again.simple):
        faults.append(f"{SIMPLE} is not the circuit's simplified program")
    return faults


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * (1 + abs(other))
    return one == other
