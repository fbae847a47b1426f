"""Answer images by signatures of an export, in a process of its own.

The process imports neither Python TensorFlow nor Keras: TensorFlow's C++ loader answers, as in
TF Serving. When the export is loaded it writes a line; then, for each line that it reads, an image
in base64, it writes the outputs of every signature as JSON. It ends when its standard input closes,
so it does not outlive the process that started it.
"""

import base64
import json
import sys
from typing import Any

import numpy as np

from .child import answers
from .cpp_loader import Endpoint, SavedModel, Tensors, strings

INPUT = "image_bytes"
"""the input of the signatures that can be asked"""


def main(saved_model: str, signatures: str) -> None:
    """Answer the images that come in on standard input.

    Args:
        saved_model: the folder of `saved_model.pb`.
        signatures: JSON, for each signature the fields of its `Endpoint`.
    """
    output = answers()
    places = {name: Endpoint(**place) for name, place in json.loads(signatures).items()}
    try:
        model = SavedModel(saved_model, places)
    except ValueError as error:
        sys.exit(" ".join(str(error).split()))
    print(json.dumps("ready"), file=output, flush=True)
    for line in sys.stdin:
        inputs = {INPUT: strings([base64.b64decode(json.loads(line))])}
        try:
            found = {name: _first(model.run(name, inputs)) for name in places}
            answer = json.dumps({"value": found})
        except ValueError as error:
            answer = json.dumps({"error": " ".join(str(error).split())})
        print(answer, file=output, flush=True)


def _first(outputs: Tensors) -> dict[str, Any]:
    """Return the first row of every output as values of JSON."""
    return {name: _plain(values[0]) for name, values in outputs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist()
