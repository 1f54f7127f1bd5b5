"""Explanations of nodes that can be wrong: predicates over tokens, scored against where a node is active and against what it does for a task."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..wiring_csp import located
from .ablation import Change, Scales, ablated, recorded_scales
from .edges import removed_edges
from .masks import opened
from .narrow import Narrow, can_narrow
from .outcome import last_logits, losses
from .prefix import Prefix
from .python_state import PREDICATES, SEEN, holding_at
from .reading import activations_of, parse_node
from .sites import evaluating
from .tasks import Pairs, Task

if TYPE_CHECKING:
    from .circuit import Circuit

Rule = Callable[[Sequence[str]], Sequence[bool]]  # texts of tokens -> whether it holds at each, by the tokens up to it
_TOKEN = "the token is "
_MARKED = 40  # tokens that are tried as predicates of their own
_TRIED = 12  # by what they keep
_LEAST_F1 = 0.5  # of a label: what keeps a node's effect on a task may still say nothing of when it is active
_LABEL = re.compile(r" \((keeps -?\d+%, )?F1 \d\.\d\d\)$")
_NO_EFFECT = 0.01  # nats: below it, a node does nothing for the task that a predicate could keep


@dataclass(frozen=True)
class Explanation:
    """How well a predicate says where a node is active, on blocks that it was not chosen by.

    Args:
        name: of the predicate. active: what is called active: "> 0", "< 0", "> half of its largest", "< half of its smallest".
        precision: share of the tokens where the predicate holds at which the node is active. recall: share of those where it is active at which the predicate holds.
        chance: precision of a predicate that has nothing to do with it: the share of tokens where the node is active.
        shuffled: F1 of the best of all ready predicates on the same activity shifted along the corpus: what choosing among many gives by itself.
    """

    name: str
    active: str
    precision: float
    recall: float
    chance: float
    shuffled: float

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    @property
    def says_something(self) -> bool:
        """Whether it is worth a label: F1 of a half or more, a quarter above what choosing gives by itself, and better than chance by as much."""
        return self.f1 >= max(_LEAST_F1, self.shuffled + 0.25) and self.precision >= self.chance + 0.25 * (1 - self.chance)

    def __str__(self) -> str:
        return (
            f"active ({self.active}) where: {self.name}; precision {self.precision:.2f} (chance {self.chance:.2f}), recall {self.recall:.2f}, F1 {self.f1:.2f} "
            f"(best predicate on shuffled activations {self.shuffled:.2f})"
        )


class Hypotheses:
    """Ready predicates, and those of single tokens, over a corpus: made once, for any number of nodes.

    Args:
        blocks: token ids [n, tokens]; predicates are chosen by the first half, scored on the other.

    Raises:
        ValueError: if there are fewer than two blocks.
    """

    def __init__(self, tokenizer: Any, blocks: torch.Tensor):
        if len(blocks) < 2:
            raise ValueError("A predicate is chosen by one half of the blocks and scored on the other; give at least two.")
        self.tokenizer, self.blocks = tokenizer, blocks
        self._texts = [tokenizer.decode([i]) for i in range(len(tokenizer))]
        by_name: dict[str, list[list[bool]]] = {name: [] for name in (*PREDICATES, SEEN)}
        for row in blocks.tolist():
            for name, holds in holding_at([self._texts[i] for i in row]).items():
                by_name[name].append(holds)
        self.ready = {name: torch.tensor(rows) for name, rows in by_name.items()}
        self._of_tokens: dict[str, torch.Tensor] = {}

    def holds(self, rule: Rule) -> torch.Tensor:
        """Where a predicate of one's own holds, bool [n, tokens].

        Raises:
            ValueError: if it does not give one truth value for each token.
        """
        return torch.tensor([checked(rule, [self._texts[i] for i in row]) for row in self.blocks.tolist()])

    def score(self, activations: torch.Tensor, holds: torch.Tensor, name: str) -> Explanation:
        """One predicate, against the kind of activity that it fits best on the first half."""
        return self._scored(activations, {name: holds})

    def best(self, activations: torch.Tensor) -> Explanation:
        """The ready predicate, or token, that fits best."""
        return self._scored(activations, {**self.ready, **self._tokens(activations)})

    def likely(self, activations: torch.Tensor, count: int) -> list[str]:
        """The predicates, ready ones and tokens, that explain most of the variance on the first half."""
        half = len(self.blocks) // 2
        values, explained = activations[:half] - activations[:half].mean(), {}
        for name, holds in {**self.ready, **self._tokens(activations)}.items():
            at = holds[:half]
            number = float(at.sum())
            if 0 < number < at.numel():  # between the two levels: n m^2 over both groups, whose sums are opposite
                explained[name] = float(values[at].sum()) ** 2 * (1 / number + 1 / (at.numel() - number))
        return sorted(explained, key=lambda name: -explained[name])[:count]

    def where(self, name: str) -> torch.Tensor:
        """Where a ready predicate or that of a token holds, bool [n, tokens]."""
        known = self.ready if name in self.ready else self._of_tokens
        if name not in known:
            known[name] = self.holds(_ready(name))
        return known[name]

    def _tokens(self, activations: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predicates of single tokens: those with the largest activations on the first half."""
        half = len(self.blocks) // 2
        ids, size = self.blocks[:half].flatten(), activations[:half].abs().flatten()
        sums = torch.zeros(len(self._texts)).index_add_(0, ids.long(), size)
        top = sums.argsort(descending=True, stable=True)[:_MARKED].tolist()
        # Bytes that are no text by themselves all read alike: they are no predicates.
        return {f"{_TOKEN}{self._texts[i]!r}": self.blocks == i for i in top if sums[i] > 0 and "\ufffd" not in self._texts[i]}

    def _scored(self, activations: torch.Tensor, predicates: Mapping[str, torch.Tensor]) -> Explanation:
        half = len(self.blocks) // 2
        kinds = kinds_of_activity(activations[:half])
        ready = {name: holds[:half] for name, holds in self.ready.items()}
        chance = {kind: max(_f1(_shifted(active), holds) for holds in ready.values()) for kind, (_, active) in kinds.items()}
        # By what it is above choosing: a node that is active nearly everywhere fits any predicate that holds there.
        name, kind = max(
            ((name, kind) for kind in kinds for name in predicates),
            key=lambda at: _f1(kinds[at[1]][1], predicates[at[0]][:half]) - chance[at[1]],
        )
        shuffled = chance[kind]
        is_active, holds = kinds[kind][0](activations[half:]), predicates[name][half:]
        both = float((is_active & holds).sum())
        return Explanation(
            name, kind, both / max(1.0, float(holds.sum())), both / max(1.0, float(is_active.sum())), float(is_active.float().mean()), shuffled
        )  # fmt: skip


_Kinds = dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]]


def kinds_of_activity(activations: torch.Tensor) -> _Kinds:
    """What can be called active, by name: as a function of activations, and where these are. Thresholds are of the activations given."""
    high, low = float(activations.max()) / 2, float(activations.min()) / 2
    rules: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"> 0": lambda a: a > 0, "< 0": lambda a: a < 0}
    if high > 0:
        rules["> half of its largest"] = lambda a: a > high
    if low < 0:
        rules["< half of its smallest"] = lambda a: a < low
    return {name: (rule, rule(activations)) for name, rule in rules.items()}


def _f1(active: torch.Tensor, holds: torch.Tensor) -> float:
    return 2 * float((active & holds).sum()) / max(1.0, float(active.sum()) + float(holds.sum()))


def _shifted(active: torch.Tensor) -> torch.Tensor:
    """The same activity, runs and all, at other places of the corpus."""
    return active.flatten().roll(active.numel() // 2 + 7).view_as(active)


def checked(rule: Rule, texts: Sequence[str]) -> list[bool]:
    """What a rule says of texts, one truth value for each."""
    try:
        found = list(rule(texts))
        told = [bool(each) for each in found]
    except Exception as error:  # of a function that somebody wrote
        raise ValueError(
            f"The predicate failed ({type(error).__name__}: {str(error)[:100]}); it takes a list of texts and gives as many truth values."
        ) from None
    if len(told) != len(texts):
        raise ValueError(f"The predicate gave {len(told)} values for {len(texts)} tokens; it must give True or False for each.")
    return told


def rule_of(given: str) -> Rule:
    """A ready predicate by its name, "the token is 'x'", or FILE.py:FUNCTION, a function from texts of tokens to truth values: the file is run.

    Raises:
        FileNotFoundError, ValueError: if there is none of that name, or it looks ahead.
    """
    if given in PREDICATES or given == SEEN:
        return lambda texts: holding_at(texts)[given]
    if given.startswith(_TOKEN):
        wanted = _text(given[len(_TOKEN) :])
        return lambda texts: [text == wanted for text in texts]
    file, _, function = given.rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        raise ValueError(
            f"{given!r:.80} is no predicate; they are {', '.join((*PREDICATES, SEEN))}, {_TOKEN}'x', or FILE.py:FUNCTION."
        )
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file} does not exist; give a Python file with the function {function}.")
    try:
        made = runpy.run_path(file)
    except Exception as error:  # of a file that somebody wrote
        raise ValueError(f"{file} cannot be run ({type(error).__name__}: {str(error)[:100]}); mend it.") from None
    if not callable(made.get(function)):
        raise ValueError(f"{file} has no function {function}; define it, from a list of texts to a list of truth values.")
    rule: Rule = made[function]
    texts = ["x", " =", " '", "a", "'", "\n", "print", "(", "x", ")", "\n"]
    if any(checked(rule, texts[:i]) != checked(rule, texts)[:i] for i in range(1, len(texts))):
        raise ValueError(
            f"{given} looks ahead: what it says of a token changes with what comes after; a node cannot know that."
        )
    return rule


def _text(said: str) -> str:
    """A token's text, as Python writes it or as it is."""
    try:
        found = ast.literal_eval(said)
    except (ValueError, SyntaxError):
        return said
    return found if isinstance(found, str) else said


_ready = functools.cache(rule_of)  # of the names of ready predicates, which many nodes are tried with


class Stage:
    """The pairs of a task, and the model or the circuit in it, with what does not depend on which node is replaced: made once for any number of nodes."""

    def __init__(self, model: Any, tokenizer: Any, pairs: Pairs, circuit: Circuit | None = None):
        self.model, self.pairs = model, pairs.to(model.device)
        self.texts = [[tokenizer.decode([i]) for i in prompt] for prompt in pairs.prompts()]
        self._holds: dict[Rule, torch.Tensor] = {}
        self._changes: dict[str, Change] = {}
        self._held: dict[str, Any] = {}
        self._nodes: Mapping[str, torch.Tensor] = {}
        self._cut: tuple[Any, Any] = (None, None)  # edges that carry means, and these
        self._narrow: Narrow | None = None
        self._prefix = Prefix(model)
        if circuit is not None:
            edges = None if circuit.edges is None else removed_edges(model, circuit.nodes, circuit.edges)
            scales = self._scales() if circuit.settings.get("freeze_norms") else False
            self._nodes, self._cut = circuit.nodes, (edges, circuit.means)
            self._changes = dict(opened(circuit.nodes, circuit.fills))
            self._narrow = Narrow(model, circuit.fills) if can_narrow(model, circuit.fills) else None
            self._held = {"removed": None if self._narrow else edges, "means": circuit.means, "freeze_norms": scales}
        self._logits(self._changes, self._nodes, None)
        self._prefix.keep()

    def _scales(self) -> Scales:
        """Those of the unpruned model, which replacing a node must not move."""
        with evaluating(self.model), torch.no_grad(), recorded_scales(self.model) as scales:
            last_logits(self.model, self.pairs, len(self.pairs))
        return scales

    def holds(self, rule: Rule) -> torch.Tensor:
        """Where a rule holds, bool [prompts, tokens], not to be changed; nowhere on padding, which is on the left."""
        if rule not in self._holds:
            found = torch.zeros(self.pairs.input_ids.shape, dtype=torch.bool)
            for row, texts in enumerate(self.texts):
                found[row, found.shape[1] - len(texts) :] = torch.tensor(checked(rule, texts))
            self._holds[rule] = found
        return self._holds[rule]

    def loss(self, site: str, index: int, change: Change) -> float:
        """Task loss, with one more change at a node, after the circuit's own. Layers before it are run once, and a circuit by what it needs."""
        before, layer = self._changes.get(site), located(site)[0]
        changes = {**self._changes, site: (lambda out: change(out.clone() if before is None else before(out)))}
        here = torch.cat([self._nodes.get(site, torch.zeros(0, dtype=torch.int64)), torch.tensor([index])]).unique()
        logits = self._logits(changes, {**self._nodes, site: here}, layer)
        return float(losses(logits.gather(1, self.pairs.answers)).mean())

    def _logits(self, changes: Mapping[str, Change], nodes: Mapping[str, torch.Tensor], layer: int | None) -> torch.Tensor:
        """Of the answers; those of other tokens are not to be used. The layer in which something is changed is the first that is run anew."""
        lean = nullcontext() if self._narrow is None else self._narrow.running(nodes, self.pairs.answers.unique(), *self._cut)
        layers = [b"changed" if i == layer else b"" for i in range(len(self._prefix.blocks))]
        held = ablated(self.model, changes, **self._held)
        with evaluating(self.model), torch.no_grad(), held, lean, self._prefix.running(layers):
            return last_logits(self.model, self.pairs, len(self.pairs))


class Stand:
    """A node on a stage: what the task loses when the node is held at its mean, and what a predicate keeps of that.

    Args:
        mean: what ablation holds the node at.
    """

    def __init__(self, stage: Stage, node: str, mean: float):
        self._stage, self.mean = stage, mean
        self.site, self.index = parse_node(stage.model, node)
        shape = stage.pairs.input_ids.shape
        self._own = torch.zeros(shape)
        self.whole = self._loss(None)
        self.without = self._loss(torch.full(shape, mean))

    @property
    def matters(self) -> bool:
        """Whether the task loses at least 0.01 nats without the node."""
        return self.without - self.whole >= _NO_EFFECT

    def levels(self, rule: Rule) -> tuple[float, float]:
        """What the node is on average where a rule does not hold, and where it does."""
        holds, there = self._stage.holds(rule), self._stage.pairs.attention_mask.bool().cpu()
        return tuple(float(self._own[at].mean()) if bool(at.any()) else self.mean for at in (~holds & there, holds & there))  # type: ignore[return-value]

    def kept(self, holds: torch.Tensor, levels: tuple[float, float]) -> float:
        """Share of what the node does that is kept when it is replaced by two levels: 1 all, 0 as much as its mean does, below 0 less.

        Args:
            holds: where it takes the second of the levels, bool [prompts, tokens].
        """
        return (self.without - self._loss(torch.where(holds, levels[1], levels[0]))) / (self.without - self.whole)

    def by_chance(self, holds: torch.Tensor, levels: tuple[float, float]) -> float:
        """`kept` of a predicate that holds as often in each prompt, at random places; mean over four."""
        generator, found = torch.Generator().manual_seed(0), []
        for _ in range(4):
            mixed = holds.clone()
            for row, texts in enumerate(self._stage.texts):
                first = mixed.shape[1] - len(texts)
                mixed[row, first:] = mixed[row, first:][torch.randperm(len(texts), generator=generator)]
            found.append(self.kept(mixed, levels))
        return sum(found) / len(found)

    def _loss(self, values: torch.Tensor | None) -> float:
        """Task loss, with the node at these values, [prompts, tokens]; None: as it is."""

        def change(out: torch.Tensor) -> torch.Tensor:
            if values is None:
                self._own = out[..., self.index].detach().float().cpu()
            else:
                out[..., self.index] = values.to(out)
            return out

        return self._stage.loss(self.site, self.index, change)


def explain_node(
    model: Any, tokenizer: Any, node: str, blocks: torch.Tensor, explains: str | None = None, *, task: Task | None = None,
    circuit: Circuit | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores an explanation of a node, or looks for the best of the ready ones: by what it keeps of the node's effect on training pairs of a task, if the
    node has one, nearest to all of it, or else by F1.

    Args:
        explains: a predicate as `rule_of` takes it; None: the best.
        task: for the share of the node's effect that the predicate keeps, on test pairs. circuit: in which the node works.

    Returns:
        node, the fields of `Explanation`, f1, kept and by_chance (None without a task, or if the node does nothing for it), says_something, said.
    """
    hypotheses, activations = Hypotheses(tokenizer, blocks), activations_of(model, [node], blocks)[node]
    return _explained(node, hypotheses, activations, explains, _stages(model, tokenizer, task, circuit), task, circuit)


def _stages(model: Any, tokenizer: Any, task: Task | None, circuit: Circuit | None) -> list[Stage]:
    """Training pairs, on which a predicate is chosen, and test pairs; none without a task."""
    drawn = [] if task is None else [task.pairs(count, split, fewer=True) for split, count in (("train", 16), ("test", 32))]
    return [Stage(model, tokenizer, pairs, circuit) for pairs in drawn]


def _explained(
    node: str, hypotheses: Hypotheses, activations: torch.Tensor, explains: str | None, stages: list[Stage], task: Task | None, circuit: Circuit | None
) -> dict[str, Any]:  # fmt: skip
    site, _, index = node.rpartition(":")
    mean = float(activations.mean()) if circuit is None else float(circuit.means[site][int(index)])
    rule = None if explains is None else rule_of(explains)
    found = (
        hypotheses.best(activations) if rule is None else hypotheses.score(activations, hypotheses.holds(rule), str(explains))
    )
    share, by_chance = None, None
    if task is not None:
        train, test = (Stand(stage, node, mean) for stage in stages)
        if train.matters and test.matters:
            if rule is None:  # one that does more than the node is no explanation of it
                names = dict.fromkeys([found.name, *hypotheses.likely(activations, _TRIED)])
                scored = {name: hypotheses.score(activations, hypotheses.where(name), name) for name in names}
                fair = [name for name, score in scored.items() if score.f1 >= _LEAST_F1]
                rules = {name: _ready(name) for name in fair or names}
                name = min(rules, key=lambda each: abs(1 - train.kept(stages[0].holds(rules[each]), train.levels(rules[each]))))
                rule, found = rules[name], scored[name]
            holds, levels = stages[1].holds(rule), train.levels(rule)
            share, by_chance = test.kept(holds, levels), test.by_chance(holds, levels)
    says, said = found.says_something, str(found)
    if share is not None and by_chance is not None and task is not None:
        says = abs(1 - share) <= 0.5 and share >= by_chance + 0.25 and found.f1 >= max(_LEAST_F1, found.shuffled)
        said += f"; keeps {share:.0%} of what the node does for {task.name} ({by_chance:.0%} at random places)"
    return {
        "node": node,
        **dataclasses.asdict(found),
        "f1": found.f1,
        "kept": share,
        "by_chance": by_chance,
        "says_something": says,
        "said": said,
    }


def explain_circuit(
    model: Any, tokenizer: Any, circuit: Circuit, blocks: torch.Tensor, task: Task | None = None
) -> dict[str, dict[str, Any]]:
    """`explain_node` of each node of a circuit, by the best ready predicate: "site:index" -> what was found."""
    hypotheses = Hypotheses(tokenizer, blocks)
    names = [f"{site}:{int(i)}" for site, indices in circuit.nodes.items() for i in indices]
    activations = activations_of(model, names, blocks)
    stages = _stages(model, tokenizer, task, circuit)
    return {name: _explained(name, hypotheses, activations[name], None, stages, task, circuit) for name in names}


def labels_of(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Labels for the nodes of which a predicate says something: by what it keeps of their effect, or its F1 where they have none."""
    return {node: f"{each['name']} ({_measured(each)})" for node, each in found.items() if each["says_something"]}


def is_measured(label: str) -> bool:
    """Whether a label is one of `labels_of`, which a later measurement may replace."""
    return _LABEL.search(label) is not None


def _measured(found: Mapping[str, Any]) -> str:
    return f"F1 {found['f1']:.2f}" if found["kept"] is None else f"keeps {found['kept']:.0%}, F1 {found['f1']:.2f}"
