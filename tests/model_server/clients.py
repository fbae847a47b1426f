"""Clients that ask without pause and compare every answer with the right one."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from keras_resnet.serving.client import Client

TOLERANCE = 1e-5
"""the largest difference of a probability"""


@dataclass
class Counts:
    """What clients have got so far."""

    requests: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """answers that were other than expected"""


@contextmanager
def asking(urls, model, images, probabilities, *, clients, **chosen):
    """Ask from threads while the block runs.

    Args:
        urls: of the server; clients take them in turns.
        model: the model's name.
        images: encoded images, of which each request has 1 to 3.
        probabilities: the right answers `[N, classes]`, zero for what the server cannot read.
        clients: the number of threads.
        chosen: arguments of `Client`, such as a label.

    Yields:
        The `Counts`, which are complete after the block.
    """
    counts, done = Counts(), threading.Event()
    unread = (0.0,) * probabilities.shape[1]

    def ask(number):
        rng = np.random.default_rng(number)
        with Client(urls[number % len(urls)], model, timeout=300, retries=0, **chosen) as client:
            while not done.is_set():
                rows = rng.integers(len(images), size=rng.integers(1, 4))
                try:
                    answers = client.predict([images[row] for row in rows])
                except Exception as error:  # of any class
                    counts.errors.append(repr(error))
                    continue
                counts.requests += 1
                found = [answer.probabilities or unread for answer in answers]
                if not np.allclose(found, probabilities[rows], rtol=0, atol=TOLERANCE):
                    counts.wrong.append(f"images {rows}: {found}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        done.set()
        for thread in threads:
            thread.join()


def wait_for(condition, seconds=60):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
