"""Answer one image for the demo's page: classes, heat map, and the request of a client."""

import base64
import contextlib
import json
import os
import shlex
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import tensorflow as tf

from ..data.decoding import decode
from ..data.preprocessing import Preprocessing
from . import overlay, sidecars
from .audit import file_operations, read_graph
from .check import endpoints
from .child import Child, child, program
from .client_values import SIGNATURE, prediction
from .cpp_loader import Endpoint
from .demo_process import INPUT
from .predict import fault, version_of

HEAT_MAP = "heat_map"
_OUTPUTS = {SIGNATURE: ("classes", "scores"), HEAT_MAP: ("maps",)}
SIDE = 384
"""the longer side of an image on the page, in pixels"""
TIME_LIMIT = 60.0
"""the time in seconds that the export has to load, and to answer an image"""
_REST = "http://localhost:8501"
"""where TF Serving answers by default"""
_SHOWN = 40
"""the number of characters of an encoded image that are shown"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the page shows for one image."""

    classes: tuple[str, ...]
    """names, the most probable first"""
    scores: tuple[float, ...]
    """their probabilities"""
    image: str
    """the image, upright if the export turns it, as the URL of a PNG"""
    heat_map: str | None
    """a layer over it, of the same size"""
    requests: dict[str, str]
    """the request of a client, by the way of sending it"""


class Export:
    """An export that answers one image at a time. `opened` opens one.

    Args:
        version: the folder of `saved_model.pb`.
        preprocessing: that of the export; None if it does not state one.
        process: answers by the export's signatures.
    """

    def __init__(self, version: Path, preprocessing: Preprocessing | None, process: "_Process"):
        self.name = (version.parent if version.name.isdecimal() else version).resolve().name
        self.version = version.name
        self.has_heat_map = HEAT_MAP in process.signatures
        self._path, self._preprocessing, self._process = version, preprocessing, process
        self._one = threading.Lock()

    def answer(self, image: bytes, file: str) -> Answer:
        """Answer an image.

        Args:
            image: an encoded image, which the export gets unchanged.
            file: the name of its file, for the request of a client.

        Raises:
            ValueError: the image has no answer. The message continues a sentence that begins with
                the name of the file.
        """
        preprocessing = self._preprocessing
        with self._one:  # several large images at a time could exhaust the memory
            found = self._process.ask(image)
            try:
                served = prediction(**found[SIGNATURE])
            except ValueError as error:
                raise ValueError(f"has no answer: {error}") from None
            if not served.classes:
                raise ValueError(fault(image, self._path))
            upright = preprocessing is None or preprocessing.exif_orientation
            pixels = decode(tf.constant(image), exif_orientation=upright).numpy()
            shown = overlay.resized(pixels, SIDE)
        layer = None
        if self.has_heat_map and preprocessing is not None:
            heat = np.asarray(found[HEAT_MAP]["maps"], np.float32)
            layer = overlay.data_url(overlay.overlay(heat, shown.size, preprocessing))
        return Answer(
            classes=served.classes,
            scores=served.scores,
            image=overlay.data_url(shown),
            heat_map=layer,
            requests=requests(self.name, image, file),
        )


@contextlib.contextmanager
def opened(target: str | os.PathLike[str]) -> Iterator[Export]:
    """Load an export in TensorFlow's C++ loader, and end its process at the end.

    Args:
        target: a version, or the folder of versions, of which the newest answers.

    Raises:
        ValueError: `target` is not an export that takes encoded images, it reads or writes files,
            or it does not load.
    """
    version = version_of(Path(target))
    if version is None:
        raise ValueError(f"{target} is not an export (saved_model.pb, or numbered versions)")
    if files := file_operations(read_graph(version)):
        raise ValueError(f"{version} is not run: it reads or writes files ({', '.join(files)})")
    preprocessing = None  # exports of earlier versions do not state it
    if (stated := version / sidecars.PREPROCESSING).is_file():
        preprocessing = Preprocessing.read(stated)
    found = endpoints(version)
    if SIGNATURE not in found or INPUT not in found[SIGNATURE].inputs:
        raise ValueError(
            f"{version} has no signature {SIGNATURE} with the input {INPUT}; give an export of"
            " this package"
        )
    # Where a heat map lies cannot be told without the preprocessing.
    wanted = [HEAT_MAP] if HEAT_MAP in found and preprocessing is not None else []
    signatures = {name: _only(found[name], _OUTPUTS[name]) for name in (SIGNATURE, *wanted)}
    with contextlib.ExitStack() as stack:
        process = _Process(version, signatures, stack)
        try:
            process.start()
        except (ValueError, TimeoutError) as error:
            raise ValueError(f"{version} does not load: {error}") from None
        yield Export(version, preprocessing, process)


class _Process:
    """A process that has loaded an export. Another takes its place after it has died."""

    def __init__(
        self, version: Path, signatures: Mapping[str, Endpoint], stack: contextlib.ExitStack
    ):
        self.signatures = signatures
        places = json.dumps({name: vars(place) for name, place in signatures.items()})
        path = str(version.absolute())
        self._command = program("keras_resnet.serving.demo_process", path, places)
        self._stack = stack
        self._running: Child | None = None

    def start(self) -> Child:
        if self._running is None:
            process = self._stack.enter_context(child(*self._command, TIME_LIMIT))
            assert process.answer() == "ready"
            self._running = process
        return self._running

    def ask(self, image: bytes) -> Any:
        """Return the outputs for an image, by the names of the signature and of the output."""
        try:
            answer = self.start().ask(base64.b64encode(image).decode())
        except (ValueError, TimeoutError) as error:
            self._running = None
            self._stack.close()
            raise ValueError(f"has no answer: {error}") from None
        if "error" in answer:
            raise ValueError(f"has no answer: {answer['error']}")
        return answer["value"]


def _only(endpoint: Endpoint, outputs: tuple[str, ...]) -> Endpoint:
    """Return a signature with some of its outputs; the others are not computed."""
    return Endpoint(endpoint.inputs, {name: endpoint.outputs[name] for name in outputs})


def requests(model: str, image: bytes, file: str) -> dict[str, str]:
    """Return the request of a client about an image, by the way of sending it.

    Args:
        model: the name of the model in the server.
        image: the encoded image, of which the request shows the beginning.
        file: the name of its file.
    """
    if not file.isprintable():  # a terminal may obey control characters in what is pasted
        file = "IMAGE"
    url = f"{_REST}/v1/models/{quote(model, safe='')}:predict"
    encoded = base64.b64encode(image).decode()
    if len(encoded) > _SHOWN:
        encoded = f"{encoded[:_SHOWN]}... ({len(encoded):,} characters)"
    rest = f'POST {url}\n\n{{"instances": [{{"b64": "{encoded}"}}]}}'
    # An argument of `curl` could have 128 KiB; `printf` belongs to the shell, which has no limit.
    shell = (
        f"""printf '{{"instances": [{{"b64": "%s"}}]}}' "$(base64 < {shlex.quote(file)} |"""
        f""" tr -d '\\n')" |\n  curl -d @- {url}"""
    )
    python = (
        "from keras_resnet.serving.client import Client\n\n"
        f"with Client({_REST!r}, {model!r}) as client:\n"
        f"    for prediction in client.predict([{file!r}]):\n"
        "        print(prediction.classes, prediction.scores)"
    )
    return {"REST": rest, "Shell": shell, "Python": python}
