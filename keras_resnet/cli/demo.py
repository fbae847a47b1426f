"""The verb that serves a web page."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from .output import print_line
from .startup import import_tensorflow


def demo(
    export: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="EXPORT")],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Show an export on a web page of this machine: drop images, and see what it answers.

    Classes with their probabilities, the heat map if the export has one, and the request that a
    client would send to TF Serving. It needs the extra demo. Ctrl-C stops it.

    Example: keras-resnet demo saved_models/digits-resnet20

    Args:
        export: an export (a version, or the folder of its versions)
        host: the address to listen on; with another, such as 0.0.0.0, whoever can reach this
            machine can use the page
        port: the port to listen on; 0 for any that is free
    """
    import_tensorflow()
    from ..serving.demo import demo as run_demo

    def started(url: str) -> None:
        print_line(f"open {url} in a browser; Ctrl-C stops it")
        sys.stdout.flush()  # where it is not a terminal it would wait for the end

    run_demo(export, host=host, port=port, started=started)
