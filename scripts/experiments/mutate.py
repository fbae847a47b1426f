"""Send a thousand damaged images to each of several exports in TensorFlow's C++ loader.

The images are JPEG and PNG files with flipped bits, truncations, wrong magic numbers and wrong
sizes. Each is sent to `serving_default` and `classify` in a batch between two good images. The
script reports crashes, failed requests, good images whose answers change, and the peak memory of
the process.

    python scripts/experiments/mutate.py SAVED_MODEL [SAVED_MODEL ...]

A SAVED_MODEL is the folder of a version, such as saved_models/cifar10-resnet20-int8/1. The output
is kept in scripts/results/mutate.json.
"""

import argparse
import collections
import io
import json
import multiprocessing
import os
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Child processes import nothing from the working directory.
os.environ.setdefault("PYTHONSAFEPATH", "1")

import numpy as np  # noqa: E402

from keras_resnet.serving.cpp_loader import Endpoint, SavedModel, strings  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("saved_models", type=Path, nargs="+", metavar="SAVED_MODEL")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    results = {str(one): measure(one, args.files, args.seed) for one in args.saved_models}
    print(json.dumps(results, indent=2))
    for result in results.values():
        if (
            result["requests_that_failed_whole"]
            or result["good_images_not_answered"]
            or result["peak_megabytes"] > 2000
        ):
            sys.exit(1)


def measure(saved_model: Path, files: int, seed: int) -> dict[str, Any]:
    """Send the damaged images to a SavedModel in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:  # Python TensorFlow reads the signatures in another process
        endpoints = pool.apply(signatures, (saved_model,))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=ask, args=(saved_model, endpoints, files, seed, sender))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        sys.exit(f"the process crashed with exit code {process.exitcode}")
    process.join()
    return result


def signatures(saved_model: Path) -> dict[str, Endpoint]:
    """Read the signatures of a SavedModel."""
    from keras_resnet.serving.check import endpoints

    return endpoints(saved_model)


def ask(
    saved_model: Path, endpoints: dict[str, Endpoint], files: int, seed: int, pipe: Any
) -> None:
    """Send the damaged images to the SavedModel, and the results to `pipe`."""
    random = np.random.default_rng(seed)
    model = SavedModel(saved_model, endpoints)
    good, intact = photographs(random)
    alone = [
        model.run("serving_default", {"image_bytes": strings([image])})["probabilities"][0]
        for image in good
    ]
    scores = [np.sort(row)[::-1][:5] for row in alone]

    failed: collections.Counter[str] = collections.Counter()
    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    unanswered = 0
    for number in range(files):
        kind, damaged = mutated(intact, number, random)
        batch = [good[0], damaged, good[1]]
        for signature, inputs in (
            ("serving_default", {"image_bytes": strings(batch)}),
            ("classify", {"inputs": strings(map(example, batch))}),
        ):
            try:
                answer = model.run(signature, inputs)
            except ValueError as error:
                failed[f"{signature}, {kind}: {error}"] += 1
                continue
            wanted = alone if signature == "serving_default" else scores
            got = answer["probabilities" if signature == "serving_default" else "scores"]
            unanswered += sum(
                not np.allclose(got[r], want, atol=1e-5)
                for r, want in zip((0, 2), wanted, strict=True)
            )
            if signature == "serving_default":
                rows[kind]["answered" if got[1].any() else "empty"] += 1
                assert got[1].any() == bool(answer["classes"][1, 0]), (
                    "scores and labels are empty together"
                )
    status = Path("/proc/self/status").read_text()
    pipe.send(
        {
            "files": files,
            "requests": 2 * files,
            "requests_that_failed_whole": sum(failed.values()),
            "why": dict(failed),
            "good_images": 4 * files,
            "good_images_not_answered": unanswered,
            "rows_of_damaged_files": {
                kind: dict(sorted(count.items())) for kind, count in sorted(rows.items())
            },
            "peak_megabytes": int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) // 1000,
        }
    )


def photographs(random: np.random.Generator) -> tuple[list[bytes], list[bytes]]:
    """Return two good images, and the images to damage."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    first, second = (Image.fromarray(image) for image in load_sample_images().images)

    def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    small = first.resize((160, 120))
    return [encoded(small, "JPEG"), encoded(second.resize((100, 100)), "PNG")], [
        encoded(first, "JPEG", quality=90),
        encoded(small, "JPEG", progressive=True),
        encoded(small.convert("L"), "JPEG"),
        encoded(small.convert("CMYK"), "JPEG"),
        encoded(small, "PNG"),
        encoded(small.convert("RGBA"), "PNG"),
        encoded(small.quantize(64), "PNG"),
    ]


def mutated(intact: list[bytes], number: int, random: np.random.Generator) -> tuple[str, bytes]:
    """Return a kind of damage and an image with this damage."""
    image = bytearray(intact[number % len(intact)])
    is_png = image[:4] == b"\x89PNG"
    format_ = "PNG" if is_png else "JPEG"
    kind = ("bit flips", "header flips", "cut", "magic", "size")[number // len(intact) % 5]
    if kind == "cut":
        del image[random.integers(0, len(image)) :]
    elif kind == "magic":
        image[: random.integers(1, 5)] = random.bytes(4)
    elif kind == "size":
        change_size(image, is_png, random)
    else:
        end = 700 if kind == "header flips" else len(image)
        for position in random.integers(0, min(end, len(image)), random.integers(1, 20)):
            image[position] ^= 1 << random.integers(8)
    return f"{format_}, {kind}", bytes(image)


def change_size(image: bytearray, is_png: bool, random: np.random.Generator) -> None:
    """Declare another size: huge, near the limit, or slightly wrong, with valid checksums."""
    width, height = random.choice(
        [[65_500, 65_500], [5_700, 5_800], [60_000, 500], [161, 121], [1, 1], [0, 0]]
    )
    if is_png:
        factor = random.choice([1, 100])  # PNG declares up to 2^31
        image[16:24] = struct.pack(">II", width * factor, height * factor)
        image[29:33] = struct.pack(">I", zlib.crc32(image[12:29]))
    else:
        frame = next(
            i for i in range(len(image)) if image[i] == 0xFF and image[i + 1] in (0xC0, 0xC1, 0xC2)
        )
        image[frame + 5 : frame + 9] = struct.pack(">HH", height, width)


def example(image: bytes) -> bytes:
    """Serialize a tf.Example with `image/encoded` without TensorFlow's protobuf classes."""

    def field(body: bytes) -> bytes:
        """Serialize bytes as field 1."""
        size, prefix = len(body), b"\x0a"
        while size > 127:
            prefix += bytes([size & 127 | 128])
            size >>= 7
        return prefix + bytes([size]) + body

    value = field(field(image))  # Feature.bytes_list.value
    # In a map's entry the value is field 2.
    entry = field(b"image/encoded") + b"\x12" + field(value)[1:]
    return field(field(entry))


if __name__ == "__main__":
    main()
