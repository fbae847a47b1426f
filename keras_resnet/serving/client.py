"""Ask a TF Serving server about images, over REST or gRPC.

REST loads neither TensorFlow nor Keras. gRPC loads TensorFlow, by the package of its protos.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from .client_rest import RestTransport
from .client_values import Connection, Metadata, Prediction, Target, VersionStatus

BATCH = 8
"""images per request: the largest batch of an export's batching parameters"""
MAX_IMAGE = 2**26
"""the largest image file that is sent, in bytes"""

Image = bytes | str | os.PathLike[str]
"""an encoded image, or the path of its file"""


class Transport(Protocol):
    """Send one request to one model, and return its parsed answer."""

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Return the prediction for each encoded image."""

    def classify(self, images: Sequence[bytes]) -> list[Prediction]:
        """Return the prediction for each encoded image, by the Classify API."""

    def status(self) -> list[VersionStatus]:
        """Return the state of each version."""

    def metadata(self) -> Metadata:
        """Return the signatures of the version that answers."""

    def close(self) -> None:
        """Close the connections."""


class Client:
    """Ask one model of a TF Serving server about images.

    A client can be shared between threads. It is a context manager that closes its connections.

    Args:
        url: `http://HOST:PORT` or `https://HOST` for REST, `grpc://HOST:PORT` for gRPC, and
            `grpcs://HOST:PORT` for gRPC with TLS. TF Serving's own ports are 8501 and 8500.
        model: the model's name in the server.
        version: the number of a version; by default the newest answers.
        label: the label of a version, such as `stable`.
        timeout: seconds to wait for an answer, including all attempts.
        retries: how often to ask a server again that is overloaded or cannot be reached.
        certificates: a PEM file of the authorities to trust with TLS, instead of the system's.

    Raises:
        ValueError: an argument is not usable.
        OSError: `certificates` cannot be read.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 30.0,
        retries: int = 2,
        certificates: str | os.PathLike[str] | None = None,
    ):
        trusted = None if certificates is None else _certificates(Path(certificates))
        self._transport = _transport(
            url,
            Target(model=model, version=version, label=label),
            Connection(timeout=timeout, retries=retries, certificates=trusted),
        )

    def predict(self, images: Sequence[Image], *, top: int = 5) -> list[Prediction]:
        """Predict the classes of images by the Predict API.

        Args:
            images: encoded images, or paths of files; JPEG, PNG, GIF or BMP of any sizes.
            top: how many classes to return per image, at most as many as the model answers with.

        Returns:
            One prediction per image. It has no classes where the server cannot read the image.

        Raises:
            ValueError: the server refuses the request, or answers otherwise than TF Serving.
            ConnectionError: the server cannot be reached, or is overloaded.
            TimeoutError: the server has not answered in time.
            OSError: a file cannot be read.
        """
        return self._batched(self._transport.predict, images, top)

    def classify(self, images: Sequence[Image], *, top: int = 5) -> list[Prediction]:
        """Predict the classes of images by the Classify API, which answers without `probabilities`.

        Args:
            images: as in `predict`.
            top: as in `predict`.

        Raises:
            ValueError: as in `predict`.
            OSError: as in `predict`.
        """
        return self._batched(self._transport.classify, images, top)

    def status(self) -> list[VersionStatus]:
        """Return the state of the model's versions, the errors of those that did not load included.

        Raises:
            ValueError: the server has no such model or version.
            OSError: as in `predict`.
        """
        return self._transport.status()

    def metadata(self) -> Metadata:
        """Return the number and the signatures of the version that answers.

        Raises:
            ValueError: the server has no such model or version.
            OSError: as in `predict`.
        """
        return self._transport.metadata()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _batched(self, ask: Any, images: Sequence[Image], top: int) -> list[Prediction]:
        if top < 1:
            raise ValueError(f"top is {top}; give a positive number")
        answers: list[Prediction] = []
        for start in range(0, len(images), BATCH):
            batch = [_content(image) for image in images[start : start + BATCH]]
            found = ask(batch)
            if len(found) != len(batch):
                raise ValueError(f"the server answers {len(batch)} images with {len(found)} rows")
            answers += [one.best(top) for one in found]
        return answers


def predict_each(
    client: Client, files: Sequence[str | os.PathLike[str]], *, top: int = 5
) -> Iterator[dict[str, Any]]:
    """Yield the prediction or the error of each image file, a batch at a time.

    Args:
        client: what answers.
        files: the files.
        top: as in `Client.predict`.

    Yields:
        As `keras_resnet.serving.predict.predict_each` does: `{"image", "classes", "scores"}`, the
        most probable class first, or `{"image", "error"}`.

    Raises:
        ValueError: as in `Client.predict`.
        OSError: the server cannot be reached, or has not answered in time.
    """
    for start in range(0, len(files), BATCH):
        contents = [_content_or_error(Path(file)) for file in files[start : start + BATCH]]
        answers = iter(client.predict([c for c in contents if isinstance(c, bytes)], top=top))
        for file, content in zip(files[start : start + BATCH], contents, strict=True):
            if isinstance(content, str):
                yield {"image": str(file), "error": content}
            elif (answer := next(answers)).classes:
                yield {
                    "image": str(file),
                    "classes": list(answer.classes),
                    "scores": list(answer.scores),
                }
            else:
                yield {"image": str(file), "error": f"{file} is not an image that the server reads"}


def _transport(url: str, target: Target, connection: Connection) -> Transport:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    rest, tls = parts.scheme in ("http", "https"), parts.scheme in ("https", "grpcs")
    known = rest or (parts.scheme in ("grpc", "grpcs") and port and parts.path in ("", "/"))
    if not known or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            f"url is {url!r}; give http://HOST:PORT, https://HOST, grpc://HOST:PORT or"
            " grpcs://HOST:PORT"
        )
    if connection.certificates is not None and not tls:
        raise ValueError(f"certificates need TLS, and url is {url!r}; give https:// or grpcs://")
    if rest:
        return RestTransport(url.rstrip("/"), target, connection)
    from .client_grpc import GrpcTransport  # imports TensorFlow

    return GrpcTransport(parts.netloc, tls, target, connection)


def _certificates(file: Path) -> bytes:
    """Return the content of a PEM file."""
    with file.open("rb") as opened:
        content = opened.read(MAX_IMAGE)
    if b"-----BEGIN CERTIFICATE-----" not in content or not content.isascii():
        raise ValueError(f"certificates is {str(file)!r}, which holds none; give a PEM file")
    return content


def _content(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    with Path(image).open("rb") as file:
        content = file.read(MAX_IMAGE + 1)
    if len(content) > MAX_IMAGE:
        raise ValueError(f"{image} has more than {MAX_IMAGE:,} bytes, too many for an image")
    return content


def _content_or_error(file: Path) -> bytes | str:
    try:
        return _content(file)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    except ValueError as error:
        return str(error)
