"""The 20 binary next-token tasks of the paper on Python, as generators (docs/method.md#the-tasks; paper, appendix on tasks).

Each function makes two examples, (prompt, continuation) each, that differ as the task says. The answer is the token that the
tokenizer really produces for the start of the continuation at that place, so a task holds for any tokenizer that can express it.
Every task has two wordings; `tasks.py` makes two more families from the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ..corpora.words import LETTERS, NOUNS, VERBS, WORDS

Example = tuple[str, str]
SPLITS = ("train", "validation", "test")
SPLITS_VERSION = 2  # how pairs of files are split; 1: row by row
# Whether the line ends after the answer: tokenizers may make one token of both.
FORMS = LINE_END, BARE = ("line_end", "bare")
PUBLISHED = {"single_double_quote": BARE}  # the published data asks for `')`; as far as is known, line ends elsewhere


class Values:
    """Identifiers and values of one split, drawn at random: no name, word or number above 2 is in two splits."""

    def __init__(self, split: str, random: Random):
        part = SPLITS.index(split)
        self.split, self.random = split, random
        names = sorted(name for name in NOUNS if "_" not in name)
        self._pools = {
            kind: pool[part::3]
            for kind, pool in (
                ("name", names),
                ("letter", LETTERS),
                ("verb", [verb for verb in VERBS if verb not in NOUNS]),
                ("word", WORDS),
            )
        }
        self._numbers = [n for n in range(3, 60) if n % 3 == part]

    def _take(self, kind: str, count: int) -> list[str]:
        return self.random.sample(self._pools[kind], count)

    def names(self, count: int) -> list[str]:
        return self._take("name", count)

    def letters(self, count: int) -> list[str]:
        return self._take("letter", count)

    def words(self, count: int) -> list[str]:
        return self._take("word", count)

    def name(self) -> str:
        return self.names(1)[0]

    def letter(self) -> str:
        return self.letters(1)[0]

    def word(self) -> str:
        return self.words(1)[0]

    def quote(self) -> str:
        return self.random.choice("'\"")

    def function(self) -> str:
        return f"{self._take('verb', 1)[0]}_{self.name()}"

    def number(self) -> int:
        return self.random.choice(self._numbers)

    def numbers(self, count: int) -> str:
        return ", ".join(str(self.number()) for _ in range(count))

    def count(self, low: int, high: int) -> int:
        return self.random.randint(low, high)

    def value(self) -> str:
        return self.either(str(self.number()), self.letter(), self.name())

    def either(self, *options: str) -> str:
        return self.random.choice(options)


Generator = Callable[[Values, int], tuple[Example, Example]]


def single_double_quote(v: Values, wording: int) -> tuple[Example, Example]:
    """Close a string in a call as it was opened."""
    name, text = v.name(), " ".join(v.words(v.count(1, 2)))
    call = "print(" if wording == 0 else f"{name}.append("
    head = f"{name} = {v.number()}\n{call}" if wording == 0 else f"{name} = []\n{call}"
    single, double = (f"{head}{quote}{text}" for quote in "'\"")
    return (single, "')\n"), (double, '")\n')


def final_kwarg(v: Values, wording: int) -> tuple[Example, Example]:
    """The last parameter has a default or ends the line, as the earlier ones do."""
    count = v.count(2, 3)
    last, *others = v.names(2 * count + 2)
    heads = [f"def {v.function()}(" + ("self, " if wording else "") for _ in range(2)]
    with_defaults = heads[0] + "".join(f"{name}=None, " for name in others[:count]) + last
    without = heads[1] + "".join(f"{name}, " for name in others[count:]) + last
    return (with_defaults, "=None):\n"), (without, "):\n")


def set_or_string(v: Values, wording: int) -> tuple[Example, Example]:
    """Grow a variable as it began: a set by `.add`, a string by ` +=`."""
    return _growing(v, wording, v.name())


def set_or_string_fixedvarname(v: Values, wording: int) -> tuple[Example, Example]:
    """The same with a variable that is always called `current`."""
    return _growing(v, wording, "current")


def _growing(v: Values, wording: int, name: str) -> tuple[Example, Example]:
    each, quote, function, given = v.letter(), v.quote(), v.function(), v.name()
    words = ", ".join(f"{quote}{word}{quote}" for word in v.words(v.count(2, 4)))
    starts = ("set()", quote * 2)
    if wording == 0:
        grown = [f"{name} = {start}\nfor {each} in [{words}]:\n    {name}" for start in starts]
    else:
        grown = [
            f"def {function}({given}):\n    {name} = {start}\n    for {each} in {given}:\n        {name}" for start in starts
        ]
    return (grown[0], f".add({each})\n"), (grown[1], f" += {each}\n")


def class_init(v: Values, wording: int) -> tuple[Example, Example]:
    """Copy the field's own name after `self.x =`, among several."""
    first, *rest = v.names(v.count(3, 5))
    a, b = v.random.sample(rest, 2)
    kind = v.name().capitalize() + (f"({v.name().capitalize()})" if wording else "")
    head = f"class {kind}:\n    def __init__(self, {', '.join([first, *rest])}):\n        self.{first} = {first}\n"
    return (f"{head}        self.{a} =", f" {a}\n"), (f"{head}        self.{b} =", f" {b}\n")


def with_as(v: Values, wording: int) -> tuple[Example, Example]:
    """`as` after `with open(...)`, the line's end after an assignment. (The token before has the closing bracket in it.)"""
    quote, name, stems = v.quote(), v.letter(), v.names(2)
    mode = "" if wording == 0 else f"{quote}, {quote}r"
    opened, assigned = (f"open({quote}{stem}.txt{mode}" for stem in stems)
    return (f"with {opened}", f"{quote}) as f:\n"), (f"{name} = {assigned}", f"{quote})\n")


def bracket_brace(v: Values, wording: int) -> tuple[Example, Example]:
    """A comma after an item of a list, a colon after a key of a dict."""
    quote, name = v.quote(), v.name()
    *words, last = v.words(v.count(2, 3))
    value = v.number() if wording == 0 else f"[{v.numbers(2)}]"
    items, pairs = ("".join(f"{quote}{word}{quote}{after} {value}, " for word in words) for after in ",:")
    return (f"{name} = [{items}{quote}{last}", f"{quote}, "), (f"{name} = {{{pairs}{quote}{last}", f"{quote}: ")


def with_open(v: Values, wording: int) -> tuple[Example, Example]:
    """Open for reading or writing, from the name of the path."""
    quote, stems, words = v.quote(), v.names(2), v.words(2)
    if wording == 0:
        paths = v.either("source", "input_file"), v.either("output", "output_file")
    else:
        paths = v.either("in_file", "source_file"), v.either("out_file", "output")
    read, write = (
        f"{path} = {quote}{stem}_{word}.txt{quote}\nwith open({path}, {quote}" for path, stem, word in zip(paths, stems, words)
    )
    return (read, f"r{quote}"), (write, f"w{quote}")


def bracket_counting(v: Values, wording: int) -> tuple[Example, Example]:
    """Close one bracket or two, from the depth of the list."""
    names, quote, end = v.names(2), v.quote(), ""
    last, before = v.numbers(v.count(2, 4)), [v.numbers(v.count(2, 3))] * 2
    if wording:  # strings: the last is still open, as its quote and the brackets may be one token
        end, (word, *words) = quote, v.words(6)
        last = f"{quote}{words[0]}{quote}, {quote}{word}"
        before = [", ".join(f"{quote}{word}{quote}" for word in part) for part in (words[1:3], words[3:])]
    flat, deep = f"{names[0]} = [{before[0]}, {last}", f"{names[1]} = [[{before[1]}], [{last}"
    return (flat, f"{end}]\n"), (deep, f"{end}]]\n")


def for_while(v: Values, wording: int) -> tuple[Example, Example]:
    """` in` after the variable of a for loop, a colon after that of a while loop."""
    name, other = v.names(2)
    head = f"def {v.function()}({other}):\n    " + (f"{name} = {v.number()}\n    " if wording == 0 else f"print({other})\n    ")
    return (f"{head}for {name}", f" in {other}:\n"), (f"{head}while {name}", ":\n")


def else_elif(v: Values, wording: int) -> tuple[Example, Example]:
    """A colon right after else, a condition after elif."""
    name, kept, quote = v.name(), v.name(), v.quote()
    said = v.words(2) if wording == 0 else [str(v.number()), str(v.number())]
    head = f"{name} = {v.number()}\nif {name} > {v.number()}:\n    {kept} = {quote}{said[0]}{quote}\n"
    return (f"{head}else", ":\n"), (f"{head}elif", f" {name} == {v.number()}:\n")


def fstring_brace(v: Values, wording: int) -> tuple[Example, Example]:
    """A brace or a word after the colon, as the string is an f-string or not."""
    name, quote = v.name(), v.quote()
    first, second, other, value = v.words(4)
    head = f"{name} = {v.number()}\n" if wording == 0 else f"{name} = {quote}{value}{quote}\n"
    return (f"{head}print(f{quote}{first}:", f" {{{name}}}{quote})\n"), (f"{head}print({quote}{second}:", f" {other}{quote})\n")


def if_ternary(v: Values, wording: int) -> tuple[Example, Example]:
    """A colon after the condition of a statement, ` else` after that of a ternary."""
    name, *kept = v.names(3)
    head = f"{name} = {v.number()}\n"
    test = f"{name} == {v.number()}" if wording == 0 else f"{name} < {v.number()}"
    heads = [f"{head}{each} = {v.value()}" for each in kept]
    return (f"{heads[0]}\nif {test}", ":\n"), (f"{heads[1]} if {test}", f" else {v.number()}\n")


def var_swap(v: Values, wording: int) -> tuple[Example, Example]:
    """Complete a swap with the other variable."""
    a, b = v.letters(2) if wording == 0 else v.names(2)
    heads = (f"{a} = {v.number()}\n{b} = {v.number()}\n", f"{b} = {v.number()}\n{a} = {v.number()}\n")
    head = v.random.choice(heads)
    return (f"{head}{a}, {b} = {b},", f" {a}\n"), (f"{head}{b}, {a} = {a},", f" {b}\n")


def indent_for(v: Values, wording: int) -> tuple[Example, Example]:
    """The indentation after a for line: four more than the line itself has, here 0 or 4."""
    each, name = v.letter(), v.name()
    over = f"range({v.number()})" if wording == 0 else f"[{v.numbers(2)}]"
    heads = [f"def {v.function()}({name}):\n    print({name})\n" for _ in range(2)]
    flat, deep = f"{heads[0]}for {each} in {over}:\n", f"{heads[1]}    for {each} in {over}:\n"
    return (flat, f"    print({each})\n"), (deep, f"        print({each})\n")


def lambda_func(v: Values, wording: int) -> tuple[Example, Example]:
    """A colon after the argument of a lambda, a bracket after the name of a function."""
    name, *others = v.names(3)
    given = v.letter() if wording == 0 else v.name()
    value = v.either(str(v.number()), v.letter())  # short, as a def makes a line more
    head = f"{name} = {v.number()}\n"
    return (f"{head}{others[0]} = lambda {given}", f": {given} + 1\n"), (
        f"{head}{others[1]} = {value}\ndef {given}",
        f"({name}):\n",
    )


def if_equals(v: Values, wording: int) -> tuple[Example, Example]:
    """` ==` in a condition, ` =` in an assignment."""
    x, *others = v.names(3)
    if wording == 0:
        heads = [f"def {v.function()}({y}):\n    {x} = {v.number()}\n    " for y in others]
    else:
        heads = [f"def {v.function()}({x}, {y}):\n    " for y in others]
    return (f"{heads[0]}if {x}", f" == {others[0]}:\n"), (f"{heads[1]}{x}", f" = {others[1]}\n")


def enumerate_range(v: Values, wording: int) -> tuple[Example, Example]:
    """` enumerate` over two loop variables, ` range` over one."""
    (i, each), names, quote = v.letters(2), v.names(2), "'" if wording == 0 else '"'
    items = [", ".join(f"{quote}{word}{quote}" for word in v.words(2 + wording)) for _ in names]
    heads = [f"{name} = [{item}]\n" for name, item in zip(names, items)]
    return (
        (f"{heads[0]}for {i}, {each} in", f" enumerate({names[0]}):\n"),
        (f"{heads[1]}for {i} in", f" range(len({names[1]})):\n"),
    )


def var_if(v: Values, wording: int) -> tuple[Example, Example]:
    """A colon after the comparison of a condition, the line's end after an assignment, with a comparison in it or without."""
    (x, *names), other, truth = v.names(3), v.letter(), "True" if wording == 0 else "False"
    heads = [f"{x} = {v.number()}\n{name} = {v.either(str(v.number()), v.letter())}\n" for name in names]
    condition, compared = (f"{x} {v.either('==', 'is')} {truth}" for _ in range(2))
    assigned = f"{x} = {truth}" if v.count(1, 10) == 1 else f"{other} = {compared}"
    return (f"{heads[0]}if {condition}", ":\n"), (f"{heads[1]}{assigned}", "\n")


def while_return_true(v: Values, wording: int) -> tuple[Example, Example]:
    """A colon after `while True`, the line's end after `return True`."""
    name, function = v.name(), v.function()
    head = f"def {function}({name}):\n    " + (f"{v.name()} = {v.number()}\n    " if wording else "")
    return (f"{head}while True", ":\n"), (f"{head}return True", "\n")


def published_form(name: str, form: str = "published") -> str:
    """The form itself, or what "published" means for a task.

    Raises:
        ValueError: if there is no such form.
    """
    if form == "published":
        return PUBLISHED.get(name, LINE_END)
    if form not in FORMS:
        raise ValueError(f"{form!r} is no form of a task; they are {', '.join(FORMS)} and published.")
    return form


GENERATORS: dict[str, Generator] = {
    each.__name__: each
    for each in (
        single_double_quote, final_kwarg, set_or_string, set_or_string_fixedvarname, class_init, with_as, bracket_brace, with_open,
        bracket_counting, for_while, else_elif, fstring_brace, if_ternary, var_swap, indent_for, lambda_func, if_equals, enumerate_range,
        var_if, while_return_true,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Depends:
    """What may tell the two prompts of a task's pair apart, as the paper means the task (tests/circuits/test_shortcuts.py holds them to it).

    Args:
        on: in words.
        cues: a regular expression that is found in the tokens whose presence may tell; "" if no token's may.
        last: whether the last token alone tells.
        lines: whether the number of lines tells.
    """

    on: str
    cues: str
    last: bool = False
    lines: bool = False


_GROWN = Depends("presence of set() or of an empty string", r"set|\(\)|['\"]")
DEPENDS: dict[str, Depends] = {
    "single_double_quote": Depends("which quote is there", r"['\"]"),
    "final_kwarg": Depends("presence of defaults (and, as pairs are equally long, one parameter more without them)", r"None|,"),
    "set_or_string": _GROWN,
    "set_or_string_fixedvarname": _GROWN,
    "class_init": Depends("relation: the name before the last ` =`; all names are in both prompts", ""),
    "with_as": Depends("presence of with, or of an assignment", r"^ ?(with|w|ith)$|="),
    "bracket_brace": Depends("which bracket is there, and what follows earlier items", r"[\[{,:]"),
    "with_open": Depends("words of the path's name", r"^[ (]?(in|out|input|output|put|s|source|ource|_?file)?$"),
    "bracket_counting": Depends("number of brackets that are open", r"[\[\],'\"]"),
    "for_while": Depends("presence of for or while", r"^ (for|while)$"),
    "else_elif": Depends("the last token", r"^ ?(lse|lif|else|elif)$", last=True),
    "fstring_brace": Depends("presence of the f before the quote", r"^[ (]?f$|['\"]"),
    "if_ternary": Depends("whether a line begins with the if", r"^ ?if$|\n", lines=True),
    "var_swap": Depends("relation: order of the two names in the last line; both are in both prompts", ""),
    "indent_for": Depends("the blanks before for", r"^ *(for)?$"),
    "lambda_func": Depends("presence of lambda or def", r"^ (lambda|la|l)$|^(mb|da|am|b)$|^ ?def$|\n", lines=True),
    "if_equals": Depends("presence of if", r"^ if$"),
    "enumerate_range": Depends("the comma between loop variables", r","),
    "var_if": Depends("presence of if, or of one more assignment; comparisons are in both prompts", r"^ ?if$|^ =$"),
    "while_return_true": Depends("presence of while or return", r"^ (while|return)$"),
}
