#!/usr/bin/env python3
"""Convert a folder of images, or a prepared data set in TFRecord files, to array_record files.

array_record files are read by random access: each host reads its own images and no others, and a
resumed training reads nothing twice.

    python scripts/convert_records.py photographs DATA_DIR
    python scripts/convert_records.py ~/tensorflow_datasets/imagenet2012/5.1.0 DATA_DIR
    keras-resnet train imagenet-resnet50 --dataset photographs --data-dir DATA_DIR

Writes DATA_DIR/NAME/VERSION in the layout of tensorflow-datasets. Images and records are copied as
they are. Of a folder without a test split, the held-out fifth becomes the test split. Each file is
read back and compared before it appears under its name. The same command continues an interrupted
conversion.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("NO_GCE_CHECK", "true")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_datasets as tfds  # noqa: E402
from array_record.python.array_record_data_source import ArrayRecordDataSource  # noqa: E402
from array_record.python.array_record_module import ArrayRecordWriter  # noqa: E402
from rich.progress import track  # noqa: E402

from keras_resnet.data import folder  # noqa: E402
from keras_resnet.data.dataset import Files  # noqa: E402
from keras_resnet.files import write_text  # noqa: E402

PLAN = "conversion.txt"
"""the hash of what is converted"""


@dataclass(frozen=True)
class Shard:
    """The records of one file."""

    count: int
    records: Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class Plan:
    """What to convert."""

    name: str
    version: str
    features: tfds.features.FeaturesDict
    splits: dict[str, list[Shard]]
    digest: str
    """a hash of the source's names and sizes"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--megabytes", type=int, default=256, help="size of a file of a folder")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of a test split")
    parser.add_argument("--skip-broken", action="store_true", help="leave out unreadable images")
    args = parser.parse_args()
    try:
        if args.megabytes < 1:
            raise ValueError(f"--megabytes is {args.megabytes}; give a positive number")
        if (args.source / "dataset_info.json").is_file():
            plan = of_prepared(args.source)
        else:
            plan = of_folder(args.source, args.megabytes * 10**6, args.seed, args.skip_broken)
        convert(plan, args.data_dir / plan.name / plan.version)
    except (OSError, ValueError) as error:
        print(f"convert_records: {error}", file=sys.stderr)
        return 2
    print(f"converted: --dataset {plan.name} --data-dir {args.data_dir}")
    return 0


def of_folder(path: Path, shard_bytes: int, seed: int, skip_broken: bool) -> Plan:
    """Plan the conversion of a folder, as `keras_resnet.data.folder` reads it."""
    dataset = folder.load(path, seed=seed, skip_broken=skip_broken)
    splits = {"train": dataset.train, "test": dataset.test, "validation": dataset.validation}
    digest = hashlib.sha256("\0".join(dataset.class_names).encode())
    shards: dict[str, list[Shard]] = {}
    for name, split in splits.items():
        if split is None:
            continue
        assert isinstance(split, Files)
        # A folder is sorted by class, and images are held out from the beginning of a split.
        split = split.take(np.random.default_rng(seed).permutation(len(split)))
        sizes = np.array([os.path.getsize(file) for file in split.paths])
        for row in zip(split.paths, split.labels, sizes, strict=True):
            digest.update(f"\0{name}\0{os.path.relpath(row[0], path)}\0{row[1]}\0{row[2]}".encode())
        ends = np.searchsorted(sizes.cumsum(), np.arange(shard_bytes, sizes.sum(), shard_bytes))
        parts = [part for part in np.split(np.arange(len(split)), ends) if len(part)]
        shards[name] = [Shard(len(part), _examples_of(split.take(part), path)) for part in parts]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=list(dataset.class_names)),
            "filename": tfds.features.Text(),
        }
    )
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in dataset.name.lower())
    if not name[:1].isalpha():  # tensorflow-datasets would not find the files
        name = f"images_{name}"
    return Plan(name, "1.0.0", features, shards, digest.hexdigest())


def _examples_of(files: Files, root: Path) -> Callable[[], Iterator[bytes]]:
    def examples() -> Iterator[bytes]:
        for path, label in zip(files.paths, files.labels, strict=True):
            feature = {
                "image": _bytes(Path(path).read_bytes()),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                "filename": _bytes(os.path.relpath(path, root).encode()),
            }
            yield tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    return examples


def _bytes(value: bytes) -> Any:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def of_prepared(path: Path) -> Plan:
    """Plan the conversion of a prepared data set, one file for each of its files."""
    builder = tfds.builder_from_directory(path)
    if builder.info.file_format.value != "tfrecord":
        raise ValueError(
            f"{path} is in {builder.info.file_format.value} files; give TFRecord files"
        )
    splits = {
        name: [
            Shard(file.examples_in_shard, tf.data.TFRecordDataset(file.filename).as_numpy_iterator)
            for file in split.file_instructions
        ]
        for name, split in builder.info.splits.items()
    }
    lengths = {name: [shard.count for shard in shards] for name, shards in splits.items()}
    digest = hashlib.sha256(f"{builder.info.full_name} {lengths}".encode()).hexdigest()
    name, version = builder.info.name, str(builder.info.version)
    return Plan(name, version, builder.info.features, splits, digest)


def convert(plan: Plan, target: Path) -> None:
    """Write the files that are missing, and then the metadata."""
    target.mkdir(parents=True, exist_ok=True)
    known = target / PLAN
    if known.exists() and known.read_text(encoding="utf-8") != plan.digest:
        raise ValueError(
            f"{target} has a conversion of other images; remove it, or convert elsewhere"
        )
    write_text(known, plan.digest)
    infos = []
    for split, shards in plan.splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=target, dataset_name=plan.name, split=split, filetype_suffix="array_record"
        )
        paths = [Path(path) for path in template.sharded_filepaths(num_shards=len(shards))]
        pairs = list(zip(shards, paths, strict=True))
        for shard, path in track(pairs, split, disable=not sys.stderr.isatty()):
            if not path.exists():
                write(shard, path)
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard.count for shard in shards],
                num_bytes=sum(path.stat().st_size for path in paths),
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=target,
        features=plan.features,
        split_infos=infos,
        check_data=False,  # it reads TFRecord files only
        supervised_keys=("image", "label"),
    )


def write(shard: Shard, path: Path) -> None:
    """Write a file aside, compare it with its source, and give it its name."""
    aside = path.with_name(f".writing-{path.name}")
    writer, written = ArrayRecordWriter(str(aside), "group_size:1"), hashlib.sha256()
    for record in shard.records():
        writer.write(record)
        written.update(record)
    writer.close()
    found, read = ArrayRecordDataSource(str(aside)), hashlib.sha256()
    for record in found:
        read.update(record)
    if len(found) != shard.count or read.digest() != written.digest():
        raise OSError(f"{path} has {len(found)} records that differ from the {shard.count} written")
    with open(aside, "rb+") as file:
        os.fsync(file.fileno())
    aside.rename(path)


if __name__ == "__main__":
    sys.exit(main())
