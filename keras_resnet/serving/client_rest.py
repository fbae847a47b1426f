"""Talk to TF Serving over REST, with neither TensorFlow nor NumPy."""

import base64
import json
import math
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from .client_values import (
    CLASSIFY_SIGNATURE,
    SIGNATURE,
    Connection,
    Metadata,
    Prediction,
    Target,
    VersionStatus,
    prediction,
    signatures,
)

_BUSY = (429, 502, 503)
"""statuses of a server that is overloaded, or has not loaded the model yet"""
_CONNECTIONS = 64
"""connections that are kept open: one per thread that asks"""
_MESSAGE = 500
"""characters of a server's message that are shown"""

Answer = TypeVar("Answer")


class _Retries(urllib3.Retry):
    """Retry a request until a deadline, but not one that timed out: it may still be worked on."""

    end = math.inf
    """the deadline, by `time.monotonic`"""

    def until(self, end: float) -> "_Retries":
        """Return a copy with another deadline."""
        made = self.new()
        made.end = end
        return made

    def new(self, **changes: Any) -> "_Retries":
        """Return a copy with other values; the library makes one per attempt."""
        made = super().new(**changes)
        made.end = self.end
        return made

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: Any = None,
        error: Exception | None = None,
        _pool: Any = None,
        _stacktrace: Any = None,
    ) -> "_Retries":
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)

    def sleep(self, response: Any = None) -> None:
        """Wait before the next attempt.

        Raises:
            TimeoutError: it would begin after the deadline.
        """
        asked = self.get_retry_after(response) if response is not None else None
        wait = self.get_backoff_time() if asked is None else asked
        left = self.end - time.monotonic()
        time.sleep(max(0.0, min(wait, left)))
        if wait >= left:
            raise TimeoutError


class _Deadline(urllib3.Timeout):
    """Limit all attempts of a request together."""

    def __init__(self, end: float):
        super().__init__()
        self._end = end

    def clone(self) -> urllib3.Timeout:
        """Return the time that is left; the library asks at each attempt."""
        return urllib3.Timeout(total=max(0.001, self._end - time.monotonic()))


class RestTransport:
    """Send requests to one model over REST; safe to share between threads.

    Args:
        url: the server, `http://HOST:PORT` or `https://HOST`, with or without a path before `/v1`.
        target: the model.
        connection: timeouts, retries and certificates.
    """

    def __init__(self, url: str, target: Target, connection: Connection):
        self._server = url
        self._connection = connection
        self._path = f"{url}/v1/models/{quote(target.model, safe='')}"
        if target.version is not None:
            self._path += f"/versions/{target.version}"
        if target.label is not None:
            self._path += f"/labels/{quote(target.label, safe='')}"
        trusted = ssl.create_default_context()
        if connection.certificates is not None:
            trusted = ssl.create_default_context(cadata=connection.certificates.decode("ascii"))
        self._pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            ssl_context=trusted,
        )
        # All requests may be repeated: they change nothing in the server.
        self._retries = _Retries(
            connection.retries,
            allowed_methods=None,
            redirect=0,
            status_forcelist=_BUSY,
            backoff_factor=0.2,
            backoff_jitter=0.2,
            backoff_max=5.0,
            raise_on_status=False,
        )

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Return the prediction for each encoded image."""
        rows = [{"b64": base64.b64encode(image).decode()} for image in images]
        answer = self._ask("POST", ":predict", {"signature_name": SIGNATURE, "instances": rows})
        return self._parsed(
            lambda: [
                prediction(row["classes"], row["scores"], row["probabilities"])
                for row in answer["predictions"]
            ]
        )

    def classify(self, images: Sequence[bytes]) -> list[Prediction]:
        """Return the prediction for each encoded image, by the Classify API."""
        examples = [
            {"image/encoded": {"b64": base64.b64encode(image).decode()}} for image in images
        ]
        body = {"signature_name": CLASSIFY_SIGNATURE, "examples": examples}
        answer = self._ask("POST", ":classify", body)
        return self._parsed(
            lambda: [
                prediction([label for label, _ in row], [score for _, score in row])
                for row in answer["results"]
            ]
        )

    def status(self) -> list[VersionStatus]:
        """Return the state of each version."""
        answer = self._ask("GET", "")
        return self._parsed(
            lambda: [
                VersionStatus(
                    version=int(row["version"]),
                    state=str(row["state"]),
                    error=str(row["status"]["error_message"]),
                )
                for row in answer["model_version_status"]
            ]
        )

    def metadata(self) -> Metadata:
        """Return the signatures of the version that answers."""
        answer = self._ask("GET", "/metadata")
        return self._parsed(
            lambda: Metadata(
                version=int(answer["model_spec"]["version"]),
                signatures=signatures(answer["metadata"]["signature_def"]["signature_def"]),
            )
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON answer to one request."""
        end = time.monotonic() + self._connection.timeout
        try:
            response = self._pool.request(
                method,
                self._path + path,
                json=body,
                timeout=_Deadline(end),
                retries=self._retries.until(end),
            )
        except (HTTPError, TimeoutError) as error:
            self._raise(error)
        text = response.data.decode("utf-8", errors="replace")
        if response.status != 200:
            message = _message(text)
            if response.status in _BUSY or response.status >= 500:
                raise ConnectionError(f"{self._server} answers {response.status}: {message}")
            raise ValueError(f"{self._server} refuses the request ({response.status}): {message}")
        return self._parsed(lambda: json.loads(text))

    def _parsed(self, parse: Callable[[], Answer]) -> Answer:
        try:
            return parse()
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self._server} answers otherwise than TF Serving with a model of"
                f" `keras-resnet export`: {type(error).__name__} {error}"[:_MESSAGE]
            ) from None

    def _raise(self, error: Exception) -> NoReturn:
        reason = isinstance(error, MaxRetryError) and error.reason or error
        late = isinstance(reason, (ReadTimeoutError, ConnectTimeoutError, TimeoutError))
        if late and not isinstance(reason, NewConnectionError):  # which derives from a timeout
            raise TimeoutError(
                f"{self._server} has not answered within {self._connection.timeout:g} seconds"
            ) from None
        # The operating system's words, without those of the library around them.
        cause = reason.__cause__ or reason
        if isinstance(reason, ProtocolError) and isinstance(reason.args[-1], Exception):
            cause = reason.args[-1]
        text = getattr(cause, "strerror", None) or str(cause)
        raise ConnectionError(f"{self._server} cannot be reached: {text}") from None


def _message(text: str) -> str:
    """Return the message of an error body, which a proxy may have written in another form."""
    try:
        message = json.loads(text)["error"]
    except (ValueError, TypeError, LookupError, RecursionError):
        # The server escapes as C does: its \\' is not JSON.
        message = text.removeprefix('{ "error": "').removesuffix('" }')
    return " ".join(str(message).split())[:_MESSAGE]
