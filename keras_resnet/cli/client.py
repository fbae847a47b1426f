"""The verb that asks a server. Over REST it loads no TensorFlow."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..files import write_table, write_text
from . import tables
from .flags import Flag, optional
from .output import console, measured, print_answers, print_json, print_line
from .startup import import_tensorflow

CLIENTS = (1, 8, 32)
SECONDS = 10.0

if TYPE_CHECKING:
    from ..serving.client import Client


def client(
    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")],
    images: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="[IMAGE ...]", help_behavior_hint=""),
    ] = (),
    *,
    model: str,
    version: Annotated[int | None, optional("INT")] = None,
    label: Annotated[str | None, optional("LABEL")] = None,
    top: int = 5,
    timeout: float = 30.0,
    retries: int = 2,
    certificates: Annotated[Path | None, optional("FILE")] = None,
    load: Annotated[Path | None, optional("FOLDER")] = None,
    clients: tuple[int, ...] = CLIENTS,
    rates: Annotated[tuple[float, ...], optional("FLOAT ...")] = (),
    seconds: float = SECONDS,
    json: Flag = False,
) -> None:
    """Ask TF Serving for the classes of image files, over REST or gRPC, or measure its speed.

    Files that are not images are named on standard error, and the exit status is 2 at the end.

    Example: keras-resnet client http://localhost:8501 rose.jpg --model flowers

    Args:
        url: http://HOST:PORT or https://HOST for REST (TF Serving's port is 8501),
            grpc://HOST:PORT for gRPC (8500), or grpcs://HOST:PORT for gRPC with TLS
        images: JPEG, PNG, GIF or BMP files; without any, print the states of the model's versions
            and its signatures
        model: the model's name in the server
        version: the number of a version; by default the newest
        label: the label of a version, such as stable
        top: how many classes to print, at most as many as the model answers with
        timeout: seconds to wait for an answer, including all attempts
        retries: how often to ask a server again that is overloaded or cannot be reached
        certificates: PEM file of the authorities to trust with TLS; by default the system's
        load: measure throughput and latency instead, with the images taking turns, and write
            load.csv and load.svg into this folder
        clients: with --load, how many ask at a time; each number is measured in turn
        rates: with --load, images per second that are sent, whether or not earlier ones are
            answered, by the largest number of --clients; each rate is measured in turn
        seconds: with --load, the time per measurement
        json: print JSON, for images a line per file as `predict` does
    """
    if load is None:
        for name, value, default in (
            ("clients", clients, CLIENTS),
            ("rates", rates, ()),
            ("seconds", seconds, SECONDS),
        ):
            if value != default:
                raise ValueError(f"{name} is {value!r}; give `load` too")
    if not clients:
        raise ValueError("clients is empty; give one number or more")
    if url.startswith("grpc"):
        import_tensorflow()
    from ..serving.client import Client, predict_each

    with Client(
        url,
        model,
        version=version,
        label=label,
        timeout=timeout,
        retries=retries,
        certificates=certificates,
    ) as asked:
        if load is not None:
            levels: list[tuple[int, float | None]]
            levels = [(max(clients, default=1), rate) for rate in rates]
            levels = levels or [(number, None) for number in clients]
            return _measure(asked, images, levels, seconds, load, json)
        if not images:
            return _describe(asked, json)
        print_answers(predict_each(asked, images, top=top), len(images), json)


def _describe(asked: "Client", json: bool) -> None:
    """Print the state of a model's versions, and the signatures of the one that answers."""
    versions = asked.status()
    available = any(one.state == "AVAILABLE" for one in versions)
    found = asked.metadata() if available else None
    if json:
        print_json(
            {
                "versions": [asdict(one) for one in versions],
                "answering": found and found.version,
                "signatures": found.signatures if found else {},
            }
        )
    else:
        console().print(tables.versions(versions))
        for one in versions:
            if one.error:
                print_line(f"version {one.version}: {' '.join(one.error.split())}")
        if found:
            title = f"Signatures of version {found.version}"
            console().print(tables.signatures(title, found.signatures))
    if not found:
        raise ValueError("no version is available")


def _measure(
    asked: "Client",
    images: Sequence[Path],
    levels: Sequence[tuple[int, float | None]],
    seconds: float,
    folder: Path,
    json: bool,
) -> None:
    """Measure the server under each load, and write what was found."""
    from ..figures import line_chart
    from ..serving.load import measure

    contents = [image.read_bytes() for image in images]
    if contents:
        asked.predict(contents[:1])  # a wrong model or server is found before anything is measured
    with measured(len(levels)) as progress:
        rows = [
            measure(
                asked,
                contents,
                clients=clients,
                rate=rate,
                seconds=seconds,
                progress=partial(progress, number),
            )
            for number, (clients, rate) in enumerate(levels)
        ]
    values = [asdict(row) for row in rows]
    write_table(folder / "load.csv", values)
    curves = {
        name: [(row.throughput, getattr(row, f"{name}_ms")) for row in rows]
        for name in ("p50", "p90", "p99")
    }
    chart = line_chart("Latency against load", "images per second", "latency in ms", curves)
    write_text(folder / "load.svg", chart)
    if json:
        print_json(values)
    else:
        console().print(tables.loads(values))
        print_line(f"written: {folder / 'load.csv'}, {folder / 'load.svg'}")
    if failed := sum(row.errors for row in rows):
        first = next(row.error for row in rows if row.error)
        raise ValueError(f"{failed:,} requests have no answer: {first}")
