"""Damage every kind of file that the package reads, and read the damaged file.

The damage is flipped bits, zeroed pages, huge numbers in headers, truncation, JSON values that are
null, nested, very long or of another type, and too many or too few cells in tables. A file must be
read, or refused by a `ValueError` or `OSError` of one line, which an indented list may follow. No
reader may crash, hang, take more than 2 GB or write anything. A damaged checkpoint counts as read
if the previous one is restored. The same seed damages the same bytes.

    python scripts/experiments/fuzz.py >scripts/results/fuzz.txt

`experiments/mutate.py` sends damaged images to an export in TensorFlow's C++ loader.
"""

import argparse
import collections
import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Child processes import nothing from the working directory.
os.environ.setdefault("PYTHONSAFEPATH", "1")

import numpy as np  # noqa: E402

MEGABYTE = 1_000_000
MOST_MEGABYTES = 2000
MOST_SECONDS = 60
"""the time limit for one file; the slowest takes about one second"""
MOST_CHARACTERS = 2000
"""the largest length of a message"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--each", type=int, default=100, help="damaged files per kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1800, help="time limit")
    parser.add_argument("--only", nargs="*", default=(), help="kinds of file")
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    found: dict[str, list[Result]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as caches, tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = caches  # of all child processes
        folder = Path(name)
        maker = context.Process(target=make, args=(folder,))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit(maker.exitcode)
        jobs = [
            (kind, number)
            for number in range(args.each)
            for kind in KINDS
            if not args.only or kind in args.only
        ]
        end = time.monotonic() + args.seconds
        while jobs and time.monotonic() < end:
            for kind, result in run_in_a_process(context, folder, jobs, args.seed, end):
                found[kind].append(result)
                jobs.pop(0)
    bad = print_table(found, args.seed)
    if jobs:
        print(f"the time limit is reached: {len(jobs)} files are left")
    if bad or jobs:
        sys.exit(1)


Result = tuple[str, str, float, int]
"""outcome, message, seconds, peak memory of the process in megabytes"""


def run_in_a_process(
    context: Any, folder: Path, jobs: list[tuple[str, int]], seed: int, end: float
) -> Iterator[tuple[str, Result]]:
    """Yield the results of jobs in order, until the process that reads the files has ended."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=read_damaged, args=(folder, list(jobs), seed, sender))
    process.start()
    sender.close()
    receiver.recv()  # the imports are done
    try:
        for kind, _ in list(jobs):
            if time.monotonic() > end:
                return
            begin = time.monotonic()
            if not receiver.poll(MOST_SECONDS):
                yield kind, ("hang", f"{MOST_SECONDS} s", MOST_SECONDS, 0)
                return
            try:
                yield kind, receiver.recv()
            except EOFError:
                process.join()
                seconds = time.monotonic() - begin
                yield kind, ("crash", f"exit code {process.exitcode}", seconds, 0)
                return
    finally:
        process.kill()
        process.join()


def print_table(found: dict[str, list[Result]], seed: int) -> int:
    """Print one row per kind of file and the failures, and return the number of failures."""
    print(f"damaged files, by scripts/experiments/fuzz.py, seed {seed}\n")
    columns = ("files", "read", "refused", "tracebacks", "crashes", "hangs", "written", "MB")
    print(f"{'kind of file':28}" + "".join(f"{column:>11}" for column in columns))
    rows, bad = [], []
    for kind, results in found.items():
        counts = collections.Counter(result[0] for result in results)
        peak = max(result[3] for result in results)
        bad += [(kind, *result[:2]) for result in results if result[0] not in ("read", "refused")]
        if peak > MOST_MEGABYTES:
            bad.append((kind, "memory", f"{peak} MB"))
        outcomes = ("read", "refused", "traceback", "crash", "hang", "written")
        rows.append((len(results), *(counts[outcome] for outcome in outcomes), peak))
        print(f"{kind:28}" + "".join(f"{value:11,}" for value in rows[-1]))
    sums = [sum(column) for column in list(zip(*rows, strict=True))[:-1]]
    sums.append(max(row[-1] for row in rows))
    print(f"{'all':28}" + "".join(f"{value:11,}" for value in sums))
    print("\nMB: most memory of the reading process, TensorFlow's own included.")
    for kind, outcome, message in bad:
        print(f"\n{kind}: {outcome}: {message}")
    return len(bad)


# The files and their readers.


def make(folder: Path) -> None:
    """Write an intact file of every kind."""
    import keras
    import safetensors.numpy
    import tensorflow as tf
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from keras_resnet import RECIPES, evaluate, export, train
    from keras_resnet.data import scan
    from keras_resnet.data.folder import load
    from keras_resnet.networks.build import load as load_network
    from keras_resnet.runs.dataset import record
    from keras_resnet.tuning.folder import Search, begin
    from keras_resnet.tuning.oracle import oracle_for

    with contextlib.redirect_stderr(io.StringIO()):
        run = train(RECIPES["digits-tiny"], folder / "run", checkpoint_seconds=0.0)
    evaluate(run)
    model = load_network(run.model_file)
    model.save_weights(folder / "model.weights.h5")
    model.save(folder / "model.keras")
    arrays = {
        "conv1.weight": np.zeros((64, 3, 7, 7), np.float32),
        "bn1.weight": np.ones(64, np.float32),
        "fc.bias": np.zeros(10, np.float32),
    }
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    by_keras_2(model, folder / "keras2.h5")
    export(run, folder / "export")
    shutil.rmtree(folder / "run" / "tensorboard")

    images = folder / "images"
    photo = Image.fromarray(load_sample_images().images[0]).resize((40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation
    for split in ("train", "test"):
        for name in ("a", "b"):
            (images / split / name).mkdir(parents=True)
            for i in range(2):
                photo.save(images / split / name / f"{i}.png")
    scan.SETTLED = 0.0
    record(type(run)(folder / "images-run"), load(images, seed=0, skip_broken=False))
    (remembered,) = scan.remembered_scans().iterdir()
    shutil.copy(remembered, folder / "scan.npz")
    for kind, options in (
        ("jpeg", {"progressive": True, "exif": exif}),
        ("png", {}), ("gif", {}), ("bmp", {}), ("webp", {}),
    ):  # fmt: skip
        photo.save(folder / f"image.{kind}", **options)

    found = Search(folder / "search")
    recipe = RECIPES["digits-tiny"]
    begin(found, {"recipe": json.loads(recipe.to_json()), "over": ["depth"], "algorithm": "random"})
    oracle = oracle_for(recipe, found, 5, ("learning_rate",), "random")
    for tuner in ("one", "two"):
        oracle.create_trial(tuner)
    oracle.save()
    found.trials_file.write_text(
        "trial,learning_rate,validation_error,status\n0,0.1,2.5,completed\n1,0.2,,failed\n"
    )
    assert keras.backend.backend() == "tensorflow" and tf.executing_eagerly()


def by_keras_2(model: Any, path: Path) -> None:
    """Write weights in the layout of Keras 2, with one group per layer."""
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            for v in layer.weights:
                group.create_dataset(f"{layer.name}/{v.name}:0", data=v.numpy())


class Readers:
    """The readers, with the networks, data and runs that they need."""

    def __init__(self, folder: Path) -> None:
        from keras_resnet import RECIPES, Run, data
        from keras_resnet.networks.build import build
        from keras_resnet.tuning.folder import Search

        self.recipe = RECIPES["digits-tiny"]
        self.folder, self.run = folder, Run(folder / "run")
        self.search = Search(folder / "search")
        self.network = build(
            self.recipe.spec, input_shape=(8, 8, 3), classes=10, classifier_activation=None
        )
        self.digits = data.load("digits")
        self.images = data.load(str(folder / "images"))
        self.trained = self._compiled()

    def _compiled(self) -> Any:
        """Return a compiled network that fits the checkpoint."""
        from keras_resnet.data.preprocessing import per_pixel_mean
        from keras_resnet.runs.dataset import TrainingData
        from keras_resnet.training.keras_patches import prepare
        from keras_resnet.training.optimizer import compile_for
        from keras_resnet.training.train import network

        preprocessing = per_pixel_mean(self.digits.train.images, 8)
        training = TrainingData(self.recipe, self.digits, preprocessing)
        model = prepare(network(training))
        compile_for(self.recipe, model, training.steps_per_epoch, None, 1)
        model.optimizer.build(model.trainable_variables)
        return model

    def weights(self, path: Path) -> None:
        from keras_resnet.networks import weights

        weights.load(self.network, self.recipe.spec, path)

    def any_weights(self, path: Path) -> None:
        from keras_resnet.networks import weights

        assert weights.read(path).classes is not False

    def opened(self, path: Path) -> None:
        from keras_resnet.runs.classifier import open_run

        classifier = open_run(path.parent)
        assert classifier.model(np.zeros((1, 8, 8, 3), np.float32)).shape == (1, 10)

    def checkpoint(self, path: Path) -> None:
        from keras_resnet.training import checkpoint

        if checkpoint.restore(path.parent, self.trained) is None:
            raise ValueError("skipped")

    def any_recipe(self, path: Path) -> None:
        from keras_resnet.runs.recipes import recipe_of

        recipe = recipe_of(path)
        assert (
            recipe.spec.name and recipe.total_steps(22) and type(recipe).from_json(recipe.to_json())
        )

    def data_record(self, path: Path) -> None:
        from keras_resnet.runs.dataset import require_recorded

        require_recorded(type(self.run)(path.parent), self.images)

    def preprocessing(self, path: Path) -> None:
        from keras_resnet.data.preprocessing import Preprocessing, normalize, resize_and_crop

        found = Preprocessing.read(path)
        if found.resize < 1000:
            image = resize_and_crop(found, self.digits.test.images[:1])
            assert np.isfinite(normalize(found, image)).all()

    def evaluation(self, path: Path) -> None:
        from keras_resnet.runs.classifier import open_run
        from keras_resnet.serving.lowering import in_float32
        from keras_resnet.serving.model_card import _errors

        classifier = open_run(path.parent)
        _errors(classifier, in_float32(classifier.split.model))

    def provenance(self, path: Path) -> None:
        run = type(self.run)(path.parent)
        run.locate("nowhere")
        assert run.provenance().get("environment", {}).get("TFDS_DATA_DIR") != 5

    def settings(self, path: Path) -> None:
        from keras_resnet.tuning.folder import begin

        wanted = {"recipe": json.loads(self.recipe.to_json()), "over": ["depth"]}
        begin(type(self.search)(path.parent), wanted | {"algorithm": "random"})

    def oracle(self, path: Path) -> None:
        from keras_resnet.tuning.oracle import oracle_for

        found = type(self.search)(path.parent)
        oracle = oracle_for(self.recipe, found, 5, ("learning_rate",), "random")
        oracle.save = lambda: None
        oracle.reload()

    def trials(self, path: Path) -> None:
        from rich.console import Console

        from keras_resnet.cli import tables

        rows = type(self.search)(path.parent).trials()
        if rows:
            Console(file=io.StringIO()).print(tables.trials("a search", rows))

    def history(self, path: Path) -> None:
        type(self.run)(path.parent).history()

    def labels(self, path: Path) -> None:
        type(self.run)(path.parent).class_names()

    def image(self, path: Path) -> None:
        from keras_resnet.serving.predict import predict

        answers = predict(self.run, [path])
        assert np.isfinite(answers[0]["scores"]).all()

    def folder_of_images(self, path: Path) -> None:
        from keras_resnet import data

        images = data.load(str(path.parents[2]))
        for image, _ in images.train.in_order().as_numpy_iterator():
            data.decoding.decode(image)

    def remembered_scan(self, path: Path) -> None:
        from keras_resnet.data import scan

        store = scan._Store(path.parent)
        store.path = path
        if not len(store._read()):
            raise ValueError("skipped")

    def graph(self, path: Path) -> None:
        from keras_resnet.serving.audit import audit, read_graph

        list(audit(path.parent, read_graph(path.parent)))

    def variables(self, path: Path) -> None:
        from keras_resnet.serving.audit import audit, read_graph

        version = path.parent.parent
        errors = [f.text for f in audit(version, read_graph(version)) if f.severity == "error"]
        if errors:
            raise ValueError(errors[0])

    def warm_up(self, path: Path) -> None:
        from keras_resnet.serving import sidecars

        list(sidecars.read_warm_up(path.parent.parent))

    def batching(self, path: Path) -> None:
        from keras_resnet.serving import sidecars

        sidecars.read_batching(path.parent)


KINDS: dict[str, tuple[str, Callable[[Readers, Path], None]]] = {
    "weights .weights.h5": ("model.weights.h5", Readers.weights),
    "weights .keras": ("model.keras", Readers.weights),
    "weights .h5 of Keras 2": ("keras2.h5", Readers.weights),
    "weights .safetensors": ("model.safetensors", Readers.any_weights),
    "run model.keras": ("run/model.keras", Readers.opened),
    "run checkpoint .npz": ("run/checkpoint/*", Readers.checkpoint),
    "run recipe.json": ("run/recipe.json", Readers.any_recipe),
    "run preprocessing.json": ("run/preprocessing.json", Readers.preprocessing),
    "run labels.txt": ("run/labels.txt", Readers.labels),
    "run data.json": ("images-run/data.json", Readers.data_record),
    "run provenance.json": ("run/provenance.json", Readers.provenance),
    "run history.csv": ("run/history.csv", Readers.history),
    "run evaluation.json": ("run/evaluation.json", Readers.evaluation),
    "search search.json": ("search/search.json", Readers.settings),
    "search oracle.json": ("search/oracle.json", Readers.oracle),
    "search trials.csv": ("search/trials.csv", Readers.trials),
    "export saved_model.pb": ("export/1/saved_model.pb", Readers.graph),
    "export variables.index": ("export/1/variables/variables.index", Readers.variables),
    "export warm-up": ("export/1/assets.extra/*", Readers.warm_up),
    "export batching": ("export/1/batching_params.pbtxt", Readers.batching),
    "image .jpeg": ("image.jpeg", Readers.image),
    "image .png": ("image.png", Readers.image),
    "image .gif": ("image.gif", Readers.image),
    "image .bmp": ("image.bmp", Readers.image),
    "image .webp": ("image.webp", Readers.image),
    "remembered scan .npz": ("scan.npz", Readers.remembered_scan),
    "image in a folder": ("images/train/a/0.png", Readers.folder_of_images),
}
"""the intact file and its reader, by kind"""


# The damage.

NUMBERS = (0, 1, 0x7F, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)
VALUES = (
    "null", "true", "0", "-1", "5", "1e999", "-1e-320", "NaN", "9" * 400, '""', '"x"', '"../../x"',
    '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', "[]", "[1]", "[[]]", "{}", '{"a": 1}', "[" * 50_000,
    '{"a": ' * 50_000, "[" + "1," * 50_000 + "1]",
)  # fmt: skip


def damaged(intact: bytes, suffix: str, random: np.random.Generator) -> bytes:
    """Return a file with one kind of damage."""
    content = bytearray(intact)
    text = suffix in (".json", ".csv", ".txt", ".pbtxt")
    kinds = [flip, flip_header, cut, zero, number, insert, double]
    kinds += 2 * ([value, key] if suffix == ".json" else [cell, cell] if text else [number])
    kind = kinds[random.integers(len(kinds))]
    kind(content, random)
    return bytes(content)


def flip(content: bytearray, random: np.random.Generator, end: int | None = None) -> None:
    size = min(end or len(content), len(content))
    for position in random.integers(0, size, random.integers(1, 20)):
        content[position] ^= 1 << random.integers(8)


def flip_header(content: bytearray, random: np.random.Generator) -> None:
    flip(content, random, 512)


def cut(content: bytearray, random: np.random.Generator) -> None:
    del content[random.integers(len(content)) :]


def zero(content: bytearray, random: np.random.Generator) -> None:
    position = random.integers(len(content))
    size = min(int(random.choice([1, 8, 512])), len(content) - position)
    content[position : position + size] = bytes([random.choice([0, 255])]) * size


def number(content: bytearray, random: np.random.Generator) -> None:
    """Replace some bytes by an extreme number, often in the header."""
    size = int(random.choice([2, 4, 8]))
    end = min(len(content), int(random.choice([64, 512, 4096, len(content)])))
    position = random.integers(max(1, end - size))
    value = int(NUMBERS[random.integers(len(NUMBERS))]) % 2 ** (8 * size)
    content[position : position + size] = value.to_bytes(size, random.choice(["little", "big"]))


def insert(content: bytearray, random: np.random.Generator) -> None:
    position = random.integers(len(content))
    content[position:position] = random.bytes(int(random.choice([1, 4, 100])))


def double(content: bytearray, random: np.random.Generator) -> None:
    first, last = sorted(random.integers(0, len(content), 2))
    content[last:last] = content[first : min(last, first + 10_000)]


def value(content: bytearray, random: np.random.Generator) -> None:
    """Replace a JSON value by another one."""
    text = content.decode()
    values = list(re.finditer(r'"[^"]*"(?!\s*:)|-?\d[\d.e-]*|true|false|null', text))
    old = values[random.integers(len(values))]
    new = VALUES[random.integers(len(VALUES))]
    content[:] = (text[: old.start()] + new + text[old.end() :]).encode()


def key(content: bytearray, random: np.random.Generator) -> None:
    """Rename a key of a JSON object, or replace its value."""
    values = json.loads(content.decode())
    inner = values
    while True:
        name = list(inner)[random.integers(len(inner))]
        if isinstance(inner[name], dict) and inner[name] and random.integers(2):
            inner = inner[name]
        else:
            break
    if random.integers(2):
        inner["other"] = inner.pop(name)
        content[:] = json.dumps(values).encode()
    else:
        inner[name] = "HERE"
        new = VALUES[random.integers(len(VALUES))]
        content[:] = json.dumps(values).replace('"HERE"', new).encode()


def cell(content: bytearray, random: np.random.Generator) -> None:
    """Change the cells and lines of a text."""
    news = [
        b",",
        b'"',
        b"\n",
        b"\r",
        b"\0",
        b"\n\n",
        b"nan",
        b"-",
        b"9" * 200_000,
        b"\xff",
        b"\x1b[",
    ]
    for _ in range(random.integers(1, 4)):
        position = random.integers(len(content))
        content[position : position + random.integers(3)] = news[random.integers(len(news))]


# The process that reads the files.


def read_damaged(folder: Path, jobs: list[tuple[str, int]], seed: int, pipe: Connection) -> None:
    """Read damaged files one after the other, and send the result of each."""
    import resource

    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    os.chdir(scratch)
    tempfile.tempdir = str(scratch)
    warnings.simplefilter("ignore")
    readers = Readers(folder)
    kinds = list(KINDS)
    # The address space that TensorFlow has reserved does not count.
    status = Path("/proc/self/status").read_text()
    reserved = int(re.search(r"VmSize:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (reserved + 6_000 * MEGABYTE, hard))
    pipe.send("ready")
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        for kind, number in jobs:
            name, read = KINDS[kind]
            file = sorted(folder.glob(name))[-1]
            intact, times = file.read_bytes(), os.stat(file)
            random = np.random.default_rng([seed, kinds.index(kind), number])
            file.write_bytes(damaged(intact, file.suffix, random))
            # Resets the peak memory, so that earlier files do not count.
            Path("/proc/self/clear_refs").write_text("5")
            before, start = files_of(folder), time.monotonic()
            try:
                read(readers, file)
                outcome, message = "read", ""
            except (ValueError, OSError) as error:
                outcome, message = "refused", str(error)
                lines = message.splitlines()
                if len(message) > MOST_CHARACTERS or not all(
                    line.startswith("  ") for line in lines[1:]
                ):
                    outcome = "traceback"
            except Exception:
                outcome, message = "traceback", traceback.format_exc()[-3000:]
            seconds = time.monotonic() - start
            if changed := before ^ files_of(folder):
                outcome, message = "written", str(sorted(changed)[:4])
            file.write_bytes(intact)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            pipe.send((outcome, message, seconds, peak_megabytes()))


def files_of(folder: Path) -> set[tuple[str, int, int]]:
    """Return the files in a folder with their sizes and times."""
    return {
        (str(path.relative_to(folder)), (stat := path.lstat()).st_size, stat.st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def peak_megabytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024 // MEGABYTE  # type: ignore[index]


if __name__ == "__main__":
    main()
