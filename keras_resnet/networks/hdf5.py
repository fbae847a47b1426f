"""Open HDF5 files of unknown origin without reading more than they hold."""

import contextlib
import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py

EXPANSION = 10
"""the largest allowed size of an archive's member, as a multiple of the archive's size"""


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Translate any error from damaged bytes into a one-line `ValueError` that names the file.

    h5py, zipfile and safetensors raise almost any exception class.
    """
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())[:500] or type(error).__name__
        raise ValueError(f"{path} cannot be read: {text}") from None


@contextlib.contextmanager
def weights_of(path: Path) -> Iterator[h5py.File]:
    """Open the weights in an HDF5 file, or in the HDF5 file of a `.keras` archive.

    Before any array is read, all are verified to be stored in the file itself and to declare no
    more bytes than it has.

    Raises:
        ValueError: an array fails this check.
    """
    if path.suffix != ".keras":
        with h5py.File(path) as root:
            _require_plain(root, path.stat().st_size)
            yield root
        return
    with zipfile.ZipFile(path) as archive:
        content = member(archive, "model.weights.h5", path.stat().st_size)
    with h5py.File(io.BytesIO(content)) as root:
        _require_plain(root, len(content))
        yield root


def member(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    """Read a member of an archive of `size` bytes, unless it expands to far more bytes.

    Keras does not compress its archives, but other tools may.
    """
    declared = archive.getinfo(name).file_size
    if declared > EXPANSION * size + 2**20:
        raise ValueError(f"{name} declares {declared:,} bytes, and the archive has {size:,}")
    return archive.read(name)


def _require_plain(root: h5py.File, size: int) -> None:
    """Raise `ValueError` unless a file of `size` bytes stores every array exactly once."""
    declared, groups, seen = 0, [root], set()
    while groups:
        group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{group.name}/{name} is a link")  # it could point anywhere
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise ValueError(f"{item.name} occurs twice")
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                declared += _stored_bytes(item)
    if declared > size:
        raise ValueError(f"its arrays declare {declared:,} bytes, and the file has {size:,}")


def _stored_bytes(dataset: h5py.Dataset) -> int:
    """Return the size of an array in bytes; raise `ValueError` if the file lacks any of them."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{dataset.name} is stored in another file")
    if dataset.shape is None or dataset.dtype.hasobject:
        raise ValueError(f"{dataset.name} is not an array of numbers")
    if dataset.id.get_create_plist().get_nfilters():
        raise ValueError(f"{dataset.name} is compressed; save it again with Keras")
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if declared > stored:
        raise ValueError(f"{dataset.name} declares {declared:,} bytes, of which {stored:,} exist")
    return stored
