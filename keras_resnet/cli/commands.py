"""The entry point of the command line, which an interrupt or a closed pipe ends quietly."""

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status.

    Args:
        argv: the arguments; None: those of this process.

    Returns:
        0 for success, 2 for an error that the user can correct, 130 for an interrupt, 1 where what
        reads the output has closed it, or `reproduce` finds another error.
    """
    try:
        from .parser import run  # takes long enough to be interrupted

        status = run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered goes nowhere when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        print("; ".join(["keras-resnet: stopped", *map(str, interrupt.args)]), file=sys.stderr)
        return 130
    return status
