"""Flags, and their names in the place of the library's arguments."""

import inspect
import re
from collections.abc import Callable, Mapping

import tyro

from .groups import Groups, flag, values

Flag = tyro.conf.FlagCreatePairsOff[bool]
"""--json, without --no-json"""

# Arguments of the library whose flag has another name.
_OTHERWISE = {
    "evaluate": {"data": "--dataset"},
    "export": {"directory": "--to"},
    "client": {"rate": "--rates"},
    "search": {"directory": "--run-dir"},
}


def optional(metavar: str) -> object:
    """Return the annotation of a flag whose description says what applies without it.

    Args:
        metavar: what the help shows for its value.
    """
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


def flags_of(verb: str, function: Callable[..., None]) -> dict[str, str]:
    """Map each argument that a verb has a flag for to that flag.

    Args:
        verb: its name.
        function: what tyro makes its flags from; `Groups` stand for the fields in them.
    """
    found = dict(_OTHERWISE.get(verb, {}))
    for name, parameter in inspect.signature(function).parameters.items():
        if isinstance(parameter.default, Groups):
            named = {each: flag(each) for each in values(parameter.default)}
            # What is in a field that is a value, such as the network, has its short name too.
            found |= {each.rpartition(".")[2]: named[each] for each in named} | named
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            found[name] = flag(name)
    return found


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Put flags in the place of arguments.

    An argument is a name in backticks, or what a message of the form `name is VALUE; ...` says the
    value of.

    Args:
        message: of an error or a warning.
        flags: by the name of the argument.
    """
    message = re.sub(r"`([\w.]+)`", lambda match: flags.get(match[1], match[0]), message)
    stated, semicolon, advice = message.partition(";")
    stated = re.sub(
        r"(^|, | and )([a-z_.]+)(?= is )",
        lambda match: match[1] + flags.get(match[2], match[2]),
        stated,
    )
    return stated + semicolon + advice
