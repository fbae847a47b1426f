"""What the parser cannot parse, as errors of one line with the nearest matches."""

import contextlib
import itertools
from collections.abc import Collection, Sequence

# Private, but what it reports is data, where the library itself prints a box around a text. It has
# been the same since 1.0.14.
from tyro import _arguments, _errors

from ..choices import lookup

_PLAIN = {"INT": "an integer", "FLOAT": "a number"}


def raised(
    verb: str, args: Sequence[str], flags: Collection[str]
) -> contextlib.AbstractContextManager[None]:
    """Return a context in which tyro raises `ValueError` for what it cannot parse.

    Args:
        verb: the verb, or "" where there is none.
        args: what follows it.
        flags: those it has.
    """
    command = f"keras-resnet {verb}".strip()
    example = f"`{command} --help` shows an example"

    def refuse(event: _errors.ParseErrorEvent) -> None:
        match event:
            case (
                _errors.UnrecognizedArgs(tokens=tokens)
                | _errors.MissingArgs(unrecognized_tokens=[_, *_] as tokens)
            ):
                unknown = [token for token in tokens if token.startswith("-")]
                if unknown:
                    name = unknown[0].partition("=")[0]
                    lookup(f"flag of `{command}`", name, dict.fromkeys(flags))
                raise ValueError(f"{tokens[0]!r} is one argument too many; {example}")
            case _errors.MissingArgs(missing_arguments=[first, *_]):
                raise ValueError(f"`{command}` needs {_with_value(first.arg)}; {example}")
            case _errors.InvalidChoice(argument=argument, value=value):
                raise ValueError(f"{_name(argument)} is {value!r}; {_wanted(argument)}")
            case _errors.BadValue(argument=argument) if argument.is_positional():
                raise ValueError(f"`{command}` needs {_with_value(argument)}; {example}")
            case _errors.BadValue(argument=argument):
                raise ValueError(f"{_name(argument)} has no value; {_wanted(argument)}")
            case _errors.InstantiationFailure(argument=argument) if argument is not None:
                value = _given(_name(argument), args)
                raise ValueError(f"{_name(argument)} is {value!r}; {_wanted(argument)}")

    return _errors.on_parse_error(refuse)


def _name(argument: _arguments.ArgumentDefinition) -> str:
    lowered = argument.lowered
    return str(lowered.metavar) if argument.is_positional() else lowered.name_or_flags[0]


def _with_value(argument: _arguments.ArgumentDefinition) -> str:
    metavar = str(argument.lowered.metavar)
    return metavar if argument.is_positional() else f"{_name(argument)} {metavar}"


def _wanted(argument: _arguments.ArgumentDefinition) -> str:
    metavar = str(argument.lowered.metavar)
    if metavar.startswith("{"):  # the choices, which tyro's events have in no stable order
        return f"choose one of {', '.join(map(repr, metavar.strip('{}').split(',')))}"
    return f"give {_PLAIN.get(metavar, metavar)}"


def _given(flag: str, args: Sequence[str]) -> str:
    """Return the value that follows a flag, as it was given."""
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == flag:
            rest = itertools.takewhile(lambda each: not each.startswith("--"), args[index + 1 :])
            return value if equals else " ".join(rest)
    return ""
