"""Models, their versions and labels, and the answers to requests, as protos."""

import math
import threading
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from keras_resnet.serving import sidecars
from keras_resnet.serving.audit import read_graph, signatures_of
from keras_resnet.serving.check import endpoints

from .session import Session

Code = grpc.StatusCode
States = get_model_status_pb2.ModelVersionStatus.State


class Failure(Exception):
    """An error status of the server."""

    def __init__(self, code, message, after=0.0):
        """Make one; as a fault it comes `after` so many seconds."""
        super().__init__(message)
        self.code, self.message, self.after = code, message, after


def config_of(text="", **base_paths):
    """Return a `ModelServerConfig` from the text of a models.config, or from folders by name."""
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    for name, base_path in base_paths.items():
        config.model_config_list.config.add(
            name=name, base_path=str(base_path), model_platform="tensorflow"
        )
    return config


def array_of(tensor):
    """Return the array of a `TensorProto`, whose few bytes can declare more than memory holds."""
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if min(sizes, default=0) < 0 or math.prod(sizes) > sidecars.MAX_WARM_UP_VALUES:
        raise Failure(Code.INVALID_ARGUMENT, f"TensorProto of shape {sizes}")
    try:
        return np.asarray(tf.make_ndarray(tensor))
    except (TypeError, ValueError, KeyError) as error:
        raise Failure(Code.INVALID_ARGUMENT, f"TensorProto: {error}") from None


class Version:
    """One version of a model, which answers once it is AVAILABLE."""

    def __init__(self, folder, state="LOADING"):
        self.folder, self.state, self.error = folder, state, ""

    def load(self):
        try:
            self.signatures = signatures_of(read_graph(self.folder))
            self.session = Session(self.folder, endpoints(self.folder))
            sizes = (self.folder / sidecars.BATCHING).is_file() and sidecars.read_batching(
                self.folder
            )
            self.max_batch = max(sizes or [math.inf])
            if (self.folder / sidecars.WARM_UP).is_file():
                for signature, inputs in sidecars.read_warm_up(self.folder):
                    self.run(signature, inputs)
        except Exception as error:  # its class depends on the damage
            self.state, self.error, self.session = "END", str(error), None
        else:
            self.state = "AVAILABLE"

    def run(self, signature, inputs):
        """Return the output arrays by name, of at most as many rows as a batch may have."""
        rows = max((len(value) for value in inputs.values() if np.ndim(value)), default=0)
        if rows > self.max_batch:
            message = f"Task size {rows} is larger than maximum input batch size {self.max_batch}"
            raise Failure(Code.INVALID_ARGUMENT, message)
        try:
            return self.session.run(signature, inputs)
        except ValueError as error:
            raise Failure(Code.INVALID_ARGUMENT, str(error)) from None


class Model:
    """A model with the versions that its folder has and its policy wants."""

    def __init__(self, config):
        self.config, self.versions, self.labels = config, {}, {}

    def poll(self):
        """Load what has appeared, then unload what is not wanted any more."""
        wanted = self._wanted()
        for number in wanted:
            known = self.versions.get(number)
            if known is None or (known.state == "END" and not known.error):
                # A new dictionary: other threads walk through the old one.
                added = Version(Path(self.config.base_path) / str(number))
                self.versions = self.versions | {number: added}
                added.load()
        if any(self.versions[number].state == "AVAILABLE" for number in wanted):
            for number, version in self.versions.items():
                if number not in wanted and version.state == "AVAILABLE":
                    # Requests under way keep the old object, and so its session.
                    ended = Version(version.folder, "END")
                    self.versions = self.versions | {number: ended}

    def _wanted(self):
        base = Path(self.config.base_path)
        found = sorted(int(path.name) for path in base.glob("*") if path.name.isdecimal())
        policy = self.config.model_version_policy
        match policy.WhichOneof("policy_choice"):
            case "all":
                return found
            case "specific":
                return [number for number in found if number in policy.specific.versions]
            case _:
                return found[-(policy.latest.num_versions or 1) :]

    def available(self):
        return [n for n, version in self.versions.items() if version.state == "AVAILABLE"]


class Core:
    """What the server does with each request, whatever the protocol."""

    def __init__(self, config, poll_seconds, max_bytes):
        self.models, self.faults, self.answered = {}, [], []
        self.max_bytes = max_bytes
        self._poll_seconds, self._changing = poll_seconds, threading.Lock()
        self._closing = threading.Event()
        self.reload(config)
        self._poller = threading.Thread(target=self._poll)
        self._poller.start()

    def close(self):
        self._closing.set()
        self._poller.join()

    def _poll(self):
        while not self._closing.wait(self._poll_seconds):
            with self._changing:
                for model in self.models.values():
                    model.poll()

    def reload(self, config):
        """Replace the list of models; labels only of versions that are available."""
        with self._changing:
            models = {}
            for one in config.model_config_list.config:
                model = models[one.name] = Model(one)
                before = self.models.get(one.name)
                if before is not None and before.config.base_path == one.base_path:
                    model.versions = before.versions
                model.poll()
                for number in one.version_labels.values():
                    if number not in model.available():
                        raise Failure(
                            Code.FAILED_PRECONDITION,
                            f"Request to assign label to version {number} of model {one.name}, "
                            "which is not currently available for inference",
                        )
                model.labels = dict(one.version_labels)
            self.models = models

    def admit(self):
        """Do to a request what a test has asked for: a `Failure`, or seconds to wait."""
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Failure):
                self._closing.wait(fault.after)
                raise fault
            self._closing.wait(fault)

    def find(self, spec):
        """Return the number of a version, and the version."""
        model = self.models.get(spec.name)
        number, request = None, f"Latest({spec.name})"
        if spec.WhichOneof("version_choice") == "version_label":
            number = model and model.labels.get(spec.version_label)
            if number is None:
                raise Failure(
                    Code.INVALID_ARGUMENT,
                    f"Unrecognized servable version label: {spec.version_label}",
                )
        elif spec.WhichOneof("version_choice") == "version":
            number, request = spec.version.value, f"Specific({spec.name}, {spec.version.value})"
        available = model.available() if model else []
        if number is None:
            number = max(available, default=None)
        if number not in available:
            raise Failure(Code.NOT_FOUND, f"Servable not found for request: {request}")
        return number, model.versions[number]

    def predict(self, request):
        self.admit()
        number, version = self.find(request.model_spec)
        name = request.model_spec.signature_name or "serving_default"
        arrays = {key: array_of(value) for key, value in request.inputs.items()}
        outputs = self._run(version, name, arrays)
        response = predict_pb2.PredictResponse()
        self._describe(response.model_spec, request.model_spec.name, number, name)
        for key in request.output_filter or outputs:
            if key not in outputs:
                message = f"output tensor alias not found in signature: {key}"
                raise Failure(Code.INVALID_ARGUMENT, message)
            response.outputs[key].CopyFrom(tf.make_tensor_proto(outputs[key]))
        return response

    def classify(self, request):
        self.admit()
        number, version = self.find(request.model_spec)
        name = request.model_spec.signature_name or "serving_default"
        examples = [one.SerializeToString() for one in request.input.example_list.examples]
        if not examples:
            raise Failure(Code.INVALID_ARGUMENT, "Input is empty.")
        outputs = self._run(version, name, {"inputs": np.array(examples, object)})
        response = classification_pb2.ClassificationResponse()
        self._describe(response.model_spec, request.model_spec.name, number, name)
        for labels, scores in zip(outputs["classes"], outputs["scores"], strict=True):
            row = response.result.classifications.add()
            for label, score in zip(labels, scores, strict=True):
                row.classes.add(label=label.decode(), score=score)
        return response

    def metadata(self, request):
        if not request.metadata_field:
            message = "GetModelMetadataRequest must specify at least one metadata_field"
            raise Failure(Code.INVALID_ARGUMENT, message)
        for field in request.metadata_field:
            if field != "signature_def":
                message = f"Metadata field {field} is not supported"
                raise Failure(Code.INVALID_ARGUMENT, message)
        number, version = self.find(request.model_spec)
        graph = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in version.signatures.items():
            graph.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        self._describe(response.model_spec, request.model_spec.name, number, "")
        response.metadata["signature_def"].Pack(graph)
        return response

    def status(self, request):
        spec = request.model_spec
        chosen = spec.WhichOneof("version_choice")
        number = spec.version.value if chosen == "version" else None
        if chosen == "version_label":
            number, _ = self.find(spec)
        model = self.models.get(spec.name)
        versions = model.versions if model else {}
        if number is not None and number not in versions:
            message = f"Could not find version {number} of model {spec.name}"
            raise Failure(Code.NOT_FOUND, message)
        if not versions:
            raise Failure(Code.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for key, version in versions.items():
            if number in (None, key):
                row = response.model_version_status.add(
                    version=key, state=States.Value(version.state)
                )
                row.status.error_code = 2 if version.error else 0
                row.status.error_message = version.error
        return response

    @staticmethod
    def _run(version, signature, arrays):
        if signature not in version.signatures:
            message = f'Serving signature key "{signature}" not found.'
            raise Failure(Code.FAILED_PRECONDITION, message)
        expected = version.signatures[signature].inputs
        for name in arrays:
            if name not in expected:
                raise Failure(
                    Code.INVALID_ARGUMENT,
                    f"input tensor alias not found in signature: {name}. Inputs expected to be in "
                    f"the set {{{','.join(sorted(expected))}}}.",
                )
        return version.run(signature, arrays)

    def _describe(self, spec, name, number, signature):
        spec.name, spec.signature_name = name, signature
        spec.version.value = number
        self.answered.append((name, number))
