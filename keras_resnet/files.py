"""Write files atomically, and read them within limits."""

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

UNFINISHED = ".writing-"
MAX_TEXT = 2**25
"""the largest text file that is read, in bytes; parsed text takes many times as much memory"""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write, which replaces `path` if nothing fails.

    On failure the sibling is removed. It has the suffix of `path`, because some writers read it.

    Args:
        path: the file to write; its folder is created.

    Raises:
        OSError: the file cannot be written. The error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    sibling = Path(name)
    try:
        yield sibling
        with open(sibling, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        sibling.chmod(0o666 & ~umask)  # mkstemp's files are readable by their owner only
        os.replace(sibling, path)
    except OSError as error:
        if error.errno is None:
            raise
        # The error of a full disk names no file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        sibling.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """Read a text file.

    Args:
        path: a file of UTF-8 text, of at most `MAX_TEXT` bytes.

    Raises:
        ValueError: the file is too large or not UTF-8. The message names it.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise ValueError(f"{path} is damaged: it has more than {MAX_TEXT:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def parse_json(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or is not an object.
    """
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"it is of type {type(values).__name__}; expected an object")
    return values


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: as in `read_text`.

    Raises:
        ValueError: the file is damaged or holds something else. The message names it.
        OSError: the file cannot be read.
    """
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(path) as sibling:
        sibling.write_text(text, encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically. Columns that a row lacks stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file whose first line names the columns.

    Args:
        path: as in `read_text`.

    Raises:
        ValueError: the file is damaged or holds something else. The message names it.
        OSError: the file cannot be read.
    """
    text = read_text(path)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path} is damaged: row {number} does not have one value per column")
    return rows
