"""The verbs that show networks and recipes, at once: they load no TensorFlow."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Annotated, Any

import tyro

from ..choices import lookup
from ..networks.paper import NETWORKS, PAPER_ERRORS
from ..networks.spec import ResNetSpec
from ..networks.summary import summarize
from ..runs.recipes import RECIPES
from . import tables
from .flags import Flag, optional
from .groups import NETWORK, Groups, Inline, changes, grouped
from .output import console, print_json


def list_(*, json: Flag = False) -> None:
    """List networks and recipes, with parameters, multiply-adds and the paper's error.

    Example: keras-resnet list

    Args:
        json: print JSON
    """
    networks: list[dict[str, Any]] = []
    for name, spec in NETWORKS.items():
        size, classes = _usual(spec)
        summary = summarize(spec, size, classes)
        error, where = PAPER_ERRORS.get(name, (None, None))
        networks.append(
            {
                "name": name,
                "parameters": summary.parameters,
                "multiply_adds": summary.multiply_adds,
                "input_size": size,
                "classes": classes,
                "paper_error": error,
                "paper_source": where,
            }
        )
    recipes = [asdict(recipe) | {"network": recipe.spec.name} for recipe in RECIPES.values()]
    if json:
        return print_json({"networks": networks, "recipes": recipes})
    console().print(tables.networks(networks))
    console().print(tables.recipes(list(RECIPES.values())))


def showing(default: ResNetSpec) -> Callable[..., None]:
    """Return the verb `show`.

    Args:
        default: the network that it shows where no flag changes it.
    """

    unchanged = grouped(default, NETWORK)

    def show(
        network: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NETWORK")],
        fields: Annotated[Groups, Inline] = unchanged,
        *,
        compare: Annotated[str | None, optional("NETWORK")] = None,
        input_size: Annotated[int | None, optional("INT")] = None,
        classes: Annotated[int | None, optional("INT")] = None,
        json: Flag = False,
    ) -> None:
        """Show a network as Table 1 prints it, stage by stage.

        Example: keras-resnet show resnet34 --compare plain34

        Args:
            network: its name, as `list` prints it
            fields: what to change in it
            compare: another network, to show where the two differ
            input_size: side of the images in pixels; by default 32 for the CIFAR networks, 224 for
                the others
            classes: by default 10 for the CIFAR networks, 1000 for the others
            json: print JSON
        """
        spec = replace(default, **changes(default, fields))
        specs = [spec] if compare is None else [spec, lookup("network", compare, NETWORKS)]
        summaries = []
        for one in specs:
            usual_size, usual_classes = _usual(one)
            size = usual_size if input_size is None else input_size
            count = usual_classes if classes is None else classes
            if size < 1 or count < 1:
                raise ValueError(
                    f"input_size is {size} and classes is {count}; give positive numbers"
                )
            summaries.append(summarize(one, size, count))
        if json:
            rows = [
                {"name": s.name, "spec": asdict(s)} | asdict(m)
                for s, m in zip(specs, summaries, strict=True)
            ]
            return print_json(rows[0] if compare is None else rows)
        for one, summary in zip(specs, summaries, strict=True):
            console().print(tables.stages(one, summary))
        if compare is not None:
            console().print(tables.differences(specs, summaries))

    return show


def _usual(spec: ResNetSpec) -> tuple[int, int]:
    """Return the input size in pixels and the classes that the paper uses a network with."""
    return (32, 10) if spec.stem == "cifar" else (224, 1000)
