"""Compare the time to build a network with that of `keras.applications`.

Both build with random weights and default arguments, alternately in one process. The result is the
ratio of wall times per pair; the first pair is a warm-up. Run it on an idle machine:

    python scripts/benchmarks/bench_build.py                 ResNet-152
    python scripts/benchmarks/bench_build.py --deep          and ResNet-1202, once
"""

import argparse
import gc
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_resnet  # noqa: E402

NAMES = {"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NAMES, default="resnet152")
    parser.add_argument("--pairs", type=int, default=7, help="pairs after the warm-up")
    parser.add_argument("--deep", action="store_true", help="also build ResNet-1202, once")
    args = parser.parse_args()

    name = NAMES[args.network]
    ours, theirs = f"keras_resnet.{name}", f"keras.applications.{name}"
    factories = {ours: getattr(keras_resnet, name), theirs: getattr(keras.applications, name)}
    times: dict[str, list[float]] = {ours: [], theirs: []}
    for pair in range(args.pairs + 1):
        # The order alternates, so that a drift of the machine's speed favors neither.
        for which in (ours, theirs) if pair % 2 else (theirs, ours):
            seconds = build_time(factories[which])
            if pair:
                times[which].append(seconds)

    print(f"{args.pairs} pairs, seconds to build: median (min..max)")
    for which, seconds in times.items():
        print(f"{which:<29} {spread(seconds)}")
    print(
        f"{'ratio':<29} {spread([o / t for o, t in zip(times[ours], times[theirs], strict=True)])}"
    )
    if args.deep:
        print(f"{'keras_resnet.ResNet1202':<29} {build_time(keras_resnet.ResNet1202):.3f}, once")


def build_time(factory: Callable[..., keras.Model]) -> float:
    # Deleting the previous model must not count.
    keras.backend.clear_session()
    gc.collect()
    begin = time.perf_counter()
    factory(weights=None)
    return time.perf_counter() - begin


def spread(values: list[float]) -> str:
    return f"{np.median(values):.3f} ({min(values):.3f}..{max(values):.3f})"


if __name__ == "__main__":
    main()
