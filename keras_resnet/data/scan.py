"""Decode every image file of a folder once, and remember the results for the next start.

The results are kept in a file per folder in `remembered_scans()`. It may be deleted at any time: it
only saves the time to decode. A file is decoded again if its size or time has changed. Several
hosts each decode a part of the files, and tell each other the results.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import platformdirs
import tensorflow as tf

from .. import archives
from ..files import whole_file
from . import decoding
from .decoding import decode, refusal

FORMAT = 1
"""increased when `decode` refuses files that it accepted before"""
SETTLED = 2.0
"""the age in seconds from which a file is remembered; a younger file could change again without a
change of its time, which some systems store in steps of two seconds"""
_CHUNK = 1000
"""the number of files that a thread asks for their sizes and times at once"""


@dataclass(frozen=True)
class Hosts:
    """The hosts that load the same folder at the same time."""

    index: int
    """this host's rank"""
    count: int
    total: Callable[[np.ndarray], np.ndarray]
    """return the sum of all hosts' int64 arrays, which have one shape; every host must call it"""


ALONE = Hosts(0, 1, lambda numbers: numbers)


class ImageFacts(NamedTuple):
    """The facts about an image file."""

    shorter_side: int
    """the shorter side in pixels"""
    fingerprint: int
    """a hash of the bytes"""


def scan(
    folder: Path, files: list[str], hosts: Hosts = ALONE
) -> tuple[dict[str, ImageFacts], dict[str, str]]:
    """Return the facts about each image, and the reason for each file that cannot be used.

    Args:
        folder: the folder whose results are remembered.
        files: the paths of its files.
        hosts: the hosts that share the work.

    Raises:
        ValueError: the hosts have files of different names or sizes.
    """
    store = _Store(folder)
    identities = _identities(folder, files)
    _require_equal(folder, identities, hosts)
    facts = store.facts(identities)
    # All hosts must decode the same list, so what one of them does not know is decoded again.
    unknown = np.flatnonzero(hosts.total((facts[:, 0] < 0).astype(np.int64)))
    begin = time.time()
    measured = np.zeros((len(unknown), 2), np.int64)
    own = range(hosts.index, len(unknown), hosts.count)
    for place, (*sides, fingerprint) in zip(
        own, _measures([files[unknown[place]] for place in own]), strict=True
    ):
        measured[place] = min(sides, default=0), fingerprint
    facts[unknown] = hosts.total(measured)
    if len(unknown):
        settled = identities[:, _TIME] < (begin - SETTLED) * 1e9
        # Others are decoded again: the storage may have failed for a moment.
        readable_files = facts[:, 0] > 0
        store.write(np.hstack([identities, facts])[settled & readable_files])

    readable, broken = {}, {}
    for file, (shorter_side, fingerprint) in zip(files, facts.tolist(), strict=True):
        if reason := _fault(file, shorter_side):
            broken[file] = reason
        else:
            readable[file] = ImageFacts(shorter_side, fingerprint)
    return readable, broken


def images_among(files: Iterable[str], *, first: bool = False) -> list[str]:
    """Return the files that can be decoded, sorted by name; only the first if `first`."""
    paths = sorted(files)
    images = (file for file, (*sides, _) in zip(paths, _measures(paths), strict=True) if sides)
    return list(islice(images, 1 if first else None))


def first_fault(files: list[str]) -> tuple[str, str] | None:
    """Return the first file that cannot be used as an image and the reason, or None."""
    for file, (*sides, _) in zip(files, _measures(files), strict=True):
        if reason := _fault(file, min(sides, default=0)):
            return file, reason
    return None


def _measures(files: Sequence[str]) -> Iterator[list[int]]:
    """Yield `[height, width, fingerprint]` of every file in order, or `[0]` if it is not decodable.

    The fingerprint is 63 of the 64 bits of FarmHash of the bytes, computed while they are in
    memory. Among a million different files two are equal with a probability of 5e-8.
    """
    if not files:
        return

    @tf.autograph.experimental.do_not_convert  # converting it takes seconds
    def measure(path: tf.Tensor) -> tf.Tensor:
        content = tf.io.read_file(path)
        sides = tf.cast(tf.shape(decode(content))[:2], tf.int64)
        return tf.concat([sides, [tf.strings.to_hash_bucket_fast(content, tf.int64.max)]], 0)

    with tf.device("CPU"):
        paths = tf.data.Dataset.from_tensor_slices(
            tf.constant([os.fsencode(file) for file in files], tf.string)
        )
    options = tf.data.Options()
    options.autotune.enabled = False  # as in the pipelines
    # tf.data decodes in parallel; for small images Python's threads are slower than a single one.
    measures = iter(
        paths.map(measure, num_parallel_calls=os.cpu_count(), deterministic=True).with_options(
            options
        )
    )
    for _ in files:
        try:
            yield next(measures).numpy().tolist()
        except tf.errors.OpError:  # about this file; the iterator continues with the next one
            yield [0]


def _fault(file: str, shorter_side: int) -> str | None:
    """Return why a file cannot be used, or None."""
    try:
        file.encode()
        if not shorter_side:
            with open(file, "rb") as opened:
                return refusal(opened.read(1 << 20))
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return error.strerror or str(error)
    return None


# The columns of a remembered scan, int64: three that identify a version of a file, and two facts.
_NAME, _SIZE, _TIME, _SIDE, _FINGERPRINT = range(5)


def remembered_scans() -> Path:
    """Return the folder of the remembered scans, in the user's folder for caches."""
    return platformdirs.user_cache_path("keras_resnet", appauthor=False) / "scans"


def _identities(folder: Path, files: list[str]) -> np.ndarray:
    """Return int64 `[N, 3]`: a hash of the relative path, the size, and the time in nanoseconds.

    The time is the later one of content and metadata: copying may keep that of the content.
    """

    def ask(chunk: Sequence[str]) -> list[tuple[int, int]]:
        found = []
        for file in chunk:
            try:
                status = os.stat(file)
                found.append((status.st_size, max(status.st_mtime_ns, status.st_ctime_ns)))
            except OSError:  # such as a link to nothing; its time never is in the past
                found.append((-1, np.iinfo(np.int64).max))
        return found

    # Not os.path.relpath, which takes ten times as long.
    names = (os.fsencode(file.removeprefix(str(folder)).lstrip(os.sep)) for file in files)
    hashes = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
    identities = np.empty((len(files), 3), np.int64)
    identities[:, _NAME] = np.frombuffer(hashes, np.int64)
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    with ThreadPoolExecutor(32) as threads:  # a network storage takes long to answer
        for number, found in enumerate(threads.map(ask, chunks)):
            identities[number * _CHUNK :][: len(found), _SIZE:] = found
    return identities


def _require_equal(folder: Path, identities: np.ndarray, hosts: Hosts) -> None:
    """Raise `ValueError` if the names and sizes of the files differ between hosts."""
    digest = hashlib.blake2b(identities[:, [_NAME, _SIZE]].tobytes(), digest_size=8).digest()
    table = np.zeros((hosts.count, 2), np.int64)
    table[hosts.index] = len(identities), np.frombuffer(digest, np.int64)[0]
    table = hosts.total(table)
    if (table != table[0]).any():
        counts = ", ".join(map(str, table[:, 0]))
        raise ValueError(
            f"{folder} has different files on different hosts: {counts} files, by rank, or files of"
            " different names or sizes; copy it again, or give a folder that all hosts share"
        )


class _Store:
    """The remembered scan of one folder. All failures to read or write it are ignored."""

    def __init__(self, folder: Path):
        name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
        self.path = remembered_scans() / f"{name}.npz"
        self.version = np.array([FORMAT, decoding.MAX_PIXELS, decoding.MAX_ASPECT], np.int64)

    def facts(self, identities: np.ndarray) -> np.ndarray:
        """Return shorter side and fingerprint of each file, int64 `[N, 2]`; -1 if unknown."""
        facts = np.full((len(identities), 2), -1, np.int64)
        rows = self._read()
        if len(rows):
            places = np.searchsorted(rows[:, _NAME], identities[:, _NAME])
            candidates = rows[np.minimum(places, len(rows) - 1)]
            known = (candidates[:, :_SIDE] == identities).all(axis=1)
            facts[known] = candidates[known, _SIDE:]
        return facts

    def _read(self) -> np.ndarray:
        """Return the rows sorted by name; none if absent, damaged or of another version."""
        nothing = np.empty((0, 5), np.int64)
        try:
            arrays = archives.read_arrays(self.path)
        except (OSError, ValueError):
            return nothing
        version, rows = arrays.get("version"), arrays.get("rows")
        if version is None or rows is None or not np.array_equal(version, self.version):
            return nothing
        if rows.dtype != np.int64 or rows.shape[1:] != (5,) or (rows[:, _SIDE] <= 0).any():
            return nothing
        return rows[np.argsort(rows[:, _NAME])]

    def write(self, rows: np.ndarray) -> None:
        """Replace the remembered scan."""
        with contextlib.suppress(OSError), whole_file(self.path) as file:
            np.savez(file, version=self.version, rows=rows)
