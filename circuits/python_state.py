"""Where in Python source a token stands, by what comes before it alone: strings, comments, brackets, words. For predicates that explain nodes."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

_QUOTES, _OPEN, _CLOSE = "'\"", "([{", ")]}"


@dataclass(frozen=True)
class State:
    """After a piece of source.

    Args:
        string: the quotes that are open: "", or one of ', ", ''' and triple ". comment: whether a comment has not ended.
        brackets: those that are open, innermost last.
        word: the word that the source ends in, in code. before: the word before that, or the last if none is under way.
        last: the last character of code that is no blank. first: the first word of the line. indent: blanks before the line's first character.
        blank: whether the line has nothing but blanks so far.
    """

    string: str = ""
    comment: bool = False
    brackets: str = ""
    word: str = ""
    before: str = ""
    last: str = ""
    first: str = ""
    indent: int = 0
    blank: bool = True
    _run: str = field(default="", repr=False)  # quotes in a row, as far as they may make three
    _escaped: bool = field(default=False, repr=False)

    def then(self, text: str) -> State:
        """After more source."""
        state = self
        for character in text:
            state = state._then(character)
        return state

    def _then(self, c: str) -> State:
        if self.comment:
            return self._new_line() if c == "\n" else self
        if self.string:
            return self._in_string(c)
        if c in _QUOTES:
            three = self._run == 2 * c  # the first two were an empty string, which they are no more
            return replace(self._ended(), string=3 * c if three else c, _run="" if three else c, last=c, blank=False)
        return replace(self._in_code(c), _run="")

    def _in_string(self, c: str) -> State:
        if self._escaped:
            return replace(self, _escaped=False, _run="")
        if c == "\\":
            return replace(self, _escaped=True, _run="")
        if len(self.string) == 1:
            if c == "\n":
                return replace(self._new_line(), string="")  # it was never closed
            if c == self.string:
                return replace(self, string="", _run=2 * c if self._run == c else "")
            return replace(self, _run="")
        run = self._run + c if c == self.string[0] else ""
        return replace(self, string="", _run="") if run == self.string else replace(self, _run=run)

    def _in_code(self, c: str) -> State:
        if c == "\n":
            return self._new_line()
        if c in " \t":
            return replace(self._ended(), indent=self.indent + self.blank)
        if c.isalnum() or c == "_":
            return replace(self, word=self.word + c, last=c, blank=False)
        if c == "#":
            return replace(self._ended(), comment=True, blank=False)
        brackets = self.brackets + c if c in _OPEN else self.brackets[:-1] if c in _CLOSE else self.brackets
        return replace(self._ended(), brackets=brackets, last=c, blank=False)

    def _ended(self) -> State:
        """The word that was under way has ended."""
        if not self.word:
            return self
        return replace(self, word="", before=self.word, first=self.first or self.word)

    def _new_line(self) -> State:
        return replace(
            self._ended(), comment=False, first="", indent=0, blank=True, last="\n" if not self.brackets else self.last
        )


Predicate = Callable[[State, State, str], bool]  # the state before a token, after it, and its text


def _word_before(word: str) -> Predicate:
    return lambda before, after, text: not after.string and ((before.before == word and not before.word) or before.word == word)


def _line_of(word: str) -> Predicate:
    return lambda before, after, text: word in (after.first, before.first) or (not after.first and after.word == word)


def _after_character(character: str) -> Predicate:
    return lambda before, after, text: not before.string and not before.comment and before.last == character


def _innermost(bracket: str) -> Predicate:
    return lambda before, after, text: after.brackets[-1:] == bracket


def _is_name(text: str) -> bool:
    return text.strip().isidentifier() and not keyword.iskeyword(text.strip())


PREDICATES: dict[str, Predicate] = {
    "in a string": lambda b, a, t: bool(a.string),
    "in a string of '": lambda b, a, t: a.string[:1] == "'",
    'in a string of "': lambda b, a, t: a.string[:1] == '"',
    "in a string of three quotes": lambda b, a, t: len(a.string) == 3,
    "opens a string": lambda b, a, t: bool(a.string) and not b.string,
    "opens a string of '": lambda b, a, t: a.string[:1] == "'" and not b.string,
    'opens a string of "': lambda b, a, t: a.string[:1] == '"' and not b.string,
    "closes a string": lambda b, a, t: bool(b.string) and not a.string,
    "in a comment": lambda b, a, t: a.comment,
    "in brackets": lambda b, a, t: bool(a.brackets),
    "in two brackets or more": lambda b, a, t: len(a.brackets) > 1,
    **{f"in {c}": _innermost(c) for c in _OPEN},
    "opens a bracket": lambda b, a, t: len(a.brackets) > len(b.brackets),
    "closes a bracket": lambda b, a, t: len(a.brackets) < len(b.brackets),
    "ends a line": lambda b, a, t: "\n" in t,
    "the line is blank so far": lambda b, a, t: a.blank,
    "in an indented line": lambda b, a, t: a.indent > 0,
    "in a line indented twice": lambda b, a, t: a.indent > 4,
    **{f"after {word}": _word_before(word) for word in ("def", "class", "import", "from", "return", "if", "for", "in", "while", "with", "as", "not", "is", "self", "print", "range", "open")},
    **{f"in a line of {word}": _line_of(word) for word in ("def", "class", "import", "from", "return", "if", "elif", "else", "for", "while", "with", "try", "except", "print")},
    **{f"after {c}": _after_character(c) for c in "=.,:([{+-*<>'\""},
    "a name": lambda b, a, t: not a.string and not a.comment and _is_name(t),
    "a keyword": lambda b, a, t: not a.string and not a.comment and keyword.iskeyword(t.strip()),
    "a number": lambda b, a, t: t.strip().isdigit(),
    "blanks": lambda b, a, t: not t.strip(" \t"),
}  # fmt: skip
SEEN = "a name that was there before"  # looks further back than a state does


def holding_at(texts: Sequence[str]) -> dict[str, list[bool]]:
    """Name of a ready predicate -> whether it holds at each token of a text, by the tokens up to it."""
    found: dict[str, list[bool]] = {name: [] for name in (*PREDICATES, SEEN)}
    state, names = State(), set()
    for text in texts:
        after = state.then(text)
        for name, predicate in PREDICATES.items():
            found[name].append(predicate(state, after, text))
        own = text.strip()
        found[SEEN].append(_is_name(own) and own in names)
        names.add(own)
        state = after
    return found
