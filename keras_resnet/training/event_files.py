"""TensorBoard's event files: written, and cut back to the state that a training resumes from."""

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

NAME = "events.out.tfevents."
EPOCH = "epoch_"
"""how the tags begin whose steps are epochs, counted from 0; all others count steps done"""


class EventFile:
    """A new event file.

    Neither `tf.summary` nor Keras' callback is used: they take a millisecond per value, and
    TensorFlow caches the tensor of each distinct Python number, 650 bytes, until the process ends.

    Args:
        folder: of the file; it is created.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        self._file = RecordWriter((folder / f"{NAME}{time.time_ns()}").open("xb"))
        self._add(Event(file_version="brain.Event:2"))

    def add(self, step: int, **values: float) -> None:
        """Add values.

        Args:
            step: their step.
            values: by their tags.
        """
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(Event(step=step, summary=Summary(value=scalars)))

    def add_png(self, step: int, tag: str, png: bytes) -> None:
        """Add an image.

        Args:
            step: its step.
            tag: its tag.
            png: the content of a PNG file.
        """
        width, height = struct.unpack_from(">II", png, 16)
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))

    def flush(self) -> None:
        """Give what is still in memory to the system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._file.write(event.SerializeToString())


def cut(folder: Path, steps: int, epochs: int) -> None:
    """Remove the events that a training wrote after a state; of no steps, all events.

    The events of a file are in the order in which they were written, so its end is cut off. An
    event that was only half written goes, too.

    Args:
        folder: of event files, also in folders below it.
        steps: steps done in the state.
        epochs: epochs done in the state.
    """
    for path in folder.rglob(f"{NAME}*"):
        if steps == 0:
            path.unlink()
            continue
        end = 0
        with path.open("rb") as file:
            for event, position in _events(file):
                if any(
                    event.step >= epochs if value.tag.startswith(EPOCH) else event.step > steps
                    for value in event.summary.value
                ):
                    break
                end = position
        if end < path.stat().st_size:
            os.truncate(path, end)


def _events(file: BinaryIO) -> Iterator[tuple[Event, int]]:
    """Yield each whole event with the position of its end.

    A record is the length of an event in 8 bytes, 4 bytes of checksum, the event, and 4 bytes of
    checksum.
    """
    while len(header := file.read(12)) == 12:
        (length,) = struct.unpack_from("<Q", header)
        record = file.read(length + 4) if length < 2**31 else b""
        if len(record) < length + 4:
            return
        try:
            yield Event.FromString(record[:-4]), file.tell()
        except DecodeError:
            return
