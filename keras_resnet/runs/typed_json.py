"""Read dataclasses from JSON, whose values have no types."""

import reprlib
import types
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..choices import require


def from_values(cls: type, values: dict[str, Any]) -> Any:
    """Return a dataclass from the values of a JSON object.

    Args:
        cls: the dataclass, whose fields have types of JSON, tuples, or unions of these.
        values: the values of its fields by name.

    Raises:
        ValueError: a field is unknown or missing, or its value has another type.
    """
    names = [field.name for field in fields(cls)]
    for name in values:
        require(f"a field of {cls.__name__}", name, tuple(names))
    for name, value in values.items():
        # JSON has no tuples.
        if isinstance(value, list):
            values = values | {name: tuple(tuple(v) if isinstance(v, list) else v for v in value)}
    for name, hint in get_type_hints(cls).items():
        if name in values and not _has_type(values[name], hint):
            kind = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise ValueError(f"{name} is {reprlib.repr(values[name])}; give a value of type {kind}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"not a {cls.__name__}: {error}") from None


def _has_type(value: Any, hint: Any) -> bool:
    """Return whether a value from JSON has a field's declared type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_has_type(value, argument) for argument in arguments)
    if origin is Literal:
        # The check of the field lists the choices.
        return type(value) in {type(choice) for choice in arguments}
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_has_type(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_has_type, value, arguments))
    if hint is float or hint is int:
        # TensorFlow's integers have 64 bits.
        is_int64 = type(value) is int and -(2**63) <= value < 2**63
        return is_int64 or (hint is float and type(value) is float)
    return isinstance(value, hint)
