"""Regular expressions that say no more than a list of texts, or of endings: which ones.

OpenSnitch compiles them as Go does (RE2 syntax, golang.org/s/re2syntax) and looks for a match
anywhere in the text. Read here is the part of that syntax that is finite: literals, escaped
punctuation, `(a|b)`, `(?:a|b)`, `[abc]`, `x?`, anchors at both ends, and `.*` or `.+` at the start.
Everything else has no equal in a rule, and neither has a missing anchor, which matches more.
"""

from __future__ import annotations

from msgspec import Struct

MOST = 256
"""Texts that one expression may stand for."""
DEEPEST = 20
"""Groups inside each other."""
_SPECIAL = frozenset("\\.+*?()|[]{}^$")


class NoEqualError(ValueError):
    """No list of texts says the same as the expression; the text says why."""


class Texts(Struct, frozen=True):
    """What an expression matches: these texts, and every text that ends in one of `endings`."""

    exact: tuple[str, ...]
    endings: tuple[str, ...]


_Word = tuple[bool, str]
"""Whether anything may stand before the text, and the text."""


def texts_of(expression: str) -> Texts:
    """What `expression` matches, exactly. Raises NoEqualError."""
    words: dict[_Word, None] = {}
    reader = _Reader(expression)
    while True:
        started = reader.take("^")
        found = reader.sequence(0)
        if not reader.take("$"):
            raise reader.wrong("it does not end in $, so that anything may follow")
        words.update(dict.fromkeys((open or not started, text) for open, text in found))
        if reader.at_end():
            break
        if not reader.take("|"):
            raise reader.wrong("something stands after $")
    if (True, "") in words:
        raise NoEqualError("it matches everything: leave that condition out")
    exact = tuple(text for open, text in words if not open)
    return Texts(exact, tuple(text for open, text in words if open))


class _Reader:
    """A recursive descent over one expression."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def at_end(self) -> bool:
        return self.at == len(self.text)

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, what: str) -> bool:
        if not self.text.startswith(what, self.at):
            return False
        self.at += len(what)
        return True

    def wrong(self, why: str) -> NoEqualError:
        return NoEqualError(f"character {self.at + 1} of the regexp: {why}")

    def sequence(self, depth: int) -> list[_Word]:
        """Everything up to `|`, `)`, `$` or the end."""
        words: list[_Word] = [(False, "")]
        while not self.at_end() and self.peek() not in "|)$":
            words = self.joined(words, self.repeated(depth))
        return words

    def joined(self, heads: list[_Word], tails: list[_Word]) -> list[_Word]:
        if len(heads) * len(tails) > MOST:
            raise NoEqualError(f"it stands for more than {MOST} texts")
        out: dict[_Word, None] = {}
        for open_head, head in heads:
            for open_tail, tail in tails:
                if open_tail and (head or open_head):
                    raise self.wrong(".* stands elsewhere than at the start")
                out[open_head or open_tail, head + tail] = None
        return list(out)

    def repeated(self, depth: int) -> list[_Word]:
        if self.take("."):
            if not (self.take("*") or self.take("+")):
                raise self.wrong("a dot matches any character; \\. is the dot itself")
            words = [(True, "")]
        else:
            words = self.atom(depth)
            if self.take("?"):
                words = list(dict.fromkeys([*words, (False, "")]))
        if self.peek() and self.peek() in "*+?{":
            raise self.wrong("a repetition has no equal")
        return words

    def atom(self, depth: int) -> list[_Word]:
        if self.take("("):
            return self.group(depth + 1)
        if self.take("["):
            return self.choice()
        char = self.peek()
        if char == "\\":
            return [(False, self.escaped())]
        if char in _SPECIAL:
            raise self.wrong(f"{char} has no equal there")
        self.at += 1
        return [(False, char)]

    def group(self, depth: int) -> list[_Word]:
        if depth > DEEPEST:
            raise NoEqualError(f"groups are more than {DEEPEST} deep")
        if self.peek() == "?" and not self.take("?:"):
            raise self.wrong("flags and named groups are not read")
        words = self.sequence(depth)
        while self.take("|"):
            words += self.sequence(depth)
            if len(words) > MOST:
                raise NoEqualError(f"it stands for more than {MOST} texts")
        if not self.take(")"):
            raise self.wrong("an anchor inside a group, or no closing parenthesis")
        return list(dict.fromkeys(words))

    def choice(self) -> list[_Word]:
        """`[abc]`: single characters, no ranges and no classes."""
        end = self.text.find("]", self.at)
        chars = self.text[self.at : end]
        if end < 0 or not chars or any(char in "^-[\\" for char in chars):
            raise self.wrong("of classes only lists of characters, such as [.], are read")
        self.at = end + 1
        return [(False, char) for char in dict.fromkeys(chars)]

    def escaped(self) -> str:
        char = self.text[self.at + 1 : self.at + 2]
        # Escaped ASCII punctuation is itself; letters and digits are classes and anchors.
        if not char or not char.isascii() or char.isalnum() or not char.isprintable():
            raise self.wrong("only escaped punctuation, such as \\., is read")
        self.at += 2
        return char
