"""Measure contenders in turns, so that a drift of the machine's speed favors none."""

from collections.abc import Callable, Iterable
from typing import Any


def in_turns(
    contenders: Iterable[str], rounds: int, measure: Callable[[str], Any]
) -> dict[str, list[Any]]:
    """Measure contenders in turns, and return the values of each.

    The order changes from turn to turn, and a first round, which warms up, does not count.

    Args:
        contenders: their names.
        rounds: the number of turns that count.
        measure: a function that measures one of them once.
    """
    names = list(contenders)
    values: dict[str, list[Any]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        first = turn % max(1, len(names))
        for name in names[first:] + names[:first]:
            value = measure(name)
            if turn:
                values[name].append(value)
    return values
