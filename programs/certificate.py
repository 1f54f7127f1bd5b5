"""What a certificate says: counts by template, the worst prompts, and what the whole model does on them; and the same in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..circuits.circuit import Circuit
from ..circuits.identity import circuit_sha256, tokenizer_sha256, weights_sha256
from ..circuits.outcome import last_logits, losses
from ..circuits.scoring import score
from ..circuits.sites import evaluating, norms
from ..circuits.tasks import Pairs, Task, padded
from .certify import WORST, Tally
from .language import count, place
from .parts import Parts
from .tokens import TokenTemplate

FORMAT, VERSION = "sparse_circuits.certificate", 1


def held_scales(model: Any, scales: Sequence[float]) -> dict[Any, torch.Tensor]:
    """Scales of all norms but the first, which embeddings alone decide, as `Circuit.running` takes them: float32, of a float64 model float64."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    return {norm: torch.full((1, 1, 1), scale, dtype=dtype) for norm, scale in list(zip(norms(model), scales))[1:]}


class Certificate:
    """Makes the document of what was found."""

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
            "one_answer": one_answer(tallies), "loss": sum(each.loss * each.count for each in tallies) / max(1, total), "smallest_margin": worst[0][0] if worst else None,
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
        return False if self.scales is None else held_scales(self.model, self.scales)

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


def one_answer(tallies: Sequence[Tally]) -> int:
    """On how many of the prompts whatever always says the same answer is right, at best."""
    found: dict[int, float] = {}
    for tally in tallies:
        answer = tally.template.right
        if answer.slot is None:
            shares = {answer.token: 1.0}
        else:
            texts = tally.by_text.get(answer.slot) or dict.fromkeys(range(len(answer.by_text)), (0, 1))
            total, shares = sum(there for _, there in texts.values()), {}
            for text, (_, there) in texts.items():
                shares[answer.by_text[text]] = shares.get(answer.by_text[text], 0.0) + there / max(1, total)
        for token, share in shares.items():
            found[token] = found.get(token, 0.0) + share * tally.count
    return round(max(found.values(), default=0.0))


def _shown(text: str) -> str:
    """A text with slots as {0}, {1}, ..., and {0:capital}."""
    told = []
    for character in text:
        at = place(character)
        told.append(
            {"{": "{{", "}": "}}"}.get(character, character) if at is None else f"{{{at[0]}{':capital' if at[1] else ''}}}"
        )
    return "".join(told)


def _same_group(slots: Sequence[Any], i: int) -> list[int]:
    return [j for j, other in enumerate(slots) if j != i and other.group == slots[i].group]


def summary(certificate: dict[str, Any]) -> list[str]:
    """A certificate in sentences."""
    c = certificate
    share = c["right"] / max(1, c["prompts"])
    kept = c["restricted"]
    whole = "every prompt of the task's language"
    if "texts" in kept:
        whole = f"every prompt with the first {kept['texts']} of the {kept['values']} pool's values at each place (or as many as must differ), in all {kept['of']} templates"
    elif kept["values"] != "all" or kept["templates"] != kept["of"]:
        whole = f"every prompt whose values are those of {kept['values']} pools, in {kept['templates']} of {kept['of']} templates, the shortest"
    pairs = c["test_pairs"]
    said = [
        f"{c['task']}: right on {c['right']:,} of {c['prompts']:,} prompts ({share:.4%}), where one answer always would be on {c['one_answer'] / max(1, c['prompts']):.1%}: {whole}. {c['run']:,} were run; the circuit cannot tell the others from them.",
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
    if "simple" in c:
        said.append(_simply(c["simple"]))
    return said + [_told(each) for each in c.get("lengths", [])]


def _simply(found: dict[str, Any]) -> str:
    if "not_told" in found:
        return f"Not simplified: {found['not_told']}"
    return (
        f"Simplified to {found['lines']} lines at a loss of {found['loss']:.3f}, right on {found['right']:,} of {found['prompts']:,}: "
        + ", ".join(
            f"{each['kind']} {each['done']} of {each['of']} ({each['loss']:.3f})" for each in found["steps"][1:] if each["of"]
        )
        + "."
    )


def story(certificate: dict[str, Any], simple: str) -> str:
    """`program.md`: the certificate in sentences, and the simplified program."""
    lines = [f"# {certificate['task']}", "", *summary(certificate), "", "```python", simple.rstrip(), "```", ""]
    return "\n".join(lines)


def headline(certificate: dict[str, Any]) -> str:
    """In a few words: "99.98% of 145,350 prompts (test words, 4 of 8 templates, one answer always: 50%)".

    Raises:
        ValueError: if it is damaged.
    """
    try:
        prompts, right, kept = int(certificate["prompts"]), int(certificate["right"]), certificate["restricted"]
        said = [] if kept["values"] == "all" else [f"{str(kept['values'])[:20]} words"]
        said += [f"{int(kept['texts'])} a place"] if "texts" in kept else []
        said += [] if kept["templates"] == kept["of"] else [f"{int(kept['templates'])} of {int(kept['of'])} templates"]
        said.append(f"one answer always: {int(certificate['one_answer']) / max(1, prompts):.0%}")
        return f"{share(right, prompts)} of {prompts:,} prompts ({', '.join(said)})"
    except (KeyError, TypeError, ValueError):
        raise ValueError("A certificate is damaged; write it again with csp prove.") from None


def share(right: int, prompts: int) -> str:
    """How many of all are right, in percent, with two decimals or as many as tell it from 100: "99.9997%"."""
    places = next(n for n in range(2, 20) if right == prompts or round(100 * right / max(1, prompts), n) < 100)
    return f"{right / max(1, prompts):.{places}%}"


def _told(found: dict[str, Any]) -> str:
    """What is known of any number of repetitions."""
    what = f"With {found['repeated']!r} any number of times more between {found['before'][-30:]!r} and {found['after'][:30]!r}, whatever the words are:"
    if "not_known" in found:
        return f"{what} not known. {found['not_known']}"
    kinds = {"right": [], "wrong": [], "not decided": []}  # type: dict[str, list[str]]
    for low, high, least, most in found["margins"]:
        kind = "right" if least > 0 else "wrong" if most <= 0 else "not decided"
        kinds[kind].append(str(low) if low == high else f"{low} and more" if high is None else f"{low} to {high}")
    return f"{what} " + "; ".join(f"{kind} at {', '.join(those)}" for kind, those in kinds.items() if those) + "."
