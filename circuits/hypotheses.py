"""Explanations of nodes that can be wrong: predicates over tokens, scored against where a node is active and against what it does for a task."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .ablation import ablated
from .outcome import last_logits, losses
from .python_state import PREDICATES, SEEN, holding_at
from .reading import _activations, parse_node
from .tasks import Pairs, Task

if TYPE_CHECKING:
    from .circuit import Circuit

Rule = Callable[[Sequence[str]], Sequence[bool]]  # texts of tokens -> whether it holds at each, by the tokens up to it
_TOKEN = "the token is "
_MARKED = 40  # tokens that are tried as predicates of their own
_TRIED = 12  # by what they keep
_NO_EFFECT = 0.01  # nats: below it, a node does nothing for the task that a predicate could keep


@dataclass(frozen=True)
class Explanation:
    """How well a predicate says where a node is active, on blocks that it was not chosen by.

    Args:
        name: of the predicate. active: what is called active: "> 0", "< 0", "> half of its largest", "< half of its smallest".
        precision: share of the tokens where the predicate holds at which the node is active. recall: share of those where it is active at which the predicate holds.
        chance: precision of a predicate that has nothing to do with it: the share of tokens where the node is active.
        shuffled: F1 of the best of all ready predicates on the same activations in another order: what choosing among many gives by itself.
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
        """Whether it is worth a label: better than half, and twice what chance and choosing give."""
        return self.f1 >= max(0.5, 2 * self.shuffled) and self.precision >= 2 * self.chance

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
        return self.ready[name] if name in self.ready else self.holds(rule_of(name))

    def _tokens(self, activations: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predicates of single tokens: those with the largest activations on the first half."""
        half = len(self.blocks) // 2
        ids, size = self.blocks[:half].flatten(), activations[:half].abs().flatten()
        sums = torch.zeros(len(self._texts)).index_add_(0, ids.long(), size)
        top = sums.argsort(descending=True, stable=True)[:_MARKED].tolist()
        return {f"{_TOKEN}{self._texts[i]!r}": self.blocks == i for i in top if sums[i] > 0}

    def _scored(self, activations: torch.Tensor, predicates: Mapping[str, torch.Tensor]) -> Explanation:
        half = len(self.blocks) // 2
        kinds = kinds_of_activity(activations[:half])
        name, kind, _ = _fittest(kinds, {name: holds[:half] for name, holds in predicates.items()})
        order = torch.randperm(activations[:half].numel(), generator=torch.Generator().manual_seed(0))
        mixed = {k: (_, is_active.flatten()[order].view_as(is_active)) for k, (_, is_active) in kinds.items()}
        shuffled = _fittest(mixed, {name: holds[:half] for name, holds in self.ready.items()})[2]
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


def _fittest(kinds: _Kinds, predicates: Mapping[str, torch.Tensor]) -> tuple[str, str, float]:
    """(predicate, kind of activity, F1) of the highest F1; the first of equals."""
    best = (next(iter(predicates)), next(iter(kinds)), 0.0)
    for kind, (_, is_active) in kinds.items():
        active = float(is_active.sum())
        if active == 0:
            continue
        for name, holds in predicates.items():
            f1 = 2 * float((is_active & holds).sum()) / max(1.0, active + float(holds.sum()))
            if f1 > best[2]:
                best = (name, kind, f1)
    return best


def checked(rule: Rule, texts: Sequence[str]) -> list[bool]:
    """What a rule says of texts, one truth value for each."""
    found = list(rule(texts))
    if len(found) != len(texts) or not all(isinstance(each, (bool, int)) for each in found):
        raise ValueError(
            f"The predicate gave {len(found)} values for {len(texts)} tokens; it must give True or False for each."
        )
    return [bool(each) for each in found]


def rule_of(given: str) -> Rule:
    """A ready predicate by its name, "the token is 'x'", or FILE.py:FUNCTION, a function from texts of tokens to truth values.

    Raises:
        FileNotFoundError, ValueError: if there is none of that name.
    """
    if given in PREDICATES or given == SEEN:
        return lambda texts: holding_at(texts)[given]
    if given.startswith(_TOKEN):
        wanted = given[len(_TOKEN) :].strip("'\"") if given[len(_TOKEN) :][:1] in "'\"" else given[len(_TOKEN) :]
        return lambda texts: [text == wanted for text in texts]
    file, _, function = given.rpartition(":")
    if not file.endswith(".py"):
        raise ValueError(
            f"{given!r:.80} is no predicate; they are {', '.join((*PREDICATES, SEEN))}, {_TOKEN}'x', or FILE.py:FUNCTION."
        )
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file} does not exist; give a Python file with the function {function}.")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{file} has no function {function}; define it, from a list of texts to a list of truth values.")
    return getattr(module, function)  # type: ignore[no-any-return]


class Stand:
    """A node of a model, or of a circuit in it, on the pairs of a task: what the task loses when the node is held at its mean, and what a predicate keeps of that.

    Args:
        mean: what ablation holds the node at. circuit: in which it works; None: the whole model.
    """

    def __init__(self, model: Any, tokenizer: Any, node: str, mean: float, pairs: Pairs, circuit: Circuit | None = None):
        self.model, self.circuit, self.pairs = model, circuit, pairs
        self.site, self.index = parse_node(model, node)
        self._texts = [[tokenizer.decode([i]) for i in prompt] for prompt in pairs.prompts()]
        self.whole, self.without = self._loss(None), self._loss(torch.full(pairs.input_ids.shape, mean))

    @property
    def matters(self) -> bool:
        """Whether the task loses at least 0.01 nats without the node."""
        return self.without - self.whole >= _NO_EFFECT

    def kept(self, rule: Rule, levels: tuple[float, float]) -> float | None:
        """Share of what the node does that is kept when it is replaced by a predicate: 1 all, 0 as much as its mean does, below 0 less; None if it does nothing.

        Args:
            levels: what the node becomes where the predicate does not hold, and where it does.
        """
        if not self.matters:
            return None
        holds = torch.zeros_like(self.pairs.input_ids, dtype=torch.bool)
        for row, texts in enumerate(self._texts):
            holds[row, holds.shape[1] - len(texts) :] = torch.tensor(checked(rule, texts))  # padding is on the left
        return (self.without - self._loss(torch.where(holds, levels[1], levels[0]))) / (self.without - self.whole)

    @torch.no_grad()
    def _loss(self, values: torch.Tensor | None) -> float:
        """Task loss, with the node at these values, [prompts, tokens]."""

        def change(out: torch.Tensor) -> torch.Tensor:
            out = out.clone()
            out[..., self.index] = values.to(out)  # type: ignore[union-attr]
            return out

        applied = contextlib.nullcontext() if self.circuit is None else self.circuit.running(self.model)
        with applied, ablated(self.model, {} if values is None else {self.site: change}):
            logits = last_logits(self.model, self.pairs, len(self.pairs))
        return float(losses(logits.gather(1, self.pairs.answers.to(logits.device))).mean())


def explain_node(
    model: Any, tokenizer: Any, node: str, blocks: torch.Tensor, explains: str | None = None, *, task: Task | None = None,
    circuit: Circuit | None = None, hypotheses: Hypotheses | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Scores an explanation of a node, or looks for the best of the ready ones: by what it keeps of the node's effect on training pairs of a task, if the
    node has one, nearest to all of it, or else by F1.

    Args:
        explains: a predicate as `rule_of` takes it; None: the best.
        task: for the share of the node's effect that the predicate keeps, on test pairs. circuit: in which the node works.

    Returns:
        node, the fields of `Explanation`, f1, kept (None without a task, or if the node does nothing for it), says_something, said.
    """
    site, index = parse_node(model, node)
    hypotheses = hypotheses or Hypotheses(tokenizer, blocks)
    activations = _activations(model, site, index, hypotheses.blocks, 16)
    mean = float(activations.mean()) if circuit is None else float(circuit.means[site][index])
    stands = (
        {}
        if task is None
        else {
            s: Stand(model, tokenizer, node, mean, task.pairs(n, s, fewer=True), circuit)
            for s, n in (("train", 16), ("test", 32))
        }
    )

    def kept(name: str, split: str) -> float | None:
        if not stands:
            return None
        holds = hypotheses.where(name) if explains is None else hypotheses.holds(rule_of(name))
        levels = [float(activations[at].mean()) if bool(at.any()) else mean for at in (~holds, holds)]
        return stands[split].kept(rule_of(name), (levels[0], levels[1]))

    if explains is not None:
        found = hypotheses.score(activations, hypotheses.holds(rule_of(explains)), explains)
    else:
        found = hypotheses.best(activations)
        if stands and stands["train"].matters:
            names = dict.fromkeys([found.name, *hypotheses.likely(activations, _TRIED)])
            name = min(
                names, key=lambda each: abs(1 - (kept(each, "train") or 0.0))
            )  # one that does more than the node is no explanation of it
            found = hypotheses.score(activations, hypotheses.where(name), name)
    share = kept(found.name, "test")
    says = found.says_something if share is None else abs(1 - share) <= 0.5 and found.f1 > found.shuffled
    said = f"{found}" + ("" if share is None else f"; keeps {share:.0%} of what the node does for {task.name}")  # type: ignore[union-attr]
    return {"node": node, **dataclasses.asdict(found), "f1": found.f1, "kept": share, "says_something": says, "said": said}


def explain_circuit(
    model: Any, tokenizer: Any, circuit: Circuit, blocks: torch.Tensor, task: Task | None = None
) -> dict[str, dict[str, Any]]:
    """`explain_node` of each node of a circuit, by the best ready predicate: "site:index" -> what was found."""
    hypotheses = Hypotheses(tokenizer, blocks)
    names = [f"{site}:{int(i)}" for site, indices in circuit.nodes.items() for i in indices]
    return {
        name: explain_node(model, tokenizer, name, blocks, task=task, circuit=circuit, hypotheses=hypotheses) for name in names
    }


def labels_of(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Labels for the nodes of which a predicate says something: by what it keeps of their effect, or its F1 where they have none."""
    return {node: f"{each['name']} ({_measured(each)})" for node, each in found.items() if each["says_something"]}


def _measured(found: Mapping[str, Any]) -> str:
    return f"F1 {found['f1']:.2f}" if found["kept"] is None else f"keeps {found['kept']:.0%}, F1 {found['f1']:.2f}"
