"""Measure reading at the scale of ImageNet: files, TFRecord and array_record.

    python scripts/benchmarks/bench_records.py [--images 1000000] [--scratch DIR]

Two parts, each in processes of its own:

- Images per second of a training pipeline (random shorter side, crop and mirror image to 224 px,
  section 3.4) from JPEG images of ImageNet's size, on all cores. The formats take turns.
- Starts with many small images: the seconds until the first batch, at the first start, at the
  second, and resumed at 90 % of an epoch; and the bytes that a host reads for a tenth of an epoch,
  of 1, 2 and 8 hosts. For the scan of a folder, that many hosts are started on this machine, with a
  tenth of the files.

Files are in the page cache, so the seconds are those of the processor; bytes are counted at the
system call (`rchar` of `/proc/self/io`). array_record reads at least 32 kB at a time, which is
little beside an image of ImageNet and much beside 100 bytes. Writes
scripts/results/bench_records.txt.
"""

import argparse
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tensorflow_datasets as tfds  # noqa: E402
from array_record.python.array_record_module import ArrayRecordWriter  # noqa: E402
from PIL import Image  # noqa: E402

from keras_resnet import data  # noqa: E402
from keras_resnet.data.dataset import WHOLE, Dataset, Shard  # noqa: E402
from keras_resnet.data.pipeline import Augmentation, train_batches  # noqa: E402
from keras_resnet.data.preprocessing import preprocessing_for  # noqa: E402
from keras_resnet.serving.needs import processor  # noqa: E402
from keras_resnet.training import distribution  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "bench_records.txt"
CLASSES, BATCH, HOSTS = 10, 256, (1, 2, 8)
FORMATS = ("files", "tfrecord", "array_record")
PHOTOGRAPHS, ROUNDS, TIMED = 1024, 7, 16
"""the number of JPEG images, and of rounds of so many batches of 32"""
RECORDS_PER_FILE = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--scratch", type=Path, help="where the images are written, and removed")
    parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the folders have equal images
    if args.task:
        task, form, root = args.task
        print(json.dumps(TASKS[task](form, Path(root))))
        return
    lines = [f"{processor()}, {os.cpu_count()} cores"]
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        lines += throughput(Path(scratch) / "photographs")
        lines += starts(Path(scratch) / "small", args.images)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    RESULTS.write_text(text, encoding="utf-8")


def throughput(root: Path) -> list[str]:
    """Return lines about images per second."""
    encoded = photographs()
    for form in FORMATS:
        write(root, form, encoded, PHOTOGRAPHS)
    batches = {form: iter(views(load(form, root), 32)) for form in FORMATS}
    speeds: dict[str, list[float]] = {form: [] for form in FORMATS}
    for number in range(ROUNDS + 1):
        for form, found in batches.items():
            begin = time.perf_counter()
            for _ in range(TIMED):
                next(found)
            if number:  # the first one builds the pipeline
                speeds[form].append(TIMED * 32 / (time.perf_counter() - begin))
    del batches, found
    read = {form: bytes_of_an_epoch(load(form, root), 32) / PHOTOGRAPHS for form in FORMATS}
    shutil.rmtree(root)
    size = np.mean([len(one) for one in encoded]) / 1000
    return [
        f"\ntraining views of {size:.0f} kB JPEG images, images/s, median of {ROUNDS} rounds;"
        " kB read per image",
        *(
            f"{form:14} {statistics.median(found):6.0f} ({min(found):.0f} to {max(found):.0f})"
            f" {read[form] / 1000:8.0f} kB"
            for form, found in speeds.items()
        ),
    ]


def starts(root: Path, images: int) -> list[str]:
    """Return lines about starts, and about bytes per host."""
    lines = [f"\n{images:,} images of about 100 bytes: seconds to the first batch of {BATCH}"]
    lines.append(f"{'':14} {'first start':>12} {'second start':>13} {'resumed at 90 %':>16}")
    bytes_read: dict[str, list[float]] = {}
    for form in FORMATS:
        write(root, form, icons(), images)
        time.sleep(data.scan.SETTLED)
        seconds = [ask(task, form, root) for task in ("start", "start", "resume")]
        lines.append(f"{form:14} {seconds[0]:12.1f} {seconds[1]:13.1f} {seconds[2]:16.1f}")
        bytes_read[form] = [ask(f"tenth of {hosts}", form, root) / 1e6 for hosts in HOSTS]
        shutil.rmtree(root)
    lines.append("\na tenth of an epoch: MB read per host of " + ", ".join(map(str, HOSTS)))
    for form, found in bytes_read.items():
        lines.append(f"{form:14} " + "".join(f"{value:10.1f}" for value in found))
    write(root, "files", icons(), images // 10)
    time.sleep(data.scan.SETTLED)
    lines.append(f"\nthe first scan of {images // 10:,} files: files decoded per host, seconds")
    for hosts in HOSTS:
        counts, slowest = scan_on(hosts, root)
        lines.append(f"{hosts} hosts on this machine: {counts:,} files each, {slowest:.1f} s")
    return lines


def photographs() -> list[bytes]:
    """Return JPEG images of 500 x 375 pixels and about 110 kB."""
    rng, found = np.random.default_rng(0), []
    for _ in range(48):
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), np.uint8)).resize((500, 375))
        noisy = np.asarray(coarse) + rng.normal(0, 20, (375, 500, 3))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "jpeg", quality=85)
        found.append(file.getvalue())
    return found


def icons() -> list[bytes]:
    """Return PNG images of 8 x 8 pixels in one color each."""
    found = []
    for number in range(1000):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(file, "png")
        found.append(file.getvalue())
    return found


def write(root: Path, form: str, encoded: list[bytes], count: int) -> None:
    """Write `count` images in a format, and two per class to test on."""
    if form == "files":
        for split, number in (("train", count), ("test", 2 * CLASSES)):
            for label in range(CLASSES):
                (root / split / f"class {label}").mkdir(parents=True, exist_ok=True)
            for i in range(number):
                path = root / split / f"class {i % CLASSES}" / f"{i}.img"
                path.write_bytes(encoded[i % len(encoded)])
        return
    folder = root / form / "small" / "1.0.0"
    folder.mkdir(parents=True)
    infos = []
    for split, number in (("train", count), ("test", 2 * CLASSES)):
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name="small", split=split, filetype_suffix=form
        )
        lengths = [
            min(RECORDS_PER_FILE, number - start) for start in range(0, number, RECORDS_PER_FILE)
        ]
        paths = template.sharded_filepaths(num_shards=len(lengths))
        records = examples(encoded)
        for path, length in zip(paths, lengths, strict=True):
            writer = (
                tf.io.TFRecordWriter(str(path))
                if form == "tfrecord"
                else ArrayRecordWriter(str(path), "group_size:1")
            )
            for _ in range(length):
                writer.write(next(records))
            writer.close()
        infos.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=lengths, num_bytes=0, filename_template=template
            )
        )
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=CLASSES)}
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=infos,
        check_data=False,
        supervised_keys=("image", "label"),
    )


def examples(encoded: list[bytes]) -> Iterator[bytes]:
    """Yield records without end."""
    serialized = []
    for number, image in enumerate(encoded):
        feature = {
            "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % CLASSES])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        serialized.append(example.SerializeToString())
    while True:
        yield from serialized


def load(form: str, root: Path, **hosts: data.scan.Hosts) -> Dataset:
    if form == "files":
        return data.load(str(root), **hosts)
    return data.load("small", data_dir=str(root / form))


def views(dataset: Dataset, size: int) -> tf.data.Dataset:
    return train_batches(
        dataset.train,
        preprocessing_for(dataset, 224),
        batch_size=size,
        augmentation=Augmentation("scale-crop-flip"),
    )


def ask(task: str, form: str, root: Path) -> float:
    """Run a task in a process of its own, and return its answer."""
    command = [sys.executable, __file__, "--task", task, form, str(root)]
    environment = os.environ | {"XDG_CACHE_HOME": str(root / "caches")}
    return json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    )


def first_batch(form: str, root: Path, share_of_epoch: float) -> float:
    """Return the seconds from loading the data to its first batch."""
    begin = time.perf_counter()
    split = load(form, root).train
    step = int(share_of_epoch * len(split)) // BATCH
    next(iter(split.shuffled(BATCH, 0, step)))
    return time.perf_counter() - begin


def tenth_of(hosts: int) -> Callable[[str, Path], int]:
    """Return a task that counts the bytes that the first host reads for a tenth of an epoch."""
    return lambda form, root: bytes_of_an_epoch(load(form, root), BATCH, 0.1, Shard(0, hosts))


def bytes_of_an_epoch(
    dataset: Dataset, batch_size: int, share: float = 1.0, shard: Shard = WHOLE
) -> int:
    """Return the bytes that are read for a share of an epoch, without decoding."""
    steps = int(share * (len(dataset.train) // batch_size))
    before = characters_read()
    for _ in dataset.train.shuffled(batch_size, 0, 0, shard).take(steps):
        pass
    return characters_read() - before


def characters_read() -> int:
    """Return the bytes that this process has read by system calls."""
    found = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(found["rchar"])


def scan(form: str, root: Path) -> list[float]:
    """Load the folder as one of several hosts; return the files it decoded, and the seconds."""
    decoded = 0
    measures = data.scan._measures

    def counted(files: list[str]) -> Iterator[list[int]]:
        nonlocal decoded
        decoded += len(files)
        return measures(files)

    data.scan._measures = counted
    strategy = distribution.strategy()
    begin = time.perf_counter()
    load(form, root, hosts=distribution.hosts(strategy))
    seconds = time.perf_counter() - begin
    distribution.gather(strategy, [0.0])  # a worker that ends would end the others
    return [decoded, seconds]


def scan_on(hosts: int, root: Path) -> tuple[int, float]:
    """Return the most files that a host has decoded, and the longest time."""
    shutil.rmtree(root / "caches", ignore_errors=True)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(hosts)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    processes = []
    for index in range(hosts):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, "--task", "scan", "files", str(root)],
                env=os.environ
                | {
                    "TF_CONFIG": json.dumps(config),
                    "XDG_CACHE_HOME": str(root / "caches" / str(index)),
                },
                stdout=subprocess.PIPE,
            )
        )
    found = [json.loads(process.communicate()[0]) for process in processes]
    return max(int(count) for count, _ in found), max(seconds for _, seconds in found)


TASKS: dict[str, Callable] = {
    "start": lambda form, root: first_batch(form, root, 0.0),
    "resume": lambda form, root: first_batch(form, root, 0.9),
    "scan": scan,
    **{f"tenth of {hosts}": tenth_of(hosts) for hosts in HOSTS},
}


if __name__ == "__main__":
    main()
