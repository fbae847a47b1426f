import io

import pytest
from rich.console import Console

from keras_resnet.terminal import printable, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b2J", r"\x9b2J"),  # the same in one character
        ("a\rb\b", r"a\rb\x08"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
        ("line\n\ttab", "line\n\ttab"),
        ("café 犬 \N{FAMILY}\u200d", "café 犬 \N{FAMILY}\u200d"),
    ],
)
def test_control_characters_are_shown(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["[red]x[/red]", "[/]", ":dog:", "[link=http://x]y", "1 [2] 3"])
@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_markup(text, terminal):
    """A terminal gets the same characters, in no color."""
    file = io.StringIO()
    say(Console(file=file, force_terminal=terminal, width=10), text)
    assert file.getvalue() == f"{text}\n"
