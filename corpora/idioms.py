"""`idioms`: short, simple, varied, valid Python programs, from a seed.

The paper trains on a "simple component" of easy, repetitive Python; its data is not released. These programs play that part: each
compiles and runs, alone and in any order, and together they are rich in what the 20 tasks are about (docs/method.md#the-tasks): strings in
both quotes, sets and strings that grow, nested lists and dicts, files, loops, branches, ternaries, swaps, lambdas, keyword arguments,
f-strings, classes. Programs that write files write into the current folder, and read only what they wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from .words import ADJECTIVES, LETTERS, NOUNS, VERBS, WORDS


class Writer:
    """Random choices, and the names that a program has used, so that none is bound twice with another meaning."""

    def __init__(self, random: Random):
        self.random, self.used = random, {"list_name"}

    def pick(self, *options):
        return self.random.choice(options)

    def number(self, low: int = 0, high: int = 20) -> int:
        return self.random.randint(low, high)

    def name(self, *pools) -> str:
        """A variable's name that the program does not use yet."""
        for _ in range(200):
            pool = self.random.choice(pools or (NOUNS, NOUNS, NOUNS, LETTERS))
            name = self.random.choice(pool)
            if pool is NOUNS and self.random.random() < 0.25:
                name = f"{self.random.choice(ADJECTIVES)}_{name}"
            if name not in self.used:
                self.used.add(name)
                return name
        raise RuntimeError("a program used up all names")

    def names(self, count: int) -> list[str]:
        return [self.name() for _ in range(count)]

    def function(self) -> str:
        while True:
            name = f"{self.random.choice(VERBS)}_{self.random.choice(NOUNS)}"
            if name not in self.used:
                self.used.add(name)
                return name

    def string(self, quote: str | None = None) -> str:
        quote = quote or self.pick("'", '"')
        words = self.random.sample(WORDS, self.random.choice((1, 1, 1, 2)))
        return f"{quote}{' '.join(words)}{quote}"

    def numbers(self, count: int | None = None) -> str:
        return ", ".join(str(self.number()) for _ in range(count or self.number(2, 5)))

    def strings(self, count: int | None = None) -> str:
        quote = self.pick("'", '"')
        return ", ".join(self.string(quote) for _ in range(count or self.number(2, 4)))

    def list(self) -> str:
        return f"[{self.pick(self.numbers, self.strings)()}]"

    def mixed_list(self) -> str:
        """Words, each with a number after it."""
        quote, number = self.pick("'", '"'), self.number()
        return f"[{', '.join(f'{self.string(quote)}, {number}' for _ in range(self.number(2, 3)))}]"

    def condition(self, name: str) -> str:
        return f"{name} {self.pick('==', '<', '>', '!=', '<=', '>=')} {self.number()}"


def indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


# Each makes the lines of one idiom, using only what it binds itself.


def quoted_calls(w: Writer) -> list[str]:
    name = w.name()
    lines = [f"{name} = {w.string()}", f"print({w.string()})"]
    quote = w.pick("'", '"')
    lines += [w.pick(f"print({name}.split({quote} {quote}))", f"print({name}.replace({w.string(quote)}, {w.string(quote)}))",
                     f"print({name}, {w.string(quote)})", f"print(len({w.string(quote)}))")]  # fmt: skip
    return lines


def growing_set_or_string(w: Writer) -> list[str]:
    name = "current" if "current" not in w.used and w.random.random() < 0.3 else w.name()
    w.used.add(name)
    each = w.name(LETTERS, NOUNS)
    if w.random.random() < 0.5:
        lines = [f"{name} = set()", f"for {each} in [{w.strings()}]:", f"    {name}.add({each})"]
        return [*lines, w.pick(f"{name}.add({w.string()})", f"print(len({name}))")]
    start = w.pick("''", '""')
    lines = [f"{name} = {start}", f"for {each} in [{w.strings()}]:", f"    {name} += {each}"]
    return [*lines, w.pick(f"{name} += {w.string()}", f"print({name})")]


def growing_in_function(w: Writer) -> list[str]:
    function, given, grown, each = w.function(), w.name(), w.name(), w.name(LETTERS)
    is_set = w.random.random() < 0.5
    start, grow = ("set()", f"{grown}.add({each})") if is_set else (w.pick("''", '""'), f"{grown} += {each}")
    lines = [f"def {function}({given}):", f"    {grown} = {start}", f"    for {each} in {given}:", f"        {grow}",
             f"    return {grown}"]  # fmt: skip
    return [*lines, "", f"print(len({function}([{w.strings()}])))"]


def keyword_arguments(w: Writer) -> list[str]:
    function, parameters = w.function(), w.names(w.number(2, 4))
    defaults = w.random.random() < 0.5
    head = ", ".join(f"{p}=None" if defaults else p for p in parameters)
    first = parameters[0]
    body = [f"if {first} is None:", f"    {first} = {w.number()}", f"return {first}"] if defaults else [f"return {first}"]
    given = ", ".join(f"{p}={w.number()}" for p in parameters) if defaults and w.random.random() < 0.7 else ""
    given = given if defaults else ", ".join(str(w.number()) for _ in parameters)
    return [f"def {function}({head}):", *indented(body), "", f"print({function}({given}))"]


def class_with_init(w: Writer) -> list[str]:
    noun = w.random.choice(NOUNS)
    name = "".join(part.capitalize() for part in f"{w.random.choice(ADJECTIVES)}_{noun}".split("_"))
    if name in w.used:
        return quoted_calls(w)
    w.used.add(name)
    fields = w.names(w.number(2, 5))
    lines = [f"class {name}:", f"    def __init__(self, {', '.join(fields)}):"]
    lines += [f"        self.{field} = {field}" for field in fields]
    method = w.function()
    lines += ["", f"    def {method}(self):", f"        return self.{w.random.choice(fields)}"]
    instance = w.name()
    given = ", ".join(w.pick(str(w.number()), w.string()) for _ in fields)
    return [*lines, "", f"{instance} = {name}({given})", f"print({instance}.{method}())"]


def files(w: Writer) -> list[str]:
    quote, stem = w.pick("'", '"'), w.random.choice(NOUNS)
    path = f"{quote}{stem}.txt{quote}"
    writer, reader = w.pick("f", "file", "out", "handle"), w.pick("f", "file", "src", "handle")
    lines = [f"with open({path}, {quote}w{quote}) as {writer}:", f"    {writer}.write({w.string(quote)})"]
    if w.random.random() < 0.5:
        output, source = w.pick("output", "out_path", "output_file"), w.pick("input_path", "source", "input_file")
        if output not in w.used and source not in w.used:
            w.used |= {output, source}
            return [f"{output} = {path}", f"with open({output}, {quote}w{quote}) as {writer}:", f"    {writer}.write({w.string(quote)})",
                    f"{source} = {path}", f"with open({source}, {quote}r{quote}) as {reader}:", f"    print({reader}.read())"]  # fmt: skip
    kept = w.name()
    mode = w.pick("", f", {quote}r{quote}")
    if w.random.random() < 0.5:
        lines += [f"with open({path}{mode}) as {reader}:", f"    {kept} = {reader}.read()", f"print({kept})"]
    else:
        lines += [f"{kept} = open({path}{mode})", f"print({kept}.read())", f"{kept}.close()"]
    return lines


def nested_brackets(w: Writer) -> list[str]:
    name = w.name()
    depth = w.number(1, 3)
    if depth == 1:
        return [f"{name} = {w.pick(w.list, w.mixed_list)()}", f"print({name}[0])"]
    rows = [w.list() for _ in range(w.number(2, 3))]
    if depth == 2:
        lines = [f"{name} = [{', '.join(rows)}]"] if w.random.random() < 0.6 else [
            f"{name} = [", *(f"    {row}," for row in rows), "]"]  # fmt: skip
        return [*lines, f"print({name}[0][0])"]
    return [f"{name} = [[{', '.join(rows[:1])}], [{', '.join(rows[1:])}]]", f"print(len({name}[1]))"]


def dicts(w: Writer) -> list[str]:
    name, quote = w.name(), w.pick("'", '"')
    keys = w.random.sample(WORDS, w.number(2, 4))
    value = w.pick(lambda: str(w.number()), lambda: w.string(quote), lambda: f"[{w.numbers()}]")
    pairs = [f"{quote}{key}{quote}: {value()}" for key in keys]
    lines = (
        [f"{name} = {{{', '.join(pairs)}}}"]
        if w.random.random() < 0.6
        else [f"{name} = {{", *(f"    {p}," for p in pairs), "}"]
    )
    more = [f"print({name}[{quote}{keys[0]}{quote}])"]
    if w.random.random() < 0.4:
        key, item = w.name(LETTERS), w.name(LETTERS)
        more = [f"for {key}, {item} in {name}.items():", f"    print({key}, {item})"]
    return lines + more


def for_loops(w: Writer) -> list[str]:
    each, name = w.name(LETTERS, NOUNS), w.name()
    if w.random.random() < 0.5:
        body = [f"    if {w.condition(each)}:", f"        print({each})"] if w.random.random() < 0.5 else [f"    print({each})"]
        return [f"{name} = [{w.numbers()}]", f"for {each} in {name}:", *body]
    return [f"{name} = 0", f"for {each} in range({w.number(2, 9)}):", f"    {name} += {each}", f"print({name})"]


def while_loops(w: Writer) -> list[str]:
    name, limit = w.name(), w.number(2, 9)
    if w.random.random() < 0.3:
        return [f"{name} = {w.number(2, 9)}", f"while {name}:", f"    {name} -= 1", f"print({name})"]
    if w.random.random() < 0.6:
        return [f"{name} = 0", f"while {name} {w.pick('<', '!=')} {limit}:", f"    {name} += 1", f"print({name})"]
    function = w.function()
    return [f"def {function}({name}):", "    while True:", f"        {name} += 1", f"        if {name} > {limit}:",
            f"            return {w.pick('True', name)}", "", f"print({function}({w.number(0, 3)}))"]  # fmt: skip


def returns_true(w: Writer) -> list[str]:
    function, given = w.function(), w.name()
    test = w.pick(f"{w.condition(given)}", f"{given} in [{w.numbers()}]", f"not {given}")
    return [f"def {function}({given}):", f"    if {test}:", "        return True", "    return False", "",
            f"print({function}({w.number()}))"]  # fmt: skip


def branches(w: Writer) -> list[str]:
    name, kept = w.names(2)
    said = [w.string() for _ in range(3)]
    lines = [f"{name} = {w.number()}", f"if {w.condition(name)}:", f"    {kept} = {said[0]}"]
    for text in said[1 : w.number(1, 3)]:
        lines += [f"elif {w.condition(name)}:", f"    {kept} = {text}"]
    return [*lines, "else:", f"    {kept} = {w.string()}", f"print({kept})"]


def ternaries(w: Writer) -> list[str]:
    name, kept = w.names(2)
    first, second = w.pick((str(w.number()), str(w.number())), (w.string("'"), w.string("'")), (name, str(w.number())))
    return [f"{name} = {w.number()}", f"{kept} = {first} if {w.condition(name)} else {second}", f"print({kept})"]


def f_strings(w: Writer) -> list[str]:
    name, quote = w.name(), w.pick("'", '"')
    word = w.random.choice(WORDS)
    lines = [f"{name} = {w.pick(str(w.number()), w.string())}"]
    lines += [f"print(f{quote}{word}: {{{name}}}{quote})", f"print({quote}{word}: {w.random.choice(WORDS)}{quote})"]
    return [lines[0], *w.random.sample(lines[1:], 2)]


def swaps(w: Writer) -> list[str]:
    x, y = w.name(LETTERS), w.name(LETTERS)
    lines = (
        [f"{x}, {y} = {w.number()}, {w.number()}"]
        if w.random.random() < 0.5
        else [f"{x} = {w.number()}", f"{y} = {w.number()}"]
    )
    swap = f"{x}, {y} = {y}, {x}"
    return (
        [*lines, swap, f"print({x}, {y})"]
        if w.random.random() < 0.6
        else [*lines, f"if {x} > {y}:", f"    {swap}", f"print({x})"]
    )


def lambdas(w: Writer) -> list[str]:
    name, given = w.name(), w.name(LETTERS)
    work = w.pick(f"{given} + {w.number()}", f"{given} * {w.number()}", f"{given} - {w.number()}", f"-{given}")
    if w.random.random() < 0.5:
        return [f"{name} = lambda {given}: {work}", f"print({name}({w.number()}))"]
    return [f"{name} = sorted([{w.numbers()}], key=lambda {given}: {work})", f"print({name})"]


def functions(w: Writer) -> list[str]:
    function, x, y = w.function(), w.name(LETTERS), w.name(LETTERS)
    return [f"def {function}({x}, {y}):", f"    return {x} {w.pick('+', '-', '*')} {y}", "",
            f"print({function}({w.number()}, {w.number()}))"]  # fmt: skip


def equality(w: Writer) -> list[str]:
    x, y = w.names(2)
    lines = [f"{x} = {w.number()}", f"{y} = {w.pick(x, str(w.number()))}"]
    return [*lines, f"if {x} == {y}:", f"    print({w.string()})", f"{x} = {y}"]


def truth(w: Writer) -> list[str]:
    name, truths = w.name(), ("True", "False")
    lines = [f"{name} = {w.pick(*truths)}", f"if {name} {w.pick('==', 'is')} {w.pick(*truths)}:", f"    print({w.string()})"]
    if w.random.random() < 0.7:  # a comparison that is no condition
        lines.append(f"{w.name()} = {name} {w.pick('==', 'is')} {w.pick(*truths)}")
    return [*lines, f"{name} = {w.pick(*truths)}"]


def counted_loops(w: Writer) -> list[str]:
    name, i, each = w.name(), w.name(LETTERS), w.name(NOUNS)
    lines = [f"{name} = {w.list()}"]
    if w.random.random() < 0.5:
        return [*lines, f"for {i}, {each} in enumerate({name}):", f"    print({i}, {each})"]
    return [*lines, f"for {i} in range(len({name})):", f"    print({i}, {name}[{i}])"]


IDIOMS: tuple[Callable[[Writer], list[str]], ...] = (
    quoted_calls, growing_set_or_string, growing_in_function, keyword_arguments, class_with_init, files, nested_brackets, dicts, for_loops,
    while_loops, returns_true, branches, ternaries, f_strings, swaps, lambdas, functions, equality, truth, counted_loops,
)  # fmt: skip


def program(seed: int, index: int) -> str:
    """Program number `index` of a seed: two to six idioms. The same on every machine and Python version."""
    random = Random(f"idioms {seed} {index}")
    writer = Writer(random)
    parts = []
    for idiom in random.sample(IDIOMS, random.randint(2, 6)):
        if random.random() < 0.08:
            parts.append([f"# {random.choice(VERBS)} the {random.choice(NOUNS)}"])
        parts.append(idiom(writer))
    separate = "\n\n" if random.random() < 0.5 else "\n"
    return separate.join("\n".join(part) for part in parts) + "\n"


def programs(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """(name, text) of `count` different programs."""
    seen: set[str] = set()
    index = 0
    while len(seen) < count:
        text = program(seed, index)
        if text not in seen:
            seen.add(text)
            yield f"idioms/{seed}/{index}.py", text
        index += 1
