"""Checks of arguments whose messages name the value and the choices."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar


def require(what: str, value: object, choices: tuple[object, ...]) -> None:
    """Require a value to be one of the choices.

    Raises:
        ValueError: it is none of them; the message names the value and the choices.
    """
    if value not in choices:
        raise ValueError(f"{what} is {brief(value)}; choose one of {', '.join(map(repr, choices))}")


def brief(value: object) -> str:
    """Return the `repr` of a value for a message, cut to 100 characters."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


Value = TypeVar("Value")


def lookup(what: str, name: str, table: Mapping[str, Value]) -> Value:
    """Return `table[name]`.

    Raises:
        ValueError: the table has no such name; the message suggests the nearest ones.
    """
    if name not in table:
        near = nearest(name, table)
        hint = f"the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}"
        hint = hint if near else f"choose one of {', '.join(table)}"
        raise ValueError(f"no {what} is called {brief(name)}; {hint}")
    return table[name]


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three names that may have been meant, the likeliest first.

    These have similar letters, or words that begin with those given, or these initials: `lr` is
    near to `learning-rate`. Of equally similar ones the nearest number comes first: `resnet35` is
    nearer to `resnet34` than to `resnet50`.

    Args:
        name: what was given.
        names: the choices.
    """
    ranks = {other: (-_likeness(name, other), _distance(name, other)) for other in names}
    likely = [other for other, (likeness, _) in ranks.items() if -likeness >= 0.7]
    return sorted(likely, key=ranks.__getitem__)[:3]


def _likeness(name: str, other: str) -> float:
    given, words = _words(name), _words(other)
    if len(words) > 1 and given == ["".join(word[0] for word in words)]:
        return 1.0
    if given and all(any(word.startswith(part) for word in words) for part in given):
        return 1.0
    return difflib.SequenceMatcher(a=_letters(name), b=_letters(other)).ratio()


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z\d]+", name.lower())


def _letters(name: str) -> str:
    return "".join(re.findall(r"[a-z]", name.lower()))


def _distance(name: str, other: str) -> float:
    """Return how far apart the numbers in two names are."""
    pairs = [[int(number) for number in re.findall(r"\d+", text)] for text in (name, other)]
    if len(pairs[0]) != len(pairs[1]):
        return math.inf
    return sum(abs(a - b) for a, b in zip(*pairs, strict=True))
