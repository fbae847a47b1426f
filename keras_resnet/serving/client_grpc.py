"""Talk to TF Serving over gRPC, by its official protos, whose package imports TensorFlow."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import json_format
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.python.framework import tensor_util
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
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

_INPUT = "image_bytes"
"""the input of the signature for encoded images"""
_REFUSED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)
"""codes of a request that would fail again"""

Answer = TypeVar("Answer")


class GrpcTransport:
    """Send requests to one model over gRPC; safe to share between threads.

    Args:
        address: `HOST:PORT` of the server.
        tls: whether the channel is encrypted.
        target: the model.
        connection: timeouts, retries and certificates.
    """

    def __init__(self, address: str, tls: bool, target: Target, connection: Connection):
        self._address, self._target, self._connection = address, target, connection
        options = [
            ("grpc.service_config", _service_config(connection.retries)),
            # By default 4 MB, which an answer with many classes exceeds.
            ("grpc.max_receive_message_length", -1),
        ]
        if tls:
            credentials = grpc.ssl_channel_credentials(connection.certificates)
            self._channel = grpc.secure_channel(address, credentials, options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Return the prediction for each encoded image."""
        request = predict_pb2.PredictRequest(model_spec=self._spec(SIGNATURE))
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=images)
        tensor.tensor_shape.dim.add(size=len(images))
        request.inputs[_INPUT].CopyFrom(tensor)
        answer = self._ask(self._predictions.Predict, request)

        def rows() -> list[Prediction]:
            missing = {"classes", "scores", "probabilities"} - answer.outputs.keys()
            if missing:  # a lookup would create an empty tensor
                raise ValueError(f"it has no {', '.join(sorted(missing))}")
            names, scores, probabilities = (
                tensor_util.MakeNdarray(answer.outputs[name]).tolist()
                for name in ("classes", "scores", "probabilities")
            )
            return [
                prediction([name.decode() for name in row], *values)
                for row, *values in zip(names, scores, probabilities, strict=True)
            ]

        return self._parsed(rows)

    def classify(self, images: Sequence[bytes]) -> list[Prediction]:
        """Return the prediction for each encoded image, by the Classify API."""
        request = classification_pb2.ClassificationRequest(
            model_spec=self._spec(CLASSIFY_SIGNATURE)
        )
        for image in images:
            example = example_pb2.Example()
            example.features.feature["image/encoded"].bytes_list.value.append(image)
            request.input.example_list.examples.append(example)
        answer = self._ask(self._predictions.Classify, request)
        return self._parsed(
            lambda: [
                prediction([one.label for one in row.classes], [one.score for one in row.classes])
                for row in answer.result.classifications
            ]
        )

    def status(self) -> list[VersionStatus]:
        """Return the state of each version."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec())
        answer = self._ask(self._models.GetModelStatus, request)
        states = get_model_status_pb2.ModelVersionStatus.State
        return [
            VersionStatus(
                version=row.version, state=states.Name(row.state), error=row.status.error_message
            )
            for row in answer.model_version_status
        ]

    def metadata(self) -> Metadata:
        """Return the signatures of the version that answers."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=["signature_def"]
        )
        answer = self._ask(self._predictions.GetModelMetadata, request)

        def unpacked() -> Metadata:
            graph = get_model_metadata_pb2.SignatureDefMap()
            if not answer.metadata["signature_def"].Unpack(graph):
                raise ValueError("it has no signature_def")
            values = json_format.MessageToDict(graph, preserving_proto_field_name=True)
            return Metadata(
                version=answer.model_spec.version.value,
                signatures=signatures(values.get("signature_def", {})),
            )

        return self._parsed(unpacked)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _spec(self, signature: str = "") -> Any:
        target = self._target
        spec = model_pb2.ModelSpec(name=target.model, signature_name=signature)
        if target.version is not None:
            spec.version.value = target.version
        if target.label is not None:
            spec.version_label = target.label
        return spec

    def _ask(self, method: Callable[..., Any], request: Any) -> Any:
        try:
            return method(request, timeout=self._connection.timeout)
        except grpc.RpcError as error:
            self._raise(error)

    def _raise(self, error: grpc.RpcError) -> NoReturn:
        code, details = error.code(), " ".join(str(error.details()).split())[:500]
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise TimeoutError(
                f"{self._address} has not answered within {self._connection.timeout:g} seconds"
            ) from None
        # RESOURCE_EXHAUSTED otherwise means that the server lacks memory at the moment.
        too_large = code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details
        if code in _REFUSED or too_large:
            raise ValueError(
                f"{self._address} refuses the request ({code.name}): {details}"
            ) from None
        raise ConnectionError(f"{self._address} cannot answer ({code.name}): {details}") from None

    def _parsed(self, parse: Callable[[], Answer]) -> Answer:
        try:
            return parse()
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(
                f"{self._address} answers otherwise than TF Serving with a model of"
                f" `keras-resnet export`: {type(error).__name__} {error}"[:500]
            ) from None


def _service_config(retries: int) -> str:
    """Return the JSON by which gRPC itself retries a server that is overloaded or restarting."""
    method: dict[str, Any] = {"name": [{}]}
    if retries:
        method["retryPolicy"] = {
            "maxAttempts": retries + 1,
            "initialBackoff": "0.2s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        }
    return json.dumps({"methodConfig": [method]})
