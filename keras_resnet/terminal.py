"""Texts of other people on a terminal: names and messages, of files and folders above all.

They are shown as they are: no escape code reaches the terminal, and Rich finds no markup in them.
"""

import re

from rich.console import Console
from rich.text import Text

# Control characters but for tabs and ends of lines, and those that hide or turn other text.
_HIDDEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text whose control characters are shown, such as `\x1b`, and have no effect."""
    return _HIDDEN.sub(lambda match: repr(match[0])[1:-1], text)


def say(console: Console, text: str) -> None:
    """Print a line as it is, on any width of the terminal."""
    console.print(Text(printable(text)), soft_wrap=True)
