"""Parts as a Python program: the standard library alone, nothing but arithmetic on numbers from the weights, and comments.

Every identifier is made from a site and an index. Labels and tokens, which come from files, stand in comments only, as ASCII on one line.
"""

from __future__ import annotations

import base64
import builtins
import math
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from ..circuits.circuit import Circuit
from .parts import MLP, Answers, Attention, Head, Linear, Parts, Read
from .symbols import Symbols

_SHOWN = 4  # tokens that a comment names
_LISTED = 40  # entries of a table that is written out
_HELPERS = '''

def of(table, token):
    """What a table has for a token; None stands for all that are not listed."""
    return table.get(token, table[None])


def unpacked(width, text):
    """Rows of so many numbers: little-endian floats, compressed, in base 85."""
    return list(iter_unpack("<" + "f" * width, decompress(b85decode(text))))


def column(text):
    """One number for each token."""
    return [row[0] for row in unpacked(1, text)]


def shares(scores, sink=None):
    """Softmax; with a sink, which takes a share and gives nothing."""
    largest = max(scores) if sink is None else max(max(scores), sink)
    weights = [exp(score - largest) for score in scores]
    total = sum(weights) + (0.0 if sink is None else exp(sink - largest))
    return [weight / total for weight in weights]


def strongest(values, rivals, fixed, k, ahead):
    """AbsTopK: each value if fewer than k others at its site are larger in size, else 0. Rivals are values that vary, fixed the sizes of constant ones."""
    sizes = [abs(value) for value in values]
    others = sizes + [abs(rival) for rival in rivals]
    kept = []
    for i, size in enumerate(sizes):
        larger = sum(other > size for other in others) + sum(other > size for other in fixed) + ahead[i]
        kept.append(values[i] if larger < k else 0.0)
    return kept


def sums(rows, values):
    """bias + weights . values, for each row."""
    return [row[0] + sum(weight * value for weight, value in zip(row[1:], values)) for row in rows]


def gelu(x):
    return x * 0.5 * (1.0 + erf(x / sqrt(2.0)))
'''

_GELU_TANH = """

def gelu_tanh(x):
    y = 1.5957691216057308 * (x + 0.044715 * x * x * x)
    return x / (1.0 + exp(-y)) if y > -600.0 else 0.0
"""
ACTIVATED = {"gelu": "gelu({})", "gelu_tanh": "gelu_tanh({})", "relu": "max({}, 0.0)"}


def program_text(parts: Parts, circuit: Circuit, token_text: Callable[[int], str], header: Sequence[str] = ()) -> str:
    """A module with one function, `answer(tokens) -> {answer: logit}`, over token ids, equal to the circuit for any prompt; where the model has positions, for
    any with what its language has at each place.

    Args:
        token_text: of a token id, for comments. header: lines of the first comment.

    Raises:
        ValueError: if a number is not finite.
    """
    return _Writer(parts, circuit, token_text).text(header)


def number(x: float) -> str:
    """Nine digits, enough for 1e-8 of the value."""
    if not math.isfinite(x):
        raise ValueError("The circuit has a number that is not finite; it is damaged: find it again.")
    return repr(float(f"{x:.9g}"))


def comment(text: str) -> str:
    """ASCII on one line, whatever the text is."""
    return ascii(text)[1:-1][:120]


def symbols_table(symbols: Symbols) -> str:
    """(token, place) -> row of the tables."""
    entries = zip(symbols.tokens.tolist(), symbols.places.tolist())
    return "SYMBOLS = {" + ", ".join(f"({token}, {place}): {i}" for i, (token, place) in enumerate(entries)) + "}"


def row_text(parts: Parts, row: int, token_text: Callable[[int], str]) -> str:
    """What a row of tables is of, for comments."""
    if parts.symbols is None:
        return repr(comment(token_text(row)))
    return f"{comment(token_text(int(parts.symbols.tokens[row])))!r} at {int(parts.symbols.places[row])}"


class _Writer:
    def __init__(self, parts: Parts, circuit: Circuit, token_text: Callable[[int], str]):
        self.parts, self.circuit, self.token_text = parts, circuit, token_text
        self.tables: list[str] = []
        self.lines: list[str] = []
        self.deepest = max((each.layer for each in parts.sublayers if isinstance(each, Attention)), default=-1)
        self.stopped = False

    def text(self, header: Sequence[str]) -> str:
        parts, looks = self.parts, []
        for c in range(len(parts.channels)):
            looks.append(self.look(f"EMBEDDING_{int(parts.channels[c])}", parts.stream[:, c]))
        self.say("keys_and_values = {}", 1)
        self.say("for place, token in enumerate(tokens):", 1)
        if parts.symbols is not None:
            self.tables.append(symbols_table(parts.symbols))
            self.say("token = SYMBOLS[token, place]  # from here on: which token at which place")
        if parts.mean is not None:
            self.say(f"# stream_{parts.mean} is the mean over the stream's channels, which LayerNorm takes away.")
        for channel, look in zip(parts.channels.tolist(), looks):
            self.say(f"stream_{channel} = {look}")
        for each in parts.sublayers:
            self.attention(each) if isinstance(each, Attention) else self.mlp(each)
        self.stop()
        self.answers(parts.answers)
        names = [f"# {comment(line)}" for line in header]
        answers = ", ".join(f"{token}" for token in parts.answers.tokens)
        body = "\n".join(self.lines)
        return (
            "\n".join([*names, "", "from base64 import b85decode\nfrom math import erf, exp, sqrt\nfrom struct import iter_unpack\nfrom zlib import decompress"]) + "\n" + _HELPERS + (_GELU_TANH if "gelu_tanh(" in body else "") + "\n\n" + "\n".join(self.tables)
            + f'\n\n\ndef answer(tokens):\n    """Logits of the answers ({answers}) after a prompt, a list of token ids."""\n{body}\n'
        )  # fmt: skip

    def say(self, line: str, depth: int = 2) -> None:
        self.lines.append("    " * depth + line)

    def stop(self) -> None:
        """From here on only the last token matters."""
        if not self.stopped:
            self.say("if place < len(tokens) - 1:")
            self.say("continue  # what follows is needed after the last token alone", 3)
            self.stopped = True

    # ---------------------------------------------------------------------------------------------------------- tables

    def look(self, name: str, values: torch.Tensor) -> str:
        """A table with a number for each token, and how it is looked up: listed, where few are not as usual, or packed."""
        told = [number(x) for x in values.tolist()]
        usual = Counter(told).most_common(1)[0][0]
        entries = [f"None: {usual}"] + [f"{token}: {text}" for token, text in enumerate(told) if text != usual]
        if len(entries) > _LISTED:
            self.tables.append(f'{name} = column("{self.compressed(values)}")' + self.shown(values))
            return f"{name}[token]"
        self.tables.append(f"{name} = {{" + ", ".join(entries) + "}" + self.shown(values))
        return f"of({name}, token)"

    @staticmethod
    def compressed(values: torch.Tensor) -> str:
        """Numbers as floats, seven digits."""
        flat = values.double().clamp(max=1e30).flatten().tolist()
        if not all(map(math.isfinite, flat)):
            raise ValueError("The circuit has a number that is not finite; it is damaged: find it again.")
        return base64.b85encode(zlib.compress(struct.pack(f"<{len(flat)}f", *flat), 9)).decode()

    def packed(self, name: str, values: torch.Tensor) -> str:
        """Rows of numbers, [n, m], as nobody reads them: AbsTopK's rivals, and what a bigram table adds to answers."""
        return (
            f'{name} = unpacked({values.shape[1]}, "{self.compressed(values)}")'
            if values.numel()
            else f"{name} = {[()] * len(values)}"
        )

    def shown(self, values: torch.Tensor) -> str:
        """A comment with the tokens at which a table departs most from what is usual."""
        usual = values.median()
        far = (values - usual).abs()
        order = [int(i) for i in far.topk(min(_SHOWN, len(far))).indices if float(far[i]) > 0]
        return (
            "  # " + ", ".join(f"{row_text(self.parts, i, self.token_text)} {float(values[i]):.2f}" for i in order)
            if order
            else ""
        )

    def rows(self, name: str, map_: Linear) -> None:
        told = [
            "(" + ", ".join(number(x) for x in [bias, *row]) + ",)"
            for bias, row in zip(map_.bias.tolist(), map_.weight.tolist())
        ]
        count = len(map_.nodes)
        self.tables.append(f"{name} = [{', '.join(told[:count])}]")
        if map_.k is not None:
            rivals = torch.cat([map_.bias[count:, None], map_.weight[count:]], 1)
            self.tables.append(self.packed(f"{name}_RIVALS", rivals))
            self.tables.append(self.packed(f"{name}_FIXED", map_.fixed[None]))

    # ----------------------------------------------------------------------------------------------------------- parts

    def label(self, site: str, index: int) -> str:
        text = self.circuit.labels.get(f"{site}:{index}", "")
        return f"  # {comment(text)}" if text else ""

    def linear(self, prefix: str, map_: Linear, given: str) -> None:
        """Lines that set `prefix_<node>` for each node of a map, from the list `given`."""
        name = prefix.upper()
        self.rows(name, map_)
        targets = [f"{prefix}_{node}" for node in map_.nodes.tolist()]
        self.say(f"values = sums({name}, {given})")
        if map_.activation:
            self.say(f"values = [{ACTIVATED[map_.activation].format('value')} for value in values]")
        if map_.k is not None:
            rivals = f"sums({name}_RIVALS, {given})"
            if map_.activation:
                rivals = f"[{ACTIVATED[map_.activation].format('value')} for value in {rivals}]"
            ahead = [0] * len(targets) if map_.ahead is None else map_.ahead.tolist()
            self.say(f"values = strongest(values, {rivals}, {name}_FIXED[0], {map_.k}, {ahead})")
        for i, target in enumerate(targets):
            self.say(f"{target} = values[{i}]{self.label(map_.name, int(map_.nodes[i]))}")

    def read(self, prefix: str, read: Read) -> list[str]:
        """Lines that set `prefix_<channel>` for each node of a read; their names."""
        parts, names = self.parts, [f"{prefix}_{channel}" for channel in read.nodes.tolist()]
        channels, name = parts.channels.tolist(), prefix.upper()
        self.say(f"here = [{', '.join(f'stream_{c} + {number(h)}' for c, h in zip(channels, read.held.tolist()))}]")
        scale = number(read.scale) if read.scale is not None else "scale"
        if read.scale is None:
            assert read.square is not None
            square = self.look(f"{name}_SQUARE", read.square)
            self.say(f"scale = 1.0 / sqrt(({square} + sum(x * x for x in here)) / {read.width} + {number(read.eps)})")
        for i, target in enumerate(names):
            at, gain = int(read.written[i]), number(float(read.gain[i]))
            raw = f"here[{at}]" if at >= 0 else self.look(f"{name}_{int(read.nodes[i])}", read.own[:, i])
            self.say(f"{target} = {raw} * {gain} * {scale}{self.label(read.name, int(read.nodes[i]))}")
        self.rivals(name, read, names)
        return names

    def rivals(self, name: str, read: Read, names: Sequence[str]) -> None:
        if read.rivals is not None:
            gains = ", ".join(number(g) for g in read.rivals.gain.tolist())
            self.say(f"sizes = [abs(x * gain) for x, gain in zip(here, [{gains}])]")
            if bool((read.written >= 0).any()):
                self.tables.append(self.packed(f"{name}_BAR", read.rivals.bar))
        for i, target in enumerate(names):
            known = None if read.passes is None else read.passes[:, i]
            at = int(read.written[i])
            if read.rivals is None or (known is not None and bool((known >= 0).all())):
                if known is not None and bool((known == 0).any()):
                    self.tables.append(self.packed(f"{name}_{int(read.nodes[i])}_PASSES", known[:, None]))
                    self.say(f"{target} *= {name}_{int(read.nodes[i])}_PASSES[token][0]")
                continue
            if at >= 0:
                test = f"sizes[{at}] > {name}_BAR[token][sum(size > sizes[{at}] for size in sizes)]"
            else:
                own = f"{name}_{int(read.nodes[i])}"
                self.tables.append(
                    self.packed(f"{own}_RIVALS", torch.stack([read.rivals.size[:, i], read.rivals.room[:, i].double()], 1))
                )
                test = f"sum(size > {own}_RIVALS[token][0] for size in sizes) < {own}_RIVALS[token][1]"
            if known is not None:
                self.tables.append(self.packed(f"{name}_{int(read.nodes[i])}_PASSES", known[:, None]))
                sure = f"{name}_{int(read.nodes[i])}_PASSES[token][0]"
                test = f"{sure} == 1 or ({sure} < 0 and {test})"
            self.say(f"{target} = {target} if {test} else 0.0")

    def attention(self, each: Attention) -> None:
        layer = each.layer
        self.say(f"# Layer {layer}, attention.")
        if each.tables is not None:
            for kind, long in (("q", "query"), ("k", "key"), ("v", "value")):
                for i, node in enumerate(each.nodes[kind].tolist()):
                    name = f"LAYER_{layer}_{long.upper()}_{node}"
                    look = self.look(name, each.tables[kind][:, i])
                    self.say(f"layer_{layer}_{long}_{node} = {look}{self.label(f'{layer}.attn.{kind}', node)}")
        else:
            assert each.read is not None
            assert each.maps is not None
            names = self.read(f"layer_{layer}_read", each.read)
            for kind, long in (("q", "query"), ("k", "key"), ("v", "value")):
                if len(each.nodes[kind]):
                    self.linear(f"layer_{layer}_{long}", each.maps[kind], f"[{', '.join(names)}]")
        kept = [
            f"layer_{layer}_{long}_{node}"
            for kind, long in (("k", "key"), ("v", "value"))
            for node in each.nodes[kind].tolist()
        ]
        self.say(f"seen = keys_and_values.setdefault({layer}, [])")
        self.say(f"seen.append([{', '.join(kept)}])")
        if layer == self.deepest:
            self.stop()
        for head in each.heads:
            self.head(each, head)
        self.linear(f"layer_{layer}_write", each.write, "[" + ", ".join(self.source(name) for name in each.write.sources) + "]")
        self.add(f"layer_{layer}_write", each.write)

    @staticmethod
    def source(name: str) -> str:
        site, _, what = name.rpartition(":")
        layer = site.partition(".")[0]
        return (
            f"layer_{layer}_head_{site.rpartition('head')[2]}_attended" if what == "attended" else f"layer_{layer}_moved_{what}"
        )

    def head(self, each: Attention, head: Head) -> None:
        layer, keys = each.layer, len(each.nodes["k"])
        terms = [
            f"layer_{layer}_query_{int(each.nodes['q'][int(q)])} * "
            + (f"past[{int(k)}]" if int(k) >= 0 else number(float(constant)))
            for q, k, constant in zip(head.queries, head.keys, head.key_constants)
        ] + [f"{number(float(q))} * past[{int(k)}]" for k, q in zip(head.lone, head.lone_queries)]
        total = " + ".join([*terms, number(head.constant)])
        self.say(
            f"weights = shares([{number(each.scaling)} * ({total}) for past in seen]"
            + (f", {number(head.sink)})" if head.sink is not None else ")")
        )
        for value in head.values.tolist():
            node = int(each.nodes["v"][value])
            self.say(f"layer_{layer}_moved_{node} = sum(weight * past[{keys + value}] for weight, past in zip(weights, seen))")
        if head.shared:
            self.say(f"layer_{layer}_head_{head.index}_attended = sum(weights)")

    def mlp(self, each: MLP) -> None:
        layer = each.layer
        if layer >= self.deepest:
            self.stop()
        self.say(f"# Layer {layer}, MLP.")
        names = self.read(f"layer_{layer}_mlp_read", each.read)
        self.linear(f"layer_{layer}_neuron", each.neurons, f"[{', '.join(names)}]")
        self.linear(
            f"layer_{layer}_mlp_write",
            each.write,
            "[" + ", ".join(f"layer_{layer}_neuron_{n}" for n in each.neurons.nodes.tolist()) + "]",
        )
        self.add(f"layer_{layer}_mlp_write", each.write)

    def add(self, prefix: str, map_: Linear) -> None:
        for node in map_.nodes.tolist():
            self.say(f"stream_{node} += {prefix}_{node}")

    def answers(self, answers: Answers) -> None:
        read = answers.read
        self.say("# What comes out.")
        raw = []
        for i, channel in enumerate(read.nodes.tolist()):
            at = int(read.written[i])
            raw.append(
                f"stream_{channel} + {number(float(read.held[at]))}"
                if at >= 0
                else self.look(f"LAST_{channel}", read.own[:, i])
            )
        self.say(f"last = [{', '.join(raw)}]")
        scale = number(read.scale) if read.scale is not None else "scale"
        if read.scale is None:
            self.say(
                f"scale = 1.0 / sqrt((sum(x * x for x in last) + {number(answers.held_square)}) / {read.width} + {number(read.eps)})"
            )
        rows = [
            f"({', '.join(number(x) for x in [held, *row])},)"
            for held, row in zip(answers.held.tolist(), answers.weight.tolist())
        ]
        self.tables.append(f"ANSWERS = [{', '.join(rows)}]")
        if answers.table is not None:
            self.tables.append(self.packed("AFTER", answers.table))
        self.say("return {", 1)
        for i, token in enumerate(answers.tokens):
            more = f" + AFTER[token][{i}]" if answers.table is not None else ""
            self.say(
                f"{token}: sums(ANSWERS, last)[{i}] * {scale} + {number(float(answers.bias[i]))}{more},  # {comment(self.token_text(token))}"
            )
        self.say("}", 1)


# All that a program may import.
_IMPORTS: dict[str, Any] = {
    "base64": SimpleNamespace(b85decode=base64.b85decode),
    "math": math,
    "struct": SimpleNamespace(iter_unpack=struct.iter_unpack),
    "zlib": SimpleNamespace(decompress=zlib.decompress),
}
_CALLS = ("abs", "enumerate", "len", "list", "max", "range", "sum", "zip")


def load_program(text: str) -> Any:
    """`answer` of a program that this package wrote, run with nothing but arithmetic in reach."""

    def only(name: str, *rest: Any) -> Any:
        if name not in _IMPORTS:
            raise ImportError(f"A program may use {', '.join(_IMPORTS)}, not {name}.")
        return _IMPORTS[name]

    space: dict[str, Any] = {"__builtins__": {name: getattr(builtins, name) for name in _CALLS} | {"__import__": only}}
    exec(compile(text, "program.py", "exec"), space)
    return space["answer"]
