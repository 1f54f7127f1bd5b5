"""Simplified parts as a short Python program: one line for what a person would say in a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch

from ..circuits.circuit import Circuit
from .parts import MLP, Attention, Head, Linear, Parts, Read
from .text import comment, number, row_text, symbols_table

_HELPERS = {
    "gelu(": "\n\ndef gelu(x):\n    return 0.5 * x * (1 + erf(x / sqrt(2)))",
    "gelu_tanh(": "\n\ndef gelu_tanh(x):\n    return 0.0 if x < -15 else x / (1 + exp(-1.5957691216057308 * (x + 0.044715 * x**3)))",
    "keep(": "\n\ndef keep(x, least):\n    return x if abs(x) >= least else 0.0",
}
_LISTED = 10  # tokens of a set that its comment names


def story_text(parts: Parts, circuit: Circuit, token_text: Callable[[int], str], header: Sequence[str] = ()) -> str:
    """A module with one function, `answer(tokens) -> {answer: logit}`; tokens that its sets do not list are the rest.

    Raises:
        ValueError: where AbsTopK is still at work, or a norm has its own scale: what simplification could not do without cannot be told shortly.
    """
    return _Story(parts, circuit, token_text).text(header)


class _Story:
    def __init__(self, parts: Parts, circuit: Circuit, token_text: Callable[[int], str]):
        self.parts, self.circuit, self.token_text = parts, circuit, token_text
        self.sets: dict[tuple[int, ...], str] = {}
        self.lines: list[str] = []
        self.deepest = max((each.layer for each in parts.sublayers if isinstance(each, Attention)), default=-1)
        self.depth, self.looping = 1, False
        self.begun: set[int] = set()

    def text(self, header: Sequence[str]) -> str:
        parts = self.parts
        self.looping = any(isinstance(each, Attention) and each.tables is None for each in parts.sublayers)
        if parts.symbols is not None:
            self.say("tokens = [SYMBOLS[token, place] for place, token in enumerate(tokens)]  # which token at which place")
        if self.looping:
            layers = [each.layer for each in parts.sublayers if isinstance(each, Attention) and each.tables is None]
            self.say("keys = {" + ", ".join(f"{layer}: []" for layer in layers) + "}")
            self.say("for end in range(1, len(tokens) + 1):")
            self.depth = 2
            self.say("seen, token = tokens[:end], tokens[end - 1]")
        else:
            self.say("seen, token = tokens, tokens[-1]")
        opened = len(self.lines) - 1
        for i, channel in enumerate(parts.channels.tolist()):
            if bool((parts.stream[:, i] != 0).any()):
                self.say(f"stream_{channel} = {self.table(parts.stream[:, i]).strip('()')}")
                self.begun.add(channel)
        for each in parts.sublayers:
            if isinstance(each, Attention):
                self.attention(each)
            else:
                self.mlp(each)
        self.depth = 1
        self.answers()
        if not any("seen" in line for line in self.lines[opened + 1 :]):
            self.lines[opened] = self.lines[opened].split("seen")[0] + f"token = tokens[{'end - 1' if self.looping else '-1'}]"
        body = "\n".join(self.lines)
        helpers = [text for call, text in _HELPERS.items() if call in body]
        used = [name for name in ("exp", "erf", "sqrt") if f"{name}(" in body + "".join(helpers)]
        sets = [
            f"{name} = {{{', '.join(map(str, tokens))}}}  # {', '.join(row_text(parts, t, self.token_text) for t in tokens[:_LISTED])}"
            + (f" and {len(tokens) - _LISTED} more" if len(tokens) > _LISTED else "")
            for tokens, name in self.sets.items()
        ]
        if parts.symbols is not None:
            sets.insert(0, symbols_table(parts.symbols))
        top = [f"# {comment(line)}" for line in header] + ([f"from math import {', '.join(used)}"] if used else [])
        return "\n".join([*top, *([""] if sets else []), *sets, *helpers, "", "", "def answer(tokens):", body]) + "\n"

    def say(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    # ----------------------------------------------------------------------------------------------------- expressions

    def table(self, values: torch.Tensor, token: str = "token") -> str:
        """A table over tokens as an expression: sets of tokens, and what all others have."""
        told = [number(x) for x in values.tolist()]
        usual = Counter(told).most_common(1)[0][0]
        groups: dict[str, list[int]] = {}
        for i, x in enumerate(told):
            if x != usual:
                groups.setdefault(x, []).append(i)
        text = ""
        for x, tokens in sorted(groups.items(), key=lambda each: len(each[1])):
            test = f"{token} == {tokens[0]}" if len(tokens) == 1 else f"{token} in {self.named(tuple(tokens))}"
            text += f"{x} if {test} else "
        return text + usual if not text else f"({text}{usual})"

    def named(self, tokens: tuple[int, ...]) -> str:
        return self.sets.setdefault(tokens, f"SET_{len(self.sets) + 1}")

    @staticmethod
    def weighted(weights: Sequence[float], names: Sequence[str], bias: float) -> str:
        """bias + weights . names, without what is nothing."""
        terms = [
            f"{number(w)} * {name}" if w not in (1.0, -1.0) else ("" if w == 1.0 else "-") + name
            for w, name in zip(weights, names)
            if w
        ]
        if bias or not terms:
            terms.append(number(bias))
        return " + ".join(terms).replace("+ -", "- ")

    @staticmethod
    def activated(kind: str, text: str) -> str:
        if kind == "relu":
            return f"max(0.0, {text})"
        return f"{kind}({text})" if kind in ("gelu", "gelu_tanh") else text

    @staticmethod
    def kept(map_: Linear, text: str) -> str:
        return text if map_.least is None else f"keep({text}, {number(map_.least)})"

    def label(self, site: str, index: int) -> str:
        text = self.circuit.labels.get(f"{site}:{index}", "")
        return f"  # {comment(text)}" if text else ""

    # ----------------------------------------------------------------------------------------------------------- parts

    def reads(self, read: Read) -> list[str]:
        _require_plain(read)
        found = []
        for i, channel in enumerate(read.nodes.tolist()):
            at = int(read.written[i])
            name = f"stream_{channel}" if channel in self.begun else "0.0"
            if at < 0:
                name = self.table(read.own[:, i])
                if name.startswith("("):
                    self.say(f"token_{channel} = {name[1:-1]}")
                    name = f"token_{channel}"
            found.append(name)
        return found

    def writes(self, map_: Linear, names: Sequence[str]) -> None:
        _require_free(map_)
        for node, row, bias in zip(map_.nodes.tolist(), map_.weight.tolist(), map_.bias.tolist()):
            text = self.kept(map_, self.weighted(row, names, bias))
            self.say(f"stream_{node} {'+=' if node in self.begun else '='} {text}{self.label(map_.name, node)}")
            self.begun.add(node)

    def attention(self, each: Attention) -> None:
        layer = each.layer
        reads = [] if each.tables is not None or each.read is None else self.reads(each.read)
        if each.tables is None:
            self.keys(each, reads)
        if self.looping and layer == self.deepest:
            self.say("if end < len(tokens):")
            self.lines.append("    " * (self.depth + 1) + "continue")
        moved: dict[int, str] = {}
        shares = []
        for head in each.heads:
            self.say(f"# Layer {layer}, head {head.index}" + ("" if head.sink is None else ", beside its sink") + ".")
            self.scores(each, head, reads)
            for value in head.values.tolist():
                node = int(each.nodes["v"][value])
                moved[value] = f"moved_{layer}_{node}"
                what = (
                    self.table(each.tables["v"][:, value], "t")
                    if each.tables is not None
                    else f"past[{len(each.nodes['k']) + value}]"
                )
                over = "seen" if each.tables is not None else f"keys[{layer}]"
                name = "t" if each.tables is not None else "past"
                self.say(
                    f"moved_{layer}_{node} = sum(w * {what} for w, {name} in zip(weights, {over})) / total{self.label(f'{layer}.attn.v', node)}"
                )
            if head.shared:
                shares.append(f"attended_{layer}_{head.index}")
                self.say(f"{shares[-1]} = sum(weights) / total")
        self.writes(each.write, [moved.get(i, "0.0") for i in range(len(each.nodes["v"]))] + shares)

    def keys(self, each: Attention, reads: Sequence[str]) -> None:
        """What a token leaves for later ones: keys, then values."""
        assert each.maps is not None
        told = []
        for kind in "kv":
            map_ = each.maps[kind]
            _require_free(map_)
            told += [
                self.kept(map_, self.weighted(row, reads, bias)) for row, bias in zip(map_.weight.tolist(), map_.bias.tolist())
            ]
        self.say(f"keys[{each.layer}].append([{', '.join(told)}])")

    def scores(self, each: Attention, head: Head, reads: Sequence[str]) -> None:
        terms, name, over = [], "t", "seen"
        if each.tables is None:
            name, over = "past", f"keys[{each.layer}]"
        for q, k, constant in zip(head.queries.tolist(), head.keys.tolist(), head.key_constants.tolist()):
            query = self.query(each, q, reads)
            terms.append(f"{query} * {self.key(each, k) if k >= 0 else number(constant)}")
        terms += [
            f"{number(q)} * {self.key(each, k)}" if q * each.scaling != 1.0 else self.key(each, k)
            for k, q in zip(head.lone.tolist(), head.lone_queries.tolist())
        ]
        plain = (
            not len(head.queries)
            and len(head.lone) == 1
            and float(head.lone_queries[0]) * each.scaling == 1.0
            and not head.constant
        )
        sink = "" if head.sink is None else " + 1.0" if not head.sink else f" + exp({number(head.sink)})"
        beside = f"total = sum(weights){sink}"
        if not terms:
            self.say(f"weights = [exp({number(each.scaling * head.constant)})] * len({over})")
            self.say(beside)
            return
        total = " + ".join([*terms, *([number(head.constant)] if head.constant else [])])
        self.say(f"weights = [exp({total if plain else f'{number(each.scaling)} * ({total})'}) for {name} in {over}]")
        self.say(beside)

    def query(self, each: Attention, q: int, reads: Sequence[str]) -> str:
        if each.tables is not None:
            return self.table(each.tables["q"][:, q])
        assert each.maps is not None
        map_ = each.maps["q"]
        _require_free(map_)
        return f"({self.weighted(map_.weight[q].tolist(), reads, float(map_.bias[q]))})"

    def key(self, each: Attention, k: int) -> str:
        return self.table(each.tables["k"][:, k], "t") if each.tables is not None else f"past[{k}]"

    def mlp(self, each: MLP) -> None:
        if self.looping and each.layer >= self.deepest and "continue" not in "".join(self.lines):
            self.say("if end < len(tokens):")
            self.lines.append("    " * (self.depth + 1) + "continue")
        self.say(f"# Layer {each.layer}, neurons.")
        reads = self.reads(each.read)
        _require_free(each.neurons)
        names = []
        for node, row, bias in zip(each.neurons.nodes.tolist(), each.neurons.weight.tolist(), each.neurons.bias.tolist()):
            names.append(f"neuron_{each.layer}_{node}")
            text = self.kept(each.neurons, self.activated(each.neurons.activation, self.weighted(row, reads, bias)))
            self.say(f"{names[-1]} = {text}{self.label(each.neurons.name, node)}")
        self.writes(each.write, names)

    def answers(self) -> None:
        answers = self.parts.answers
        names = self.reads(answers.read)
        self.say("return {")
        for i, token in enumerate(answers.tokens):
            text = self.weighted(answers.weight[i].tolist(), names, float(answers.bias[i] + answers.held[i]))
            table = "" if answers.table is None else self.table(answers.table[:, i])
            text += f" + {table}" if table and table != "0.0" else ""
            self.say(f"    {token}: {text},  # {comment(self.token_text(token))}")
        self.say("}")


def _require_plain(read: Read) -> None:
    if read.rivals is not None or read.scale is None or (read.passes is not None and not bool((read.passes == 1).all())):
        raise ValueError(
            f"AbsTopK or the norm at {read.name} cannot be left out within the bound; allow more loss, or read program.py."
        )


def _require_free(map_: Linear) -> None:
    if map_.k is not None:
        raise ValueError(f"AbsTopK at {map_.name} cannot be left out within the bound; allow more loss, or read program.py.")
