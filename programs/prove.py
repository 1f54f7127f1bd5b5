"""`prove`: a circuit's program, and a certificate over every prompt of its task's language."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..circuits.circuit import Circuit
from ..circuits.identity import circuit_sha256, refuse_other_task, tokenizer_sha256, weights_sha256
from ..circuits.outcome import last_logits, losses
from ..circuits.scoring import score
from ..circuits.sites import evaluating, norms
from ..circuits.tasks import Pairs, Task, padded
from ..files import read_json, write_whole
from .certify import WORST, Tally, answer_tokens, certify, runs
from .compile import compile_circuit, mean_scales
from .language import count, language
from .parts import Parts
from .ranges import specialised
from .text import program_text
from .tokens import TokenTemplate, tokenised

PROGRAM, CERTIFICATE = "program.py", "certificate.json"
FORMAT, VERSION = "sparse_circuits.certificate", 1
MOST = 20_000_000  # prompts that are run, unless more are asked for
_LARGEST = 64 << 20  # bytes of a certificate


@dataclass(frozen=True)
class Proof:
    """A circuit's parts, program and certificate (docs/method.md#programs)."""

    parts: Parts
    program: str
    certificate: dict[str, Any]

    def save(self, folder: str | Path) -> Path:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / PROGRAM, self.program)
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
    split: str | None = None,
    tell: Callable[[int], None] = lambda count: None,
) -> Proof:
    """Compiles a circuit, and runs every prompt of its task through it.

    A circuit that was pruned with frozen norms depends, through their scales, on all of the model; what is compiled has them at their means over a
    corpus, like everything else that is outside of the circuit. One that was pruned with free norms has its own.

    Args:
        blocks: token ids [n, tokens] of the corpus, for the scales' means; not needed where `scales` are given or norms are free.
        most: prompts that are run. A language with more is restricted, first to values of the test split, then to its shortest templates; the
            certificate says to what.
        split: values of one split alone.

    Raises:
        ValueError: for a circuit of another model or task, and for what cannot be compiled or certified, by name.
    """
    refuse_other_task(circuit, task)
    begun = time.perf_counter()
    if circuit.settings.get("freeze_norms") and scales is None:
        if blocks is None:
            raise ValueError("The circuit was pruned with frozen norms; give text, whose mean scales its program has.")
        scales = mean_scales(model, blocks)
    templates, chosen, restricted = _within(model, tokenizer, circuit, task, scales, most, split)
    parts = compile_circuit(model, circuit, answer_tokens(templates), scales)
    tallies = certify(parts, chosen, tell)
    said = _Certificate(model, tokenizer, circuit, task, parts, scales)
    document = said.of(tallies, templates, restricted)
    small = specialised(parts, torch.arange(parts.vocab))
    header = [
        f"The circuit for {circuit.task} of {circuit.model.get('id') or 'a model'}, written out by csp prove.",
        f"Circuit {circuit_sha256(circuit)[:16]}.",
    ]
    program = program_text(small, circuit, lambda token: tokenizer.decode([token]), header)
    document |= {
        "program_sha256": hashlib.sha256(program.encode()).hexdigest(),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    return Proof(parts, program, document)


def _within(
    model: Any, tokenizer: Any, circuit: Circuit, task: Task, scales: Sequence[float] | None, most: int, split: str | None
) -> tuple[list[TokenTemplate], list[TokenTemplate], dict[str, Any]]:
    """(all templates, those that are run, what the language is restricted to)."""
    for values in dict.fromkeys((split, split or "test")):
        templates = [tokenised(each, tokenizer) for each in language(task, values)]
        needed = runs(compile_circuit(model, circuit, answer_tokens(templates), scales), templates)
        order = sorted(range(len(templates)), key=lambda i: needed[i])
        chosen, total = [], 0
        for i in order:
            if total + needed[i] <= most:
                chosen.append(i)
                total += needed[i]
        if len(chosen) == len(templates) or (values == (split or "test") and chosen):
            picked = [templates[i] for i in sorted(chosen)]
            return templates, picked, {"values": values or "all", "templates": len(picked), "of": len(templates)}
    raise ValueError(
        f"The smallest part of the language of {task.name} has {min(needed):,} prompts that have to be run, over {most:,}; ask for more (--most)."
    )


class _Certificate:
    def __init__(self, model: Any, tokenizer: Any, circuit: Circuit, task: Task, parts: Parts, scales: Sequence[float] | None):
        self.model, self.tokenizer, self.circuit, self.task, self.parts, self.scales = (
            model,
            tokenizer,
            circuit,
            task,
            parts,
            scales,
        )

    def of(self, tallies: Sequence[Tally], templates: Sequence[TokenTemplate], restricted: dict[str, Any]) -> dict[str, Any]:
        total = sum(each.count for each in tallies)
        right = sum(each.right for each in tallies)
        worst = sorted(((margin, t, texts) for t in tallies for margin, texts in t.worst), key=lambda each: each[0])[:WORST]
        return {
            "format": FORMAT, "version": VERSION, "task": self.circuit.task, "form": self.circuit.settings.get("task_form", ""),
            "circuit": circuit_sha256(self.circuit), "model": weights_sha256(self.model), "tokenizer": tokenizer_sha256(self.tokenizer),
            "norms": self.parts.norms, "scales": None if self.scales is None else list(self.scales), "restricted": restricted,
            "language": count([each.template for each in templates]), "prompts": total, "run": sum(each.run for each in tallies), "right": right,
            "loss": sum(each.loss * each.count for each in tallies) / max(1, total), "smallest_margin": worst[0][0] if worst else None,
            "test_pairs": self.on_pairs(), "templates": [self.template(each) for each in tallies],
            "worst": [self.worst(margin, tally, texts) for margin, tally, texts in worst], "model_on": self.model_on(tallies),
        }  # fmt: skip

    def on_pairs(self) -> dict[str, Any]:
        """On test pairs: the circuit as it was pruned, as it was compiled, and the whole model."""
        pairs = self.task.pairs(64, "test", fewer=True)
        with self.circuit.running(self.model):
            pruned = score(self.model, pairs)
        with self.circuit.running(self.model, freeze_norms=self.held()):
            compiled = score(self.model, pairs)
        return {"pruned": pruned.to_dict(), "compiled": compiled.to_dict(), "model": score(self.model, pairs).to_dict()}

    def held(self) -> Any:
        if self.scales is None:
            return False
        return {norm: torch.full((1, 1, 1), scale) for norm, scale in list(zip(norms(self.model), self.scales))[1:]}

    def template(self, tally: Tally) -> dict[str, Any]:
        template = tally.template.template
        return {
            "prompt": _shown(template.prompt), "right": _shown(template.right), "wrong": _shown(template.wrong),
            "slots": [{"kind": slot.kind, "texts": len(slot.texts), "different_from": _same_group(template.slots, i)} for i, slot in enumerate(template.slots)],
            "prompts": tally.count, "run": tally.run, "right_on": tally.right, "loss": tally.loss, "smallest_margin": tally.smallest,
            "least_by_value": {
                str(slot): [[template.slots[slot].texts[text], right, there] for text, (right, there) in
                            sorted(found.items(), key=lambda each: each[1][0] / max(1, each[1][1]))[:3]]
                for slot, found in tally.by_text.items()
            },
        }  # fmt: skip

    def worst(self, margin: float, tally: Tally, texts: Sequence[int]) -> dict[str, Any]:
        prompt, right, wrong = self.filled(tally, texts)
        own = float(self.margins([(tally, texts)])[0])
        return {"prompt": prompt, "right": right, "wrong": wrong, "margin": margin, "model_margin": own}

    def filled(self, tally: Tally, texts: Sequence[int]) -> tuple[str, str, str]:
        template = tally.template.template
        chosen = [slot.texts[i] for slot, i in zip(template.slots, texts)]
        return (
            template.filled(template.prompt, chosen),
            template.filled(template.right, chosen),
            template.filled(template.wrong, chosen),
        )

    def margins(self, prompts: Sequence[tuple[Tally, Sequence[int]]]) -> torch.Tensor:
        """Of the whole model, on prompts by template and texts."""
        doubled = [*prompts, prompts[0]] if len(prompts) % 2 else list(prompts)  # pairs come in twos
        ids, mask = padded([tally.template.ids(texts) for tally, texts in doubled], self.tokenizer.pad_token_id or 0)
        answers = torch.tensor([[tally.template.right.at(texts), tally.template.wrong.at(texts)] for tally, texts in doubled])
        with evaluating(self.model), torch.no_grad():
            logits = last_logits(self.model, Pairs(ids, mask, answers, ("",) * len(doubled))).gather(
                1, answers.to(self.model.device)
            )
        return (logits[:, 0] - logits[:, 1]).double().cpu()[: len(prompts)]

    def model_on(self, tallies: Sequence[Tally]) -> dict[str, Any]:
        """Does the whole model fail where its circuit does? On prompts drawn from those that the circuit gets right, and from those it does not."""
        found: dict[str, Any] = {}
        for kind, name in ((False, "circuit_wrong"), (True, "circuit_right")):
            prompts, weights = [], []
            for tally in tallies:
                share = (tally.right if kind else tally.count - tally.right) / max(1, len(tally.drawn[kind]))
                for texts in tally.drawn[kind]:
                    prompts.append((tally, texts))
                    weights.append(share)
            if not prompts:
                found[name] = {"prompts": 0, "drawn": 0}
                continue
            margins = self.margins(prompts)
            weight = torch.tensor(weights, dtype=torch.float64)
            losses_ = losses(torch.stack([margins, torch.zeros_like(margins)], 1))
            found[name] = {
                "prompts": round(float(weight.sum())), "drawn": len(prompts), "model_right": float((weight * (margins > 0)).sum() / weight.sum()),
                "model_loss": float((weight * losses_).sum() / weight.sum()),
            }  # fmt: skip
        return found


def _shown(text: str) -> str:
    """A text with slots as {0}, {1}, ..., and {0:capital}."""
    from .language import place

    told = []
    for character in text:
        at = place(character)
        told.append(
            {"{": "{{", "}": "}}"}.get(character, character) if at is None else f"{{{at[0]}{':capital' if at[1] else ''}}}"
        )
    return "".join(told)


def _same_group(slots: Sequence[Any], i: int) -> list[int]:
    return [j for j, other in enumerate(slots) if j != i and other.group == slots[i].group]


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


def check(
    model: Any,
    tokenizer: Any,
    circuit: Circuit,
    task: Task,
    folder: str | Path,
    tell: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """What in a folder's program and certificate is not so, by doing all of it again; [] if everything is.

    Of the certificate the scales of norms are taken, and which values and templates it is restricted to; the rest is compared."""
    folder = Path(folder)
    given = read_certificate(folder / CERTIFICATE)
    scales, restricted = given.get("scales"), given.get("restricted") or {}
    if scales is not None and not (
        isinstance(scales, list) and len(scales) == len(norms(model)) and all(isinstance(x, float) for x in scales)
    ):
        raise ValueError(f"{folder / CERTIFICATE} has no scale for each norm of this model; write it again with csp prove.")
    values = None if restricted.get("values") == "all" else str(restricted.get("values"))
    most = int(given.get("run", 0)) * 2 + 1_000_000
    again = prove(model, tokenizer, circuit, task, most=most, scales=scales, split=values, tell=tell)
    faults = []
    for name in ("task", "form", "circuit", "model", "tokenizer", "norms", "language", "prompts", "right", "program_sha256"):
        if given.get(name) != again.certificate[name]:
            faults.append(f"{name} is {given.get(name)!r:.70} in the certificate, and {again.certificate[name]!r:.70} in truth")
    for name in ("loss", "smallest_margin"):
        if not _close(given.get(name), again.certificate[name]):
            faults.append(f"{name} is {given.get(name)!r:.70} in the certificate, and {again.certificate[name]!r:.70} in truth")
    program = folder / PROGRAM
    if not program.is_file() or program.read_text() != again.program:
        faults.append(f"{PROGRAM} is not the circuit's program")
    return faults


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * (1 + abs(other))
    return one == other


def summary(certificate: dict[str, Any]) -> list[str]:
    """A certificate in sentences."""
    c = certificate
    share = c["right"] / max(1, c["prompts"])
    kept = c["restricted"]
    whole = (
        "every prompt of the task's language"
        if kept["values"] == "all" and kept["templates"] == kept["of"]
        else (
            f"every prompt whose values are those of {kept['values']} pools, in {kept['templates']} of {kept['of']} templates, the shortest"
        )
    )
    pairs = c["test_pairs"]
    said = [
        f"{c['task']}: right on {c['right']:,} of {c['prompts']:,} prompts ({share:.4%}): {whole}. {c['run']:,} were run; the circuit cannot tell the others from them.",
        f"Mean pairwise loss {c['loss']:.4f} nats (chance 0.6931), smallest margin {c['smallest_margin']:.3f}.",
        f"On test pairs the loss is {pairs['compiled']['loss']:.3f} with norms as in the program ({c['norms']}), {pairs['pruned']['loss']:.3f} as it was pruned, "
        f"{pairs['model']['loss']:.3f} of the whole model.",
    ]
    wrong, right = c["model_on"]["circuit_wrong"], c["model_on"]["circuit_right"]
    if wrong["drawn"] and right["drawn"]:
        said.append(
            f"Where the circuit is wrong the whole model is wrong on {1 - wrong['model_right']:.1%} ({wrong['drawn']} prompts drawn), "
            f"elsewhere on {1 - right['model_right']:.1%} ({right['drawn']} drawn)."
        )
    elif right["drawn"]:
        said.append(
            f"The circuit is never wrong; the whole model is wrong on {1 - right['model_right']:.1%} of {right['drawn']} prompts drawn."
        )
    return said
