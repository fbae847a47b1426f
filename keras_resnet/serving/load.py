"""Measure how many requests a server answers, and how long each takes, under a given load.

The clients are threads of this process. Python encodes and parses one request at a time, so where
the server is fast, measure from several machines.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .client import Client

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Load:
    """Hold the measurements of one load. Each request has one image."""

    clients: int
    """requests at a time, at most"""
    rate: float | None
    """planned requests per second; None: each client asks again as soon as it has an answer"""
    seconds: float
    """from the first request to the last answer"""
    answers: int
    errors: int
    throughput: float
    """answers per second"""
    p50_ms: float
    """median latency in milliseconds; with a `rate`, from the planned time of a request"""
    p90_ms: float
    p99_ms: float
    max_ms: float
    error: str = ""
    """the first error"""


def measure(
    client: Client,
    images: Sequence[bytes],
    *,
    clients: int,
    seconds: float = 10.0,
    rate: float | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Load:
    """Send requests of one image each for some time, and measure the answers.

    Args:
        client: what asks.
        images: encoded images, which take turns.
        clients: threads that send requests, each one at a time.
        seconds: during which requests are begun.
        rate: requests per second that are begun, whether or not earlier ones are answered; they
            wait for a thread, and that counts. None: as many as the threads can.
        progress: called about ten times per second with the fraction of `seconds` that is over.

    Returns:
        The measurements, with those of answered requests only in the latencies.

    Raises:
        ValueError: an argument is out of range, `images` is empty, or no request is answered.
    """
    if clients < 1:
        raise ValueError(f"clients is {clients}; give a positive number")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds is {seconds:g}; give a positive number")
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"rate is {rate:g}; give a positive number of requests per second")
    if not images:
        raise ValueError("images is empty; give one or more")
    latencies: list[float] = []  # a list's append is atomic
    errors: list[str] = []
    numbers, stop = itertools.count(), threading.Event()
    start = time.perf_counter()

    def ask() -> None:
        while not stop.is_set():
            number = next(numbers)
            begun = time.perf_counter()
            if rate is not None:
                planned = start + number / rate
                if planned >= start + seconds or stop.wait(max(0.0, planned - begun)):
                    return
                begun = planned
            if time.perf_counter() >= start + seconds and rate is None:
                return
            try:
                (answer,) = client.predict([images[number % len(images)]])
                if not answer.classes:
                    raise ValueError(f"the server cannot read image {number % len(images)}")
            except (ValueError, OSError) as error:
                errors.append(str(error))
            else:
                latencies.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                progress(min(1.0, (time.perf_counter() - start) / seconds))
                thread.join(0.1)
    finally:
        stop.set()
    elapsed = time.perf_counter() - start
    if not latencies:
        raise ValueError(f"none of {len(errors)} requests is answered: {errors[0]}")
    ordered = sorted(1000 * latency for latency in latencies)
    p50, p90, p99 = (ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in PERCENTILES)
    return Load(
        clients=clients,
        rate=rate,
        seconds=elapsed,
        answers=len(ordered),
        errors=len(errors),
        throughput=len(ordered) / elapsed,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=ordered[-1],
        error=errors[0] if errors else "",
    )
