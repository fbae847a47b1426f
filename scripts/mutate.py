"""A thousand damaged pictures against the signatures of an export, through TensorFlow's C++ loader.

Bit flips, cuts, wrong magic, sizes that are lies, in JPEG and PNG; each in a batch between two good pictures, to
`serving_default` and to `classify`. Reports crashes, requests that failed whole, good pictures that were not answered
as they are alone, and the largest resident memory of the process.

    python scripts/mutate.py saved_models/NAME/VERSION
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

import numpy as np  # noqa: E402

from keras_resnet.cpp_loader import Endpoint, SavedModel, strings  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:  # Python TensorFlow reads the signatures, and is gone
        places = pool.apply(signatures, (args.saved_model,))
    mine, there = context.Pipe()
    process = context.Process(target=ask, args=(args.saved_model, places, args.files, args.seed, there))
    process.start()
    there.close()
    try:
        result = mine.recv()
    except EOFError:
        process.join()
        sys.exit(f"the process crashed with exit code {process.exitcode}")
    process.join()
    print(json.dumps(result, indent=2))
    if result["requests_that_failed_whole"] or result["good_pictures_not_answered"] or result["peak_megabytes"] > 2000:
        sys.exit(1)


def signatures(saved_model: Path) -> dict[str, Endpoint]:
    from keras_resnet.check import endpoints

    return endpoints(saved_model)


def ask(saved_model: Path, places: dict[str, Endpoint], files: int, seed: int, pipe: Any) -> None:
    random = np.random.default_rng(seed)
    model = SavedModel(saved_model, places)
    good, whole = photographs(random)
    alone = [model.run("serving_default", {"image_bytes": strings([picture])})["probabilities"][0] for picture in good]
    scores = [np.sort(row)[::-1][:5] for row in alone]

    failed: collections.Counter[str] = collections.Counter()
    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    unanswered = 0
    for number in range(files):
        kind, damaged = mutated(whole, number, random)
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
            unanswered += sum(not np.allclose(got[r], want, atol=1e-5) for r, want in zip((0, 2), wanted, strict=True))
            if signature == "serving_default":
                rows[kind]["answered" if got[1].any() else "empty"] += 1
                assert got[1].any() == bool(answer["classes"][1, 0]), "scores and labels are empty together"
    status = Path("/proc/self/status").read_text()
    pipe.send(
        {
            "files": files,
            "requests": 2 * files,
            "requests_that_failed_whole": sum(failed.values()),
            "why": dict(failed),
            "good_pictures": 4 * files,
            "good_pictures_not_answered": unanswered,
            "rows_of_damaged_files": {kind: dict(sorted(count.items())) for kind, count in sorted(rows.items())},
            "peak_megabytes": int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) // 1000,
        }
    )


def photographs(random: np.random.Generator) -> tuple[list[bytes], list[bytes]]:
    """Two good pictures, and those that are to be damaged."""
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


def mutated(whole: list[bytes], number: int, random: np.random.Generator) -> tuple[str, bytes]:
    picture = bytearray(whole[number % len(whole)])
    is_png = picture[:4] == b"\x89PNG"
    format_ = "PNG" if is_png else "JPEG"
    kind = ("bit flips", "header flips", "cut", "magic", "size")[number // len(whole) % 5]
    if kind == "cut":
        del picture[random.integers(0, len(picture)) :]
    elif kind == "magic":
        picture[: random.integers(1, 5)] = random.bytes(4)
    elif kind == "size":
        lie(picture, is_png, random)
    else:
        end = 700 if kind == "header flips" else len(picture)
        for place in random.integers(0, min(end, len(picture)), random.integers(1, 20)):
            picture[place] ^= 1 << random.integers(8)
    return f"{format_}, {kind}", bytes(picture)


def lie(picture: bytearray, is_png: bool, random: np.random.Generator) -> None:
    """Declares another size: huge, of the largest that is let through, or slightly wrong; checksums are made right."""
    width, height = random.choice([[65_500, 65_500], [5_700, 5_800], [60_000, 500], [161, 121], [1, 1], [0, 0]])
    if is_png:
        factor = random.choice([1, 100])  # PNG declares up to 2^31
        picture[16:24] = struct.pack(">II", width * factor, height * factor)
        picture[29:33] = struct.pack(">I", zlib.crc32(picture[12:29]))
    else:
        frame = next(i for i in range(len(picture)) if picture[i] == 0xFF and picture[i + 1] in (0xC0, 0xC1, 0xC2))
        picture[frame + 5 : frame + 9] = struct.pack(">HH", height, width)


def example(picture: bytes) -> bytes:
    """A tf.Example of `image/encoded` by hand, for a process without TensorFlow's messages."""

    def field(body: bytes) -> bytes:
        """Number 1, of bytes."""
        size, prefix = len(body), b"\x0a"
        while size > 127:
            prefix += bytes([size & 127 | 128])
            size >>= 7
        return prefix + bytes([size]) + body

    value = field(field(picture))  # Feature.bytes_list.value
    entry = field(b"image/encoded") + b"\x12" + field(value)[1:]  # the value of a map's entry is number 2
    return field(field(entry))


if __name__ == "__main__":
    main()
