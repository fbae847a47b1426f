"""The command line's tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from ..networks.paper import PAPER_ERRORS
from ..networks.spec import ResNetSpec
from ..networks.summary import Summary
from ..runs.interval import with_interval
from ..runs.recipe import Recipe
from ..serving.client_values import VersionStatus
from ..terminal import printable


def networks(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate networks.

    Args:
        rows: as `list` prints them in JSON.
    """
    table = _table(
        "Networks", "name", ">parameters", ">multiply-adds", ">input", ">paper's error", "of"
    )
    for row in rows:
        _add_row(
            table,
            row["name"],
            f"{row['parameters']:,}",
            f"{row['multiply_adds']:,}",
            f"{row['input_size']} px",
            _percent(row["paper_error"]),
            row["paper_source"] or "",
        )
    return table


def recipes(rows: Sequence[Recipe]) -> Table:
    """Tabulate recipes, with the paper's error where it gives one for their data.

    Args:
        rows: the recipes.
    """
    table = _table(
        "Recipes (keras-resnet train NAME)",
        "name",
        "network",
        "dataset",
        ">length",
        ">batch",
        ">paper's error",
    )
    for recipe in rows:
        paper = PAPER_ERRORS.get(recipe.spec.name) if recipe.dataset == "cifar10" else None
        length = f"{recipe.steps:,} steps" if recipe.steps else f"{recipe.epochs:g} epochs"
        _add_row(
            table,
            recipe.name,
            recipe.spec.name,
            recipe.dataset,
            length,
            str(recipe.batch_size),
            _percent(paper and paper[0]),
        )
    return table


def stages(spec: ResNetSpec, summary: Summary) -> Table:
    """Tabulate a network as Table 1 does.

    Args:
        spec: the network.
        summary: what it computes at one size of image.
    """
    table = _table(
        f"{spec.name}, {spec.depth} layers",
        "stage", ">output", ">channels", "units", ">parameters", ">multiply-adds",
        ">receptive field",
    )  # fmt: skip
    kinds = iter(
        " ".join(f"{c.kernel}x{c.kernel},{c.outputs}" for c in stage[0].convolutions)
        for stage in spec.stages()
    )
    for stage in summary.stages:
        _add_row(
            table,
            stage.name,
            "x".join(map(str, stage.output_size)),
            str(stage.channels),
            f"{stage.blocks} of [{next(kinds)}]" if stage.blocks else "",
            f"{stage.parameters:,}",
            f"{stage.multiply_adds:,}",
            "whole image" if stage.name == "head" else f"{stage.receptive_field} px",
        )
    table.add_section()
    _add_row(table, "all", "", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}", "")
    statistics = summary.total_parameters - summary.parameters
    table.caption = (
        f"{summary.total_parameters:,} parameters with the {statistics:,} moving statistics of"
        " batch norm"
    )
    return table


def differences(specs: Sequence[ResNetSpec], summaries: Sequence[Summary]) -> Table:
    """Tabulate where two networks differ.

    Args:
        specs: the two.
        summaries: one per network.
    """
    table = _table("Differences", "", *(f">{spec.name}" for spec in specs))
    rows = [asdict(spec) | {"depth": spec.depth} for spec in specs]
    for spec, row, summary in zip(specs, rows, summaries, strict=True):
        row |= {"parameters": summary.parameters, "multiply-adds": summary.multiply_adds}
        row["projections"] = sum(
            b.shortcut == "projection" for stage in spec.stages() for b in stage
        )
        row["receptive field"] = summary.stages[-1].receptive_field
    for field in rows[0]:
        if rows[0][field] != rows[1][field]:
            _add_row(
                table,
                field,
                *(f"{v:,}" if isinstance(v := row[field], int) else str(v) for row in rows),
            )
    return table


def trials(name: str, rows: Sequence[Mapping[str, str]]) -> Table:
    """Tabulate the trials of a search.

    Args:
        name: of the recipe.
        rows: as the search's CSV file has them.
    """
    table = _table(f"Trials of {name}", *(f">{column.replace('_', ' ')}" for column in rows[0]))
    for row in rows:
        _add_row(table, *row.values())
    return table


def signatures(
    title: str,
    places: Mapping[str, Mapping[str, Mapping[str, str]]],
    *seconds: Mapping[str, float],
) -> Table:
    """Tabulate the signatures of a SavedModel, with the time each took to answer.

    Args:
        title: of the table.
        places: dtype and shape of each input and output, by signature.
        *seconds: of the first request and of the second, by signature, if it was run.
    """
    times = (">first request", ">next")[: len(seconds)]
    table = _table(title, "signature", "inputs", "outputs", *times)
    for name, ways in places.items():
        cells = [
            "\n".join(f"{key}: {kind}" for key, kind in ways[way].items())
            for way in ("inputs", "outputs")
        ]
        spent = [f"{1000 * each[name]:.1f} ms" if name in each else "" for each in seconds]
        _add_row(table, name, *cells, *spent)
    return table


def versions(rows: Sequence[VersionStatus]) -> Table:
    """Tabulate the versions of a model in a server.

    Args:
        rows: one per version.
    """
    table = _table("Versions", ">version", "state")
    for row in rows:
        _add_row(table, str(row.version), row.state)
    return table


def loads(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate measurements of a server, one row per load.

    Args:
        rows: fields of `keras_resnet.serving.load.Load`.
    """
    table = _table(
        "Latency against load", ">clients", ">images/s sent", ">images/s answered", ">errors",
        ">p50", ">p90", ">p99", ">max",
    )  # fmt: skip
    for row in rows:
        _add_row(
            table,
            str(row["clients"]),
            "" if row["rate"] is None else f"{row['rate']:g}",
            f"{row['throughput']:.1f}",
            f"{row['errors']:,}",
            *(f"{row[f'{name}_ms']:.1f} ms" for name in ("p50", "p90", "p99", "max")),
        )
    return table


def benchmark(found: Mapping[str, Any]) -> Table:
    """Tabulate the measurements of a network's exports.

    Args:
        found: fields of `keras_resnet.serving.benchmark.Benchmark`.
    """
    table = _table(
        "Exports", "", ">disk\nMB", ">load\ns", ">first\nms", ">batch 1\nms (p95)",
        ">batch 8\nms (p95)", ">images\nper s", ">memory\nMB", ">error\n%", ">answers\nchanged",
    )  # fmt: skip
    for row in found["rows"]:
        if row["problem"]:
            _add_row(table, row["variant"], *["-"] * 9)
            continue
        _add_row(
            table,
            row["variant"],
            f"{row['bytes_on_disk'] / 1e6:.1f}",
            f"{row['load_seconds']:.2f}",
            f"{row['first_ms']:.0f}",
            *(f"{row[f'batch{n}_ms']:.1f} ({row[f'batch{n}_p95_ms']:.1f})" for n in (1, 8)),
            f"{row['images_per_second']:.0f}",
            f"{row['resident_bytes'] / 1e6:.0f}",
            ""
            if row["error"] is None
            else with_interval(row["error"], row["interval"]).replace(" %", ""),
            "" if row["changed"] is None else f"{row['changed']:,}",
        )
    if found["images"]:
        table.caption = (
            f"error and changed answers: {found['count']:,} images, {found['images']}; in brackets"
            " its 95 % interval (Wilson 1927)"
        )
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def _table(title: str, *columns: str) -> Table:
    """Return an empty table; columns whose name begins with `>` are set to the right."""
    table = Table(title=Text(printable(title)), title_justify="left")
    for column in columns:
        table.add_column(
            Text(printable(column.removeprefix(">"))),
            justify="right" if column.startswith(">") else "left",
            no_wrap=True,
        )
    return table


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells))
