"""The command line's tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from .analysis import Summary
from .recipe import Recipe
from .spec import PAPER_ERRORS, ResNetSpec


def networks(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Those of `list`, as it prints them in JSON."""
    table = _table("Networks", "name", ">parameters", ">multiply-adds", ">input", ">paper's error", "of")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters']:,}",
            f"{row['multiply_adds']:,}",
            f"{row['input_size']} px",
            _percent(row["paper_error"]),
            row["paper_source"] or "",
        )
    return table


def recipes(rows: Sequence[Recipe]) -> Table:
    """Recipes, with the paper's error where it gives one for their data."""
    table = _table(
        "Recipes (keras-resnet train NAME)", "name", "network", "dataset", ">length", ">batch", ">paper's error"
    )
    for recipe in rows:
        paper = PAPER_ERRORS.get(recipe.spec.name) if recipe.dataset == "cifar10" else None
        length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs:g} epochs"
        table.add_row(
            recipe.name, recipe.spec.name, recipe.dataset, length, str(recipe.batch_size), _percent(paper and paper[0])
        )
    return table


def stages(spec: ResNetSpec, summary: Summary) -> Table:
    """A network as Table 1 prints it."""
    table = _table(
        f"{spec.name}, {spec.depth} layers",
        "stage", ">output", ">channels", "units", ">parameters", ">multiply-adds", ">receptive field",
    )  # fmt: skip
    kinds = iter(
        " ".join(f"{c.kernel}x{c.kernel},{c.outputs}" for c in stage[0].convolutions) for stage in spec.stages()
    )
    for stage in summary.stages:
        table.add_row(
            stage.name,
            "x".join(map(str, stage.output_size)),
            str(stage.channels),
            f"{stage.blocks} of [{next(kinds)}]" if stage.blocks else "",
            f"{stage.parameters:,}",
            f"{stage.multiply_adds:,}",
            "whole picture" if stage.name == "head" else f"{stage.receptive_field} px",
        )
    table.add_section()
    table.add_row("all", "", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}", "")
    statistics = summary.total_parameters - summary.parameters
    table.caption = f"{summary.total_parameters:,} parameters with the {statistics:,} moving statistics of batch norm"
    return table


def differences(specs: Sequence[ResNetSpec], summaries: Sequence[Summary]) -> Table:
    """Where two networks differ."""
    table = _table("Differences", "", *(f">{spec.name}" for spec in specs))
    rows = [asdict(spec) | {"depth": spec.depth} for spec in specs]
    for spec, row, summary in zip(specs, rows, summaries, strict=True):
        row |= {"parameters": summary.parameters, "multiply-adds": summary.multiply_adds}
        row["projections"] = sum(b.shortcut == "projection" for stage in spec.stages() for b in stage)
        row["receptive field"] = summary.stages[-1].receptive_field
    for field in rows[0]:
        if rows[0][field] != rows[1][field]:
            table.add_row(field, *(f"{v:,}" if isinstance(v := row[field], int) else str(v) for row in rows))
    return table


def trials(name: str, rows: Sequence[Mapping[str, str]]) -> Table:
    """Those of a search, as its CSV file has them."""
    table = _table(f"Trials of {name}", *(f">{column.replace('_', ' ')}" for column in rows[0]))
    for row in rows:
        table.add_row(*row.values())
    return table


def signatures(
    title: str,
    places: Mapping[str, Mapping[str, Mapping[str, str]]],
    first_seconds: Mapping[str, float],
    later_seconds: Mapping[str, float],
) -> Table:
    """Those of a SavedModel, with how long they took to answer."""
    table = _table(title, "signature", "inputs", "outputs", ">first request", ">next")
    for name, ways in places.items():
        cells = ["\n".join(f"{key}: {kind}" for key, kind in ways[way].items()) for way in ("inputs", "outputs")]
        times = [f"{1000 * each[name]:.1f} ms" if name in each else "" for each in (first_seconds, later_seconds)]
        table.add_row(name, *map(escape, cells), *times)
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def _table(title: str, *columns: str) -> Table:
    """A table whose columns are named; those that begin with `>` are set to the right."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return table
