"""Keep decoded image files in memory, so that several trainings decode them once.

An image is a row of bytes, uint8 `[12 + 3 H W]`: its height, width and EXIF orientation, each
int32, and its pixels as they are stored.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from .dataset import WHOLE, Dataset, Files, Shard, shuffled_indices
from .decoding import decode
from .exif import orientation_of, upright
from .scan import first_fault

_HEADER = 12


@dataclass(frozen=True, kw_only=True)
class DecodedFiles(Files):
    """A split of image files that are in memory, decoded."""

    rows: tf.RaggedTensor
    """uint8 `[N, None]`, as `unpack` reads them"""

    def in_order(self, shard: Shard = WHOLE) -> tf.data.Dataset:
        """Return the rows and labels as `Split.in_order` does."""
        numbers = tf.data.Dataset.range(len(self)).shard(shard.count, shard.index)
        values, splits = self.rows.values, self.rows.row_splits
        labels = tf.constant(self.labels)
        return numbers.map(
            lambda number: (values[splits[number] : splits[number + 1]], labels[number])
        )

    def shuffled(
        self, batch_size: int, seed: int, first_step: int, shard: Shard = WHOLE
    ) -> tf.data.Dataset:
        """Return batches of rows, ragged `[share, None]`, as `Split.shuffled` does."""
        labels = tf.constant(self.labels)
        return shuffled_indices(len(self), batch_size, seed, first_step, shard).map(
            lambda step, indices: (step, tf.gather(self.rows, indices), tf.gather(labels, indices))
        )


def unpack(row: tf.Tensor, *, exif_orientation: bool = False) -> tf.Tensor:
    """Return the image of a row, uint8 `[H, W, 3]`.

    Args:
        row: uint8 `[12 + 3 H W]`.
        exif_orientation: whether to rotate and mirror the image by its EXIF orientation.
    """
    height, width, orientation = tf.unstack(tf.bitcast(tf.reshape(row[:_HEADER], [3, 4]), tf.int32))
    image = tf.reshape(row[_HEADER:], [height, width, 3])
    return upright(image, orientation) if exif_orientation else image


def decode_files(dataset: Dataset, limit: int | None = None) -> Dataset:
    """Return a data set whose training and validation files are in memory, decoded.

    A data set of other splits, or of images beyond the limit, is returned unchanged.

    Args:
        dataset: the data set.
        limit: the largest size of the decoded images in bytes; by default a quarter of the
            machine's memory.

    Raises:
        OSError: an image can no longer be read.
    """
    if limit is None:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    found: dict[str, Any] = {}
    for name in ("train", "validation"):
        split = getattr(dataset, name)
        if split is None:
            continue
        rows = _decode(split, limit) if isinstance(split, Files) else None
        if rows is None:
            return dataset
        limit -= rows.values.shape[0]
        found[name] = DecodedFiles(split.paths, split.labels, split.fingerprints, rows=rows)
    return replace(dataset, **found)


def _decode(split: Files, limit: int) -> tf.RaggedTensor | None:
    """Return the rows of a split, or None if they are larger than the limit."""

    @tf.autograph.experimental.do_not_convert
    def row(image_bytes: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        image = decode(image_bytes)
        header = tf.concat([tf.shape(image)[:2], [orientation_of(image_bytes)]], 0)
        return tf.concat(
            [tf.reshape(tf.bitcast(header, tf.uint8), [-1]), tf.reshape(image, [-1])], 0
        )

    rows, total = [], 0
    try:
        for one in split.in_order().map(row, num_parallel_calls=os.cpu_count(), deterministic=True):
            rows.append(one)
            total += one.shape[0]
            if total > limit:
                return None
    except tf.errors.OpError:
        found = first_fault([str(path) for path in split.paths])
        if found is None:
            raise
        raise OSError(f"{found[0]} can no longer be read: {found[1]}") from None
    return tf.RaggedTensor.from_row_lengths(
        tf.concat(rows, 0), np.array([one.shape[0] for one in rows], np.int64)
    )
