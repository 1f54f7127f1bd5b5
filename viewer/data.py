"""What the page shows of a circuit, as plain data (viewer/contract.json)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..bridges.pair import BridgedPair
from ..bridges.steering import Steering
from ..circuits.ablation import Scales, ablated, recorded_scales
from ..circuits.circuit import Circuit
from ..circuits.edges import edges_in, removed_edges, within
from ..circuits.identity import refuse_other_model
from ..circuits.masks import opened
from ..circuits.narrow import Narrow, can_narrow
from ..circuits.prefix import Prefix, signatures
from ..circuits.reading import observed, read_weights
from ..circuits.report import Verification
from ..circuits.scoring import answer_logits, losses
from ..circuits.sites import dense, evaluating
from ..circuits.tasks import Pairs, Task
from ..programs.certificate import headline
from ..programs.prove import certificate_of, simpler, worst
from ..wiring_csp import FINAL, by_head, reads_residual
from .contexts import Contexts, find_contexts
from .contract import VERSION, check
from .steering import node_steering
from .weights import nonzero_count, pack_model, pack_tokenizer

logger = logging.get_logger(__name__)

EFFECT_PAIRS = 16  # the effect of a node is a mean over as many held-out pairs
REFERENCE = 50  # blocks over which the scales of the two streams are taken
PROMPT_PAIRS = 4  # shown, with activations
PATTERN_CELLS = 250_000  # attention is shown for as many pairs as fit, at least one
MAX_TOKENS, MAX_ANSWERS = 16, 12  # in the first and last row of the graph
LARGEST_MODEL, LONGEST_PROMPT = 24_000_000, 256  # characters of a model in a page; tokens of a prompt that it runs
MOST_NONZEROS = 12_000_000  # of a model that is tried: at a byte and a half each it would be too large
WEIGHTS, VOCABULARY = 12, 8  # weights and tokens listed for a node


@dataclasses.dataclass(frozen=True)
class Subject:
    """A circuit with what is needed to show it.

    Args:
        circuit, model, tokenizer: that belong together.
        task: whose prompts are shown; None (its file is not at hand): none are, and nodes have no effect.
        blocks: token ids [n, tokens] of a corpus, for contexts; None: there are none.
        report: of `verify`, if there is one.
        contexts: at each end of every node; 0: none.
        certified: what `csp prove` counted, in words. program, simpler: its simplified program, and what was counted of that. worst: the prompts on which it is worst.
        norms: what its norms are there, "own" or "mean".
        pair: whose sparse model the model is: nodes that read the residual stream show what they mean for the dense model. Needs task and blocks.
    """

    circuit: Circuit
    model: Any
    tokenizer: Any
    task: Task | None = None
    blocks: torch.Tensor | None = None
    report: Verification | None = None
    contexts: int = 5
    pair: BridgedPair | None = None
    certified: str = ""
    program: str = ""
    simpler: str = ""
    worst: Sequence[dict[str, Any]] = ()
    norms: str = ""

    @classmethod
    def of(
        cls, folder: str | Path, model: Any, tokenizer: Any, blocks: torch.Tensor | None = None, *, task: str | Path | None = None, **more: Any
    ) -> Subject:  # fmt: skip
        """The circuit in a folder, with its task (built in, or that of a file) and its report, if it has been verified."""
        circuit = Circuit.from_pretrained(folder)
        proved = certificate_of(folder, circuit)
        program, counted = simpler(proved, folder)
        return cls(
            circuit, model, tokenizer, circuit.find_task(tokenizer, task), blocks, Verification.of(folder, circuit),
            certified=headline(proved) if proved else "", program=program, simpler=counted, worst=worst(proved), norms=str(proved.get("norms") or ""), **more,
        )  # fmt: skip


def page_data(
    subjects: Sequence[Subject], live: bool = False, runs: bool = False, made: Mapping[int, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Data of a page with these circuits, checked against the contract.

    Args:
        runs: with their models, as far as they are small enough. made: `circuit_data` of subjects by their id, where it is at hand.
    """
    if not subjects:
        raise ValueError("A page needs at least one circuit.")
    models, places = _models(subjects) if runs else ([], {})
    made = made or {}
    circuits = [
        {**(made.get(id(subject)) or circuit_data(subject)), "runtime": _runtime(subject, places.get(id(subject.model)))}
        for subject in subjects
    ]
    page = {"version": VERSION, "live": live, "circuits": circuits, "models": models}
    check(page)
    return page


def _models(subjects: Sequence[Subject]) -> tuple[list[str], dict[int, int]]:
    """Models that fit a page, each once, as text, and their places by id. Those that are too large, or have a tokenizer that the page cannot have, are
    left out with a warning."""
    models: list[str] = []
    places: dict[int, int] = {}
    left_out = "The page does not run {}: {}. With the model behind it: csp view --serve."
    for subject in {id(each.model): each for each in subjects}.values():
        name = str(subject.circuit.model.get("id") or "the model")
        tokenizer = pack_tokenizer(subject.tokenizer)
        if tokenizer is None:
            logger.warning(left_out.format(name, "its tokenizer is no byte-level BPE with a pattern of its own"))
            continue
        count = nonzero_count(subject.model)
        if count > MOST_NONZEROS:
            logger.warning(
                left_out.format(
                    name, f"it has {count / 1e6:.0f} million nonzeros, and a page may have {MOST_NONZEROS / 1e6:.0f}"
                )
            )
            continue
        packed = pack_model(subject.model)
        if len(packed["data"]) > LARGEST_MODEL:
            logger.warning(
                left_out.format(
                    name, f"packed it has {len(packed['data']) / 1e6:.1f} MB, and a page may have {LARGEST_MODEL / 1e6:.0f}"
                )
            )
            continue
        places[id(subject.model)] = len(models)
        longest = min(LONGEST_PROMPT, int(subject.model.config.block_size))
        weights = {name: packed[name] for name in ("tensors", "data", "sha256")}
        models.append(json.dumps({"config": packed["config"], "weights": weights, "tokenizer": tokenizer, "longest": longest}))
    return models, places


def _runtime(subject: Subject, place: int | None) -> str | None:
    """What the page needs to run the circuit on its model; None where it has no model."""
    if place is None:
        return None
    circuit = subject.circuit
    cut = {} if circuit.edges is None else removed_edges(subject.model, circuit.nodes, circuit.edges)
    return json.dumps({
        "model": place, "frozen": bool(circuit.settings.get("freeze_norms")), "means": {name: _named(mean) for name, mean in circuit.means.items()},
        "cut": {name: list(zip(s.tolist(), t.tolist(), _named(w))) for name, (s, t, w) in cut.items()},
    }, separators=(",", ":"))  # fmt: skip


def circuit_data(subject: Subject) -> dict[str, Any]:
    """One circuit of a page, without what runs it.

    Raises:
        ValueError: if the circuit, or the pair, is of another model.
    """
    refuse_other_model(subject.circuit, subject.model)
    if subject.pair is not None and subject.pair.sparse.model is not subject.model:
        raise ValueError("The model of a page with a bridged pair must be the pair's sparse one (pair.sparse.model).")
    with evaluating(subject.model), torch.no_grad():
        return _Builder(subject).data()


def shown_pairs(subject: Subject, count: int = PROMPT_PAIRS) -> Pairs | None:
    """Held-out pairs of the subject's task; None without a task."""
    return None if subject.task is None else subject.task.pairs(count, "validation", seed=0, fewer=True)


class _Builder:
    def __init__(self, subject: Subject):
        self.subject = subject
        self.circuit, self.model, self.tokenizer = subject.circuit, subject.model, subject.tokenizer
        self.pairs = shown_pairs(subject)
        self.used: set[int] = set()
        self.nodes = [(site, int(i)) for site, indices in self.circuit.nodes.items() for i in indices]

    def data(self) -> dict[str, Any]:
        circuit = self.circuit
        prompts, runs = self._prompts()
        contexts = self._contexts()
        effects, means = self._effects(), self._means()
        steered, self.unsteered = self._steering()
        embedding, unembedding = dense(self.model.transformer.wte.weight), dense(self.model.lm_head.weight)
        nodes = []
        for site, i in self.nodes:
            name = f"{site}:{i}"
            largest, smallest, active = contexts.of(site, i) if contexts else ([], [], None)
            reads, writes = (
                [{**each, "weight": _short(each["weight"])} for each in side]
                for side in read_weights(self.model, site, i, WEIGHTS)
            )
            nodes.append({
                "id": name, "site": site, "index": i, "head": self._head(site, i), "label": circuit.labels.get(name, ""),
                "group": circuit.groups.get(name, ""), "effect": effects.get(name), "mean": means.get(name), "active": active,
                "reads": reads, "writes": writes, "largest": largest, "smallest": smallest,
                "embedding": self._vocabulary(embedding, site, i, reads_residual(site)),
                "unembedding": self._vocabulary(unembedding, site, i, site == FINAL), "steering": steered.get(name),
                "model": [_rounded(full[site][:, i]) for full, _ in runs], "circuit": [_rounded(own[site][:, i]) for _, own in runs],
            })  # fmt: skip
            self.used.update(t for c in largest + smallest for t in c["tokens"])
        links = self._links() + self._ends(prompts, embedding, unembedding)
        return {
            "task": circuit.task, "description": self.subject.task.description if self.subject.task else "",
            "model": str(circuit.model.get("id") or ""), "weights": str(circuit.model.get("weights") or ""),
            "tokens": {str(t): self.tokenizer.decode([t]) for t in sorted(self.used)}, "stages": self._stages(),
            "nodes": nodes, "links": links, "prompts": prompts, "attention": self._attention(runs),
            "curve": _numbers(circuit.metrics.get("curve")), "history": _numbers(circuit.metrics.get("history")),
            "facts": self._facts(), "report": _report(self.subject.report), "certified": self.subject.certified,
            "program": self.subject.program, "simpler": self.subject.simpler, "worst": list(self.subject.worst), "norms": self.subject.norms, "runtime": None,
        }  # fmt: skip

    def _prompts(self) -> tuple[list[dict[str, Any]], list[Any]]:
        """Prompts with the share of the right answer between the two, and what the model and the circuit do on each."""
        found, runs = [], []
        for row in range(len(self.pairs.texts) if self.pairs else 0):
            ids = self.pairs.input_ids[row][self.pairs.attention_mask[row].bool()]  # type: ignore[union-attr]
            answer, other = self.pairs.answers[row].tolist()  # type: ignore[union-attr]
            full, own = observed(self.model, ids[None]), observed(self.model, ids[None], self.circuit)
            share = [float(torch.sigmoid(logits[answer].double() - logits[other].double())) for _, _, logits in (full, own)]
            found.append({"tokens": ids.tolist(), "answer": answer, "other": other, "model": share[0], "circuit": share[1]})
            runs.append((full, own))
            self.used.update([*ids.tolist(), answer, other])
        heads = len(
            {(site.partition(".")[0], self._head(site, i)) for site, i in self.nodes if self._head(site, i) is not None}
        )
        kept, cells = 0, 0
        for prompt in found:
            cells += heads * len(prompt["tokens"]) ** 2  # half of a square each, in the model and in the circuit
            kept += cells <= PATTERN_CELLS
        self.patterns = [(full[1], own[1]) for full, own in runs[: max(kept - kept % 2, 2)]]
        return found, [(full[0], own[0]) for full, own in runs]

    def _contexts(self) -> Contexts | None:
        if self.subject.blocks is None or not len(self.subject.blocks) or not self.subject.contexts:
            return None
        return find_contexts(self.model, self.circuit.nodes, self.subject.blocks, self.subject.contexts)

    def _means(self) -> dict[str, float]:
        return {f"{site}:{i}": float(self.circuit.means[site][i]) for site, i in self.nodes}

    def _effects(self) -> dict[str, float]:
        """Node -> how much the circuit's loss rises, in nats, when it is closed too."""
        pairs = shown_pairs(self.subject, EFFECT_PAIRS)
        if pairs is None:
            return {}

        def loss() -> float:
            return float(losses(answer_logits(self.model, pairs).double()).mean())

        circuit, found = self.circuit, {}
        removed = None if circuit.edges is None else removed_edges(self.model, circuit.nodes, circuit.edges)
        freeze: bool | Scales = False
        if circuit.settings.get("freeze_norms"):
            with recorded_scales(self.model) as freeze:  # of all pairs, which are one batch
                loss()
        prefix, answers = Prefix(self.model), pairs.answers.unique()
        narrow = Narrow(self.model, circuit.fills) if can_narrow(self.model, circuit.fills) else None

        def of(nodes: Mapping[str, torch.Tensor]) -> float:
            changes = opened(nodes, circuit.fills)
            cut = None if removed is None else within(removed, nodes)
            lean = nullcontext() if narrow is None else narrow.running(nodes, answers, cut, circuit.means)
            held = ablated(self.model, changes, removed=None if narrow else cut, means=circuit.means, freeze_norms=freeze)
            with held, lean, prefix.running(signatures(self.model, nodes, None)):
                return loss()

        base = of(circuit.nodes)
        prefix.keep()
        for site, i in self.nodes:
            found[f"{site}:{i}"] = (
                of({name: each[each != i] if name == site else each for name, each in circuit.nodes.items()}) - base
            )
        return found

    def _steering(self) -> tuple[dict[str, dict[str, Any]], str]:
        """What each node means to the dense model, and what of it is not shown, and why."""
        subject = self.subject
        if subject.pair is None:
            return {}, ""
        if subject.blocks is None or not len(subject.blocks) or (pairs := shown_pairs(subject, EFFECT_PAIRS)) is None:
            return {}, "not shown: it takes the task's prompts, and text"
        try:
            steering = Steering(subject.pair, pairs, subject.blocks[:REFERENCE])
        except ValueError as error:
            return {}, f"not shown: {error}"
        found = node_steering(steering, [f"{site}:{i}" for site, i in self.nodes])
        self.used.update(int(each["token"]) for node in found.values() for each in node["raised"])
        if not found:
            return {}, "not shown: no read of the circuit differs between prompts and counterfactuals"
        shown = f"on {len(steering.prompts)} of {len(pairs)} pairs; in the others the prompts have different lengths"
        return found, shown if steering.left_out else ""

    def _head(self, site: str, index: int) -> int | None:
        return index // self.model.config.d_head if by_head(site) else None

    def _vocabulary(self, matrix: torch.Tensor, site: str, index: int, applies: bool) -> list[dict[str, Any]]:
        """Tokens with the largest weights of a residual channel in the (un)embedding."""
        if not applies or index >= matrix.shape[1]:
            return []
        column = matrix[:, index].float().cpu()
        top = column.abs().topk(min(VOCABULARY, len(column))).indices
        found = [{"token": int(t), "weight": _short(column[t])} for t in top if column[t] != 0]
        self.used.update(int(each["token"]) for each in found)
        return found

    def _stages(self) -> list[dict[str, Any]]:
        last = {"name": "answers", "kind": "tokens", "layer": None}
        sites = [
            {
                "name": site,
                "kind": site.partition(".")[2] or site,
                "layer": None if site == FINAL else int(site.partition(".")[0]),
            }
            for site in self.circuit.widths
        ]
        return [{"name": "tokens", "kind": "tokens", "layer": None}, *sites, last]

    def _links(self) -> list[dict[str, Any]]:
        counted = self.circuit.edges if self.circuit.edges is not None else edges_in(self.model, self.circuit.nodes)
        found = []
        for name, edges in counted.items():
            source, target = name.split("->")
            for s, t, weight in zip(*(part.tolist() for part in edges)):
                found.append({"source": f"{source}:{s}", "target": f"{target}:{t}", "weight": _short(weight), "kind": "weight"})
        return found

    def _ends(self, prompts: list[dict[str, Any]], embedding: torch.Tensor, unembedding: torch.Tensor) -> list[dict[str, Any]]:
        """Links from the prompts' tokens to the channels that they are read from, and from the last channels to the answers."""
        tokens = sorted({t for prompt in prompts for t in prompt["tokens"]})
        answers = list(dict.fromkeys(t for prompt in prompts for t in (prompt["answer"], prompt["other"])))[:MAX_ANSWERS]
        first, strength = [], dict.fromkeys(tokens, 0.0)
        channels = sorted({i for site, i in self.nodes if reads_residual(site) and i < embedding.shape[1]})
        readers = {i: next(s for s, j in self.nodes if j == i and reads_residual(s)) for i in channels}
        for i in channels:
            for t in tokens:
                weight = float(embedding[t, i])
                if weight:
                    first.append(
                        {"source": f"token:{t}", "target": f"{readers[i]}:{i}", "weight": _short(weight), "kind": "embedding"}
                    )
                    strength[t] += abs(weight)
        telling = _differing(prompts)
        shown = {f"token:{t}" for t in sorted(tokens, key=lambda t: (t not in telling, -strength[t], t))[:MAX_TOKENS]}
        last = [
            {"source": f"{FINAL}:{i}", "target": f"answer:{t}", "weight": _short(unembedding[t, i]), "kind": "unembedding"}
            for site, i in self.nodes if site == FINAL for t in answers if float(unembedding[t, i])
        ]  # fmt: skip
        return [link for link in first if link["source"] in shown] + last

    def _attention(self, runs: list[Any]) -> list[dict[str, Any]]:
        """Patterns in percent, rows without what lies in the future, for every head with a node of the circuit."""
        heads = sorted(
            {(int(site.partition(".")[0]), self._head(site, i)) for site, i in self.nodes if self._head(site, i) is not None}
        )
        return [
            {"layer": layer, "head": head, "prompt": p, "model": _percent(full[layer][head]), "circuit": _percent(own[layer][head])}
            for layer, head in heads for p, (full, own) in enumerate(self.patterns)
        ]  # fmt: skip

    def _facts(self) -> list[list[str]]:
        circuit, metrics = self.circuit, self.circuit.metrics
        facts = [["nodes", f"{circuit.num_nodes:,}"]]
        if circuit.num_edges is not None:
            facts.append(["edges", f"{circuit.num_edges:,}"])
        for title, key in (("circuit", "circuit"), ("model", "model"), ("calibrated circuit", "calibrated")):
            each = metrics.get(key)
            if isinstance(each, dict) and isinstance(each.get("loss"), (int, float)):
                facts.append([f"task loss of the {title}", f"{each['loss']:.3f} nats (chance {math.log(2):.3f})"])
        if self.subject.pair is not None:
            dense = self.subject.pair.dense
            facts.append(["bridged to", f"a dense model of width {dense.width}, {dense.sublayers} sublayers"])
            if self.unsteered:
                facts.append(["steering it", self.unsteered])
        means = circuit.settings.get("means")
        if isinstance(means, dict) and isinstance(means.get("tokens"), int):
            facts.append(["other nodes are held at", f"their means over {means['tokens']:,} tokens"])
        facts += [[f"setting {k}", str(v)] for k, v in circuit.settings.items() if isinstance(v, (int, float, str)) and v != ""]
        return facts + [[f"made with {name}", version] for name, version in circuit.versions.items()]


def _differing(prompts: list[dict[str, Any]]) -> set[int]:
    """Tokens in which the two prompts of a pair differ, compared from their ends."""
    found: set[int] = set()
    for one, two in zip(prompts[::2], prompts[1::2]):
        for a, b in zip(reversed(one["tokens"]), reversed(two["tokens"])):
            found |= {a, b} if a != b else set()
    return found


def _report(report: Verification | None) -> dict[str, Any] | None:
    if report is None:
        return None
    tables = [{"title": title, "rows": [list(row) for row in rows]} for title, rows in report.tables()]
    return {"headline": report.headline, "verdict": list(report.verdict), "tables": tables}


def _numbers(rows: Any) -> list[list[float]]:
    """Points of a curve, from a file: rows that are not all finite numbers are left out."""
    if not isinstance(rows, list):
        return []
    fine = [row for row in rows if isinstance(row, (list, tuple)) and all(_is_number(each) for each in row)]
    return [[_short(each) for each in row] for row in fine]


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    )  # integers of files have no bound


def _short(value: Any) -> float:
    """Four significant digits: enough to read, a third of the bytes."""
    return float(f"{float(value):.4g}")


def _named(values: torch.Tensor) -> list[float]:
    """Nine significant digits, which name a float32 (`Math.fround` in the page)."""
    return [float(f"{value:.9g}") for value in values.tolist()]


def _rounded(values: torch.Tensor) -> list[float]:
    return [_short(value) for value in values.tolist()]


def _percent(pattern: torch.Tensor) -> list[list[int]]:
    return [[round(100 * value) for value in row[: i + 1]] for i, row in enumerate(pattern.tolist())]
