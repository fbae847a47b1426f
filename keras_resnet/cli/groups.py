"""The fields of a recipe or a network as flags, in the groups that the help shows."""

import functools
import types
from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

NETWORK = {
    "network": ("stem", "blocks", "width", "block", "shortcut", "stride_on", "order"),
}

RECIPE = {
    "data": ("dataset", "data_dir", "image_size", "skip_broken", "holdout"),
    "augmentation": (
        "augmentation",
        "crop_area",
        "trivial_augment",
        "rand_augment",
        "erasing",
        "mixup",
        "cutmix",
        "repeated_augmentation",
        "lighting",
    ),
    "network": ("spec", "weights", "freeze", "stochastic_depth", "dropout", "zero_gamma"),
    "loss": (
        "loss",
        "label_smoothing",
        "weigh_classes",
        "teacher",
        "distillation",
        "temperature",
    ),
    "optimization": (
        "batch_size",
        "epochs",
        "steps",
        "head_epochs",
        "optimizer",
        "learning_rate",
        "schedule",
        "warmup",
        "momentum",
        "nesterov",
        "weight_decay",
    ),
    "validation": ("validate_every", "patience", "keep", "ema", "bn_statistics"),
    "running": ("name", "precision", "seed", "deterministic"),
}

Inline = tyro.conf.arg(name="")
"""annotation of the parameter whose default is a `Groups`: its name is in no flag"""


class Groups:
    """Groups of fields: a dataclass of one dataclass per group."""


def grouped(value: Any, groups: Mapping[str, Sequence[str]]) -> Groups:
    """Return the fields of a dataclass in groups, from which tyro makes flags.

    Those of a dataclass in a field get its name as a prefix: `--spec.width`.

    Args:
        value: has the flags' defaults.
        groups: names of the fields by the title of a group.
    """
    made = []
    for title, names in groups.items():
        entries = [entry for name in names for entry in _entries(value, name, "")]
        group = make_dataclass(title, entries, frozen=True)
        made.append((title, group, group()))
    found = make_dataclass("Groups", made, bases=(Groups,), frozen=True)()
    assert isinstance(found, Groups)
    return found


def values(groups: Groups) -> dict[str, Any]:
    """Return the values in groups, by names such as `learning_rate` and `spec.width`.

    Args:
        groups: as `grouped` returns them.
    """
    by_title = [getattr(groups, one.name) for one in fields(groups)]  # type: ignore[arg-type]
    return {
        one.metadata["name"]: getattr(group, one.name)
        for group in by_title
        for one in fields(group)
    }


def changes(before: Any, groups: Groups) -> dict[str, Any]:
    """Return the fields that groups change, with their new values.

    Args:
        before: a dataclass.
        groups: as `grouped` made them of such a value, with other values.

    Raises:
        ValueError: the value of a field of a field is not usable.
    """
    given, changed = values(groups), {}
    for name in (one.name for one in fields(before)):
        was = getattr(before, name)
        if is_dataclass(was):
            inner = {each.name: given[f"{name}.{each.name}"] for each in fields(was)}
            now = replace(was, **inner)  # type: ignore[type-var]
        else:
            now = given[name]
        if now != was:
            changed[name] = now
    return changed


def flag(name: str) -> str:
    """Return the flag of an argument."""
    return f"--{name.replace('_', '-')}"


def _entries(owner: Any, name: str, prefix: str) -> list[tuple[str, Any, Any]]:
    """Return the fields of a group for a field of `owner`: itself, or those of its dataclass."""
    default = getattr(owner, name)
    if is_dataclass(default):
        inner = [one.name for one in fields(default)]
        return [entry for each in inner for entry in _entries(default, each, f"{prefix}{name}.")]
    hint = get_type_hints(type(owner))[name]
    argument = tyro.conf.arg(
        name=flag(prefix + name).removeprefix("--"),
        prefix_name=False,
        help=_documentation(owner.__class__).get(name, ""),
        metavar=_metavar(hint),
    )
    return [
        (
            f"{prefix}{name}".replace(".", "_"),
            Annotated[hint, argument],
            field(default=default, metadata={"name": f"{prefix}{name}"}),
        )
    ]


@functools.cache
def _documentation(cls: type) -> dict[str, str]:
    """Return what the source says of each field of a class."""
    documented = docstring_parser.parse_from_object(cls).params
    return {one.arg_name: " ".join((one.description or "").split()) for one in documented}


def _metavar(hint: Any) -> str | None:
    """Return what the help shows for a value of a type; None for a flag without a value."""
    if hint is bool:
        return None
    if get_origin(hint) is Literal:
        return f"{{{','.join(map(str, get_args(hint)))}}}"
    if get_origin(hint) in (Union, types.UnionType):
        shown = [str(_metavar(one)) for one in get_args(hint) if one is not types.NoneType]
        if types.NoneType in get_args(hint) and shown[0].endswith("}"):
            shown[0] = f"{shown[0][:-1]},None}}"
        return "|".join(shown)
    if get_origin(hint) is tuple:
        items = [str(_metavar(one)) if one is not ... else "..." for one in get_args(hint)]
        return " ".join(items)
    return str(hint.__name__).upper()
