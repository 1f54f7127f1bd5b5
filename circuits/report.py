"""The report on a circuit: tables for the terminal, JSON, and a verdict in levels, each with its figures."""

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
VERSION = 2  # of report.json; 1 had one word for all
FIGURES = {
    "loss": "pairwise loss, nats", "preference": "prefers the right answer", "first_guess": "right answer is the first guess", "probability": "its probability",
    "rank": "its rank, median", "on_answers": "probability of the two answers", "kl": "KL from the model, nats", "same_guess": "the model's first guess",
    "same_preference": "the model's preference",
}  # fmt: skip

# What counts as what, in one place.
PREFERS = 0.9  # share of test prompts on which the right answer is preferred to the other
PRODUCES = 0.8  # ... and on which it is the first guess
SAYS = 0.5  # share on which it is the model's own first guess: a circuit that says what its model does not say is none of its circuits
CLEARLY = 0.2  # ... and this much more than with everything ablated
AGREES = 0.5  # KL to the model over the vocabulary, as a share of what it is with everything ablated
ABLE = 2.0  # times the target loss that still counts as doing the task, on prompts and under ablations that decided nothing
CRIPPLED = 0.5  # nats of pairwise loss without the circuit, of a chance of 0.693 ...
RISES = 0.35  # ... which must be as many more than the model's own, half of chance
SPECIFIC = 2.0  # times the rise in loss that as many random nodes, or edges, that are as active cause on average
STABLE = 0.5  # mean Jaccard of edges over seeds

# The levels of a verdict, from the least to the most. Each stands on figures of its own; mechanism, robust and only one include prefers.
LEVELS = {
    "prefers": "prefers the right one of the two answers",
    "produces": "gives the right answer as its first guess",
    "agrees": "is close to the whole model over the whole vocabulary",
    "mechanism": "survives resampling and frozen norms, and the model needs its edges",
    "robust": "survives the worst that was found for what is outside of it",
    "only one": "no other circuit without its heads' channels and neurons does the task",
}


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Args:
        found: all numbers, as plain data; losses and KL in nats.
        levels: level (`LEVELS`) -> whether it is reached, None where it was not measured.
        verdict: sentences, one for each level, then for what is beside them.
    """

    found: dict[str, Any]
    levels: dict[str, bool | None]
    verdict: list[str]

    @classmethod
    def judged(cls, found: dict[str, Any]) -> Verification:
        judged = {
            "prefers": _prefers(found), "produces": _produces(found), "agrees": _agrees(found), "mechanism": _mechanism(found),
            "robust": _robust(found), "only one": _only_one(found),
        }  # fmt: skip
        levels = {name: holds for name, (holds, _) in judged.items()}
        said = [f"{name}: {_word(holds)}; {text}" for name, (holds, text) in judged.items()]
        beside = [*_families_said(found), *_cross_said(found), *_controls_said(found), *_stability_said(found)]
        return cls(found, levels, [*said, *beside])

    @property
    def headline(self) -> str:
        """The levels that are reached, in a few words: "prefers, mechanism"; "none"."""
        return ", ".join(name for name, holds in self.levels.items() if holds) or "none"

    def to_dict(self) -> dict[str, Any]:
        return {"version": VERSION, "levels": self.levels, "verdict": self.verdict, **self.found}

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
            version, levels, verdict = found.pop("version", None), found.pop("levels", None), found.pop("verdict")
            if version != VERSION:
                raise TypeError("it is of another version of this package")
            report = cls(found, levels, verdict)
            str(report)  # all of it that is shown
            if not isinstance(levels, dict) or list(levels) != list(LEVELS) or not set(levels.values()) <= {True, False, None}:
                raise TypeError("its levels are not those of a verdict")
            if not isinstance(verdict, list) or not all(isinstance(text, str) for text in verdict):
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
                       ("  of them on a path to an answer", "", f"{size['edges_on_path']:,}"),
                       ("  all edges between its nodes", "", f"{size['edges_between_nodes']:,}"),
                       ("model", f"{size['model_nodes']:,}", f"{size['model_edges']:,}")]  # fmt: skip
        for name, each in found["scores"].items():
            kinds = [kind for kind in ("model", "circuit", "nothing", "calibrated") if kind in each]
            figures = list(dict.fromkeys(key for kind in kinds for key in each[kind] if key not in ("count", "intervals")))
            rows: Rows = [
                (f"{each['model']['count']} prompts", *("everything ablated" if kind == "nothing" else kind for kind in kinds))
            ]
            rows += [(FIGURES.get(key, key), *(_with_interval(each[kind], key) for kind in kinds)) for key in figures]
            yield f"scores, {name}", rows
        for title in ("agreement", "necessity", "ablations", "interchange", "faithfulness", "redundancy", "stability"):
            values = {k: v for k, v in (found.get(title) or {}).items() if isinstance(v, (int, float, type(None)))}
            if values:
                yield title, [("", ""), *((name.replace("_", " "), _number(value)) for name, value in values.items())]
        if "cross_tasks" in found:
            rows = [("other tasks: pairwise loss", "the model", "without this circuit")]
            yield (
                "cross tasks",
                rows
                + [
                    (name, f"{each['model']:.3f}", f"{each['without_circuit']:.3f}")
                    for name, each in found["cross_tasks"].items()
                ],
            )
        if "controls" in found:
            rows = [("pruned the same way", "reached", "nodes", "edges", "loss", "first guess", "KL", "same guess")]
            rows += [
                (
                    name, "yes" if c["reached"] else "no", str(c["nodes"]), str(c["edges"]), f"{c['scores']['circuit']['loss']:.3f}",
                    f"{c['scores']['circuit']['first_guess']:.2f}", f"{c['agreement']['kl']:.3f}", f"{c['agreement']['same_guess']:.2f}",
                )
                for name, c in found["controls"].items()
            ]  # fmt: skip
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


def _number(value: Any) -> str:
    if value is None:
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _with_interval(each: dict[str, Any], key: str) -> str:
    if key not in each:
        return ""
    interval = each.get("intervals", {}).get(key)
    return _number(float(each[key])) + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _word(holds: bool | None) -> str:
    return {True: "yes", False: "no", None: "not measured"}[holds]


Judged = tuple["bool | None", str]


def _test(found: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    scores = found["scores"]["test"]
    return scores["model"], scores["circuit"], scores["nothing"]


def _prefers(found: dict[str, Any]) -> Judged:
    model, own, nothing = _test(found)
    holds = own["preference"] >= PREFERS and own["loss"] <= ABLE * found["target_loss"] and nothing["preference"] < PREFERS
    return holds, (
        f"on test prompts it prefers the right one of the two answers on {own['preference']:.0%} (the model {model['preference']:.0%}, everything ablated "
        f"{nothing['preference']:.0%}), pairwise loss {own['loss']:.3f} ({model['loss']:.3f}, {nothing['loss']:.3f}; chance {math.log(2):.3f})."
    )


def _produces(found: dict[str, Any]) -> Judged:
    model, own, nothing = _test(found)
    holds = own["first_guess"] >= max(PRODUCES, nothing["first_guess"] + CLEARLY) and model["first_guess"] >= SAYS
    return holds, (
        f"the right answer is its first guess on {own['first_guess']:.0%} (the model {model['first_guess']:.0%}, everything ablated "
        f"{nothing['first_guess']:.0%}), with probability {own['probability']:.2f} ({model['probability']:.2f}, {nothing['probability']:.2f})."
    )


def _agrees(found: dict[str, Any]) -> Judged:
    a = found["agreement"]
    holds = a["kl"] <= AGREES * a["kl_everything_ablated"] and a["same_guess"] >= PRODUCES
    related = "none, as it does not vary" if a["correlation"] is None else f"{a['correlation']:.2f}"
    return holds, (
        f"KL from the model over the whole vocabulary is {a['kl']:.2f} nats (everything ablated {a['kl_everything_ablated']:.2f}), the same first guess on "
        f"{a['same_guess']:.0%} ({a['same_guess_everything_ablated']:.0%}), correlation of logit differences within classes {related}."
    )


def _mechanism(found: dict[str, Any]) -> Judged:
    prefers, a, n = _prefers(found)[0], found["ablations"], found["necessity"]
    ways = ("frozen_norms", "resample_prompt", "resample_position")
    if not all(way in a for way in ways):
        return None, "no corpus was given to resample from."
    survives = all(a[way] <= ABLE * found["target_loss"] for way in ways)
    needed = _needed(n["without_edges"], n["without_random_edges"], n["model"])
    return bool(prefers and survives and needed), (
        f"pairwise loss under frozen norms {a['frozen_norms']:.3f}, with a random token's activations outside of it for a prompt {a['resample_prompt']:.3f}, "
        f"for each position {a['resample_position']:.3f}; the model without its edges {n['without_edges']:.3f}, without as many random ones "
        f"{n['without_random_edges']:.3f} (without its nodes {n['without_circuit']:.3f}, random ones as active {n['without_random_nodes']:.3f}; "
        f"the whole model {n['model']:.3f})."
    )


def _needed(without: float, random: float, model: float) -> bool:
    return without >= CRIPPLED and without - model >= RISES and without - model >= SPECIFIC * (random - model)


def _robust(found: dict[str, Any]) -> Judged:
    worst = found["ablations"].get("worst_case")
    if worst is None:
        return None, "no corpus was given, whose ranges bound what is outside."
    holds = _prefers(found)[0] and worst <= ABLE * found["target_loss"]
    return bool(
        holds
    ), f"pairwise loss {worst:.3f} with the worst values outside of it that gradient ascent found within what a corpus shows."


def _only_one(found: dict[str, Any]) -> Judged:
    r = found.get("redundancy")
    if r is None:
        return None, "not asked for."
    if not r["exhausted"]:
        return False, f"{r['disjoint']} circuits were found that share no query, key, value or neuron, and there may be more."
    if r["disjoint"] > 1:
        return (
            False,
            f"{r['disjoint']} circuits do the task that share no query, key, value or neuron, with {', '.join(map(str, r['edges']))} edges.",
        )
    return bool(
        _prefers(found)[0]
    ), "without its queries, keys, values and neurons the same search finds nothing that reaches the target."


def _cross_said(found: dict[str, Any]) -> list[str]:
    others = found.get("cross_tasks")
    if not others:
        return []
    hurt = [name for name, each in others.items() if each["without_circuit"] - each["model"] >= RISES]
    text = f"Of {len(others)} other tasks that the model does, {len(hurt)} lose {RISES:g} nats or more when this circuit's nodes are held at their means"
    return [text + (f": {', '.join(hurt)}." if hurt else ".")]


def _families_said(found: dict[str, Any]) -> list[str]:
    families = {name: each for name, each in found["scores"].items() if name not in ("validation", "test")}
    able = {name: each for name, each in families.items() if each["model"]["preference"] >= PREFERS}
    lost = [name for name, each in able.items() if each["circuit"]["preference"] < PREFERS]
    if not families:
        return []
    text = f"Paraphrases: the circuit prefers the right answer in {len(able) - len(lost)} of the {len(able)} families in which the model does"
    return [text + (f", not {', '.join(lost)}." if lost else ".")]


def _controls_said(found: dict[str, Any]) -> list[str]:
    controls = found.get("controls")
    if not controls:
        return ["No controls were run; low loss alone would also be found where there is nothing."]
    said = []
    for name, title in (("nonsense", "the answers exchanged"), ("shuffled", "shuffled weights")):
        if name not in controls:
            continue
        reached = _levels_of_control(found, controls[name])
        word = "reaches the target loss" if controls[name]["reached"] else "does not reach the target loss"
        text = f"With {title} the same search {word}, with {controls[name]['edges']} edges"
        said.append(
            text
            + (
                f"; that circuit {' and '.join(reached)}."
                if reached
                else "; that circuit neither produces the answer nor is a mechanism."
            )
        )
    if (
        "constant" in controls
        and controls["constant"]["reached"]
        and controls["constant"]["agreement"]["same_guess"] >= PRODUCES
    ):
        said.append("A circuit that always gives the same answer has the model's first guess as often.")
    return said


def _levels_of_control(found: dict[str, Any], control: dict[str, Any]) -> list[str]:
    there = {
        "target_loss": found["target_loss"],
        "scores": {"test": control["scores"]},
        **{k: control[k] for k in ("agreement", "necessity", "ablations")},
    }
    return [
        word
        for word, (holds, _) in (("produces its answers", _produces(there)), ("is a mechanism", _mechanism(there)))
        if holds
    ]


def _stability_said(found: dict[str, Any]) -> list[str]:
    s = found.get("stability")
    if not s:
        return []
    word = "stable" if s["jaccard_edges"] >= STABLE else "not stable: this circuit is one of several"
    return [
        f"Over {s['seeds']} seeds it is {word} (mean Jaccard of edges {s['jaccard_edges']:.2f}, of nodes {s['jaccard_nodes']:.2f})."
    ]


__getattr__ = renamed(__name__, {"Report": "Verification"})
