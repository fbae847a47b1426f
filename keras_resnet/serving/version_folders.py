"""The folders of a model's versions, each of which is complete or absent."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from filelock import FileLock, Timeout

_UNFINISHED = "writing-"
"""the prefix of unfinished versions; TF Serving ignores names that are not numbers"""


def versions(base: Path) -> list[Path]:
    """Return the versions in a folder, oldest first."""
    return sorted(filter(Path.is_dir, _numbered(base)), key=lambda path: int(path.name))


@contextlib.contextmanager
def temporary_folder(base: Path) -> Iterator[Path]:
    """Yield a temporary folder in `base`, and remove it at the end.

    Folders that killed exports have left are removed too.
    """
    base.mkdir(parents=True, exist_ok=True)
    for old in base.glob(f"{_UNFINISHED}*/lock"):
        # A lock is released when its process ends in any way.
        with contextlib.suppress(Timeout), FileLock(old, timeout=0):
            shutil.rmtree(old.parent, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=base))
    lock = FileLock(new / "lock")
    lock.acquire()
    # Renamed after locking, because other exports remove unlocked folders of this name.
    folder = new.rename(base / new.name.replace(".new-", _UNFINISHED))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def to_disk(folder: Path) -> None:
    """Flush all files of a folder, so that a version is complete even after a power failure."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            with contextlib.suppress(PermissionError):  # Windows cannot open folders
                _flush(path, os.O_RDONLY)
        else:
            _flush(path, os.O_RDWR)  # Windows flushes only writable files


def rename_to_next_version(folder: Path, base: Path) -> Path:
    """Rename a folder to the next version in `base`, and return the version.

    Raises:
        OSError: the folder cannot be renamed.
    """
    while True:
        target = base / str(1 + max((int(path.name) for path in _numbered(base)), default=0))
        try:
            folder.rename(target)  # fails if another export has taken the number meanwhile
            return target
        except OSError:
            if not target.exists():
                raise


@contextlib.contextmanager
def os_errors(base: Path) -> Iterator[None]:
    """Translate TensorFlow's file errors, such as a full disk, into `OSError`."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{base} cannot be written: {error.message}") from error


def _numbered(base: Path) -> list[Path]:
    """Return all files and folders whose name is the number of a version."""
    return [path for path in base.iterdir() if re.fullmatch(r"[0-9]{1,18}", path.name)]


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
