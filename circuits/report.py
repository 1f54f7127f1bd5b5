"""The report on a circuit: a table for the terminal, JSON, and a verdict that says what the evidence supports, never more."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._auto import renamed
from ..files import read_json, write_whole
from .identity import circuit_sha256
from .storage import REPORT

Rows = list[tuple[str, ...]]

# What counts as what, in one place.
ACCURATE = 0.9  # accuracy on prompts, and share of same answers, that count as doing the task and as agreeing
CRIPPLED = 0.5  # nats of task loss without the circuit, of a chance of 0.693 ...
RISES = 0.35  # ... which must be as many more than the model's own, half of chance
SPECIFIC = 2.0  # times the rise in loss that as many random nodes of the same sites cause on average; in narrow models those matter too
STABLE = 0.5  # mean Jaccard of edges over seeds


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Args:
        found: all numbers, as plain data; losses and KL in nats.
        supported: whether sufficiency, agreement and necessity all hold on unseen prompts.
        verdict: sentences.
    """

    found: dict[str, Any]
    supported: bool
    verdict: list[str]

    @classmethod
    def judged(cls, found: dict[str, Any]) -> Verification:
        sufficient, agrees, crippled, specific = _sufficient(found), _agrees(found), _crippled(found), _specific(found)
        necessary = crippled and specific
        said = [
            _sufficiency_said(found, sufficient), _agreement_said(found, agrees), _necessity_said(found, necessary),
            *_families_said(found), *_ablations_said(found), *_controls_said(found), *_stability_said(found),
        ]  # fmt: skip
        supported = sufficient and agrees and necessary
        head = {
            True: "Supported, on unseen prompts of the task's own wording: the circuit does the task, agrees with the model, and the model needs it.",
            False: "Not supported: "
            + ", ".join(
                text
                for holds, text in (
                    (sufficient, "the circuit does not do the task on unseen prompts"),
                    (agrees, "it does not agree with the unpruned model"),
                    (crippled, "the model can do without it"),
                    (specific or not crippled, "as many random nodes matter about as much"),
                )
                if not holds
            )
            + ".",
        }[supported]
        return cls(found, supported, [head, *said])

    def to_dict(self) -> dict[str, Any]:
        return {"supported": self.supported, "verdict": self.verdict, **self.found}

    def save(self, folder: str | Path) -> Path:
        """Writes report.json into a folder."""
        return write_whole(Path(folder) / REPORT, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Verification:
        """What `save` wrote.

        Raises:
            FileNotFoundError, ValueError: in one sentence.
        """
        path = Path(folder) / REPORT
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {REPORT}; csp verify writes it.")
        try:
            found = read_json(path, fix="run csp verify again")
            supported, verdict = found.pop("supported"), found.pop("verdict")
            report = cls(found, supported, verdict)
            str(report)  # all of it that is shown
            if (
                not isinstance(supported, bool)
                or not isinstance(verdict, list)
                or not all(isinstance(text, str) for text in verdict)
            ):
                raise TypeError("a verdict is text")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(
                f"{path} is no report ({str(error)[:80] or type(error).__name__}); run csp verify again."
            ) from None
        return report

    @classmethod
    def of(cls, folder: str | Path, circuit: Any) -> Verification | None:
        """The report in a circuit's folder; None if there is none, or it is about another circuit than the one there now."""
        if not (Path(folder) / REPORT).exists():
            return None
        report = cls.load(folder)
        return report if report.found.get("circuit_sha256") == circuit_sha256(circuit) else None

    def tables(self) -> Iterator[tuple[str, Rows]]:
        """(title, rows), the first row being the head."""
        found = self.found
        size = found["size"]
        yield "size", [("", "nodes", "edges"), ("circuit", f"{size['nodes']:,}", f"{size['edges']:,}"),
                       ("model", f"{size['model_nodes']:,}", f"{size['model_edges']:,}")]  # fmt: skip
        kinds = ("model", "circuit", "calibrated")
        rows: Rows = [("prompts", *(f"{kind}: loss (accuracy)" for kind in kinds))]
        for name, each in found["scores"].items():
            rows.append((name, *(f"{each[k]['loss']:.3f} ({each[k]['accuracy']:.2f})" if k in each else "" for k in kinds)))
        yield "task loss", rows
        for title in ("agreement", "necessity", "ablations", "interchange", "faithfulness", "stability"):
            values = {k: v for k, v in (found.get(title) or {}).items() if isinstance(v, (int, float, type(None)))}
            if values:
                yield title, [("", ""), *((name.replace("_", " "), _number(value)) for name, value in values.items())]
        if "controls" in found:
            rows = [("pruned the same way", "reached", "nodes", "edges", "loss", "KL to its model", "same answer")]
            rows += [
                (
                    name,
                    "yes" if c["reached"] else "no",
                    str(c["nodes"]),
                    str(c["edges"]),
                    f"{c['loss']:.3f}",
                    f"{c['kl']:.3f}",
                    f"{c['same_answer']:.2f}",
                )
                for name, c in found["controls"].items()
            ]
            yield "controls", rows

    def __str__(self) -> str:
        lines = [f"circuit for {self.found['task']}"]
        for title, rows in self.tables():
            widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
            lines += ["", title]
            lines += [
                "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows if any(row)
            ]
        lines += ["", *(f"left out: {text}" for text in self.found["left_out"]), "", *self.verdict]
        return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _sufficient(found: dict[str, Any]) -> bool:
    test = found["scores"]["test"]["circuit"]
    return test["accuracy"] >= ACCURATE and test["loss"] <= 2 * found["target_loss"]


def _agrees(found: dict[str, Any]) -> bool:
    agreement = found["agreement"]
    better = agreement["kl"] < agreement["kl_everything_ablated"] / 2
    return agreement["same_answer"] >= ACCURATE and agreement["kl"] <= 2 * found["target_loss"] and better


def _crippled(found: dict[str, Any]) -> bool:
    n = found["necessity"]
    return n["without_circuit"] >= CRIPPLED and n["without_circuit"] - n["model"] >= RISES


def _specific(found: dict[str, Any]) -> bool:
    n = found["necessity"]
    return n["without_circuit"] - n["model"] >= SPECIFIC * (n["without_random_nodes"] - n["model"])


def _sufficiency_said(found: dict[str, Any], holds: bool) -> str:
    test, full = found["scores"]["test"]["circuit"], found["scores"]["test"]["model"]
    return (
        f"Sufficiency {'holds' if holds else 'fails'}: on test prompts the circuit has loss {test['loss']:.3f} and accuracy "
        f"{test['accuracy']:.2f} (the model {full['loss']:.3f} and {full['accuracy']:.2f}; chance {math.log(2):.3f})."
    )


def _agreement_said(found: dict[str, Any], holds: bool) -> str:
    a = found["agreement"]
    return (
        f"Agreement {'holds' if holds else 'fails'}: KL from the unpruned model's answer probabilities is {a['kl']:.3f} nats "
        f"({a['kl_everything_ablated']:.3f} with everything ablated), the same answer on {a['same_answer']:.0%} of prompts."
    )


def _necessity_said(found: dict[str, Any], holds: bool) -> str:
    n = found["necessity"]
    return (
        f"Necessity {'holds' if holds else 'fails'}: without the circuit the model's loss is {n['without_circuit']:.3f}, without as many "
        f"random nodes {n['without_random_nodes']:.3f}; with everything ablated {n['everything_ablated']:.3f}."
    )


def _families_said(found: dict[str, Any]) -> list[str]:
    families = {name: each for name, each in found["scores"].items() if name not in ("validation", "test")}
    able = {name: each for name, each in families.items() if each["model"]["accuracy"] >= ACCURATE}
    lost = [name for name, each in able.items() if each["circuit"]["accuracy"] < ACCURATE]
    if not families:
        return []
    text = f"Paraphrases: the circuit does {len(able) - len(lost)} of the {len(able)} families that the model does"
    return [text + (f", not {', '.join(lost)}." if lost else ".")]


def _ablations_said(found: dict[str, Any]) -> list[str]:
    a = found["ablations"]
    bad = [name.replace("_", " ") for name in ("frozen_norms", "zero", "resample") if a.get(name, 0) > 2 * found["target_loss"]]
    if not bad:
        return []
    return [f"It rests on the way of ablation: with {', '.join(bad)} its loss is above twice the target."]


def _controls_said(found: dict[str, Any]) -> list[str]:
    controls = found.get("controls")
    if not controls:
        return ["No controls were run; low loss alone would also be found where there is nothing."]
    said = []
    reached = [name for name, c in controls.items() if c["reached"]]
    if "nonsense" in reached:
        ratio = controls["nonsense"]["edges"] / max(1, found["size"]["edges"])
        said.append(
            f"The same search also reached the target loss for the nonsense twin ({ratio:.1f} times the edges, KL {controls['nonsense']['kl']:.2f}), so "
            f"low loss is no evidence here."
        )
    if "constant" in controls and controls["constant"]["reached"] and controls["constant"]["same_answer"] >= ACCURATE:
        said.append("A circuit that always gives the same answer agrees with the model as well.")
    if "shuffled" in controls:
        word = "also reached it: size and loss say little" if "shuffled" in reached else "did not reach it"
        said.append(f"On the model with shuffled weights the search {word}.")
    return said


def _stability_said(found: dict[str, Any]) -> list[str]:
    s = found.get("stability")
    if not s:
        return []
    word = "stable" if s["jaccard_edges"] >= STABLE else "not stable: this circuit is one of several"
    return [
        f"Over {s['seeds']} seeds it is {word} (mean Jaccard of edges {s['jaccard_edges']:.2f}, of nodes {s['jaccard_nodes']:.2f})."
    ]


__getattr__ = renamed(__name__, {"Report": "Verification"})
