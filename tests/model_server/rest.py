"""TF Serving's REST API: paths, JSON forms and error bodies."""

import base64
import json
import re
from http.server import BaseHTTPRequestHandler

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from .core import Code, Failure

# http_rest_api_util.cc
ASKED = r"(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
PREDICTION = re.compile(rf"(?i)/v1/models/([^/:]+){ASKED}:(classify|regress|predict)")
STATUS = re.compile(rf"(?i)/v1/models(?:/([^/:]+))?{ASKED}(?:/(metadata))?")
# http_server.cc
STATUS_CODES = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.NOT_FOUND: 404,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.INTERNAL: 500,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "'": "\\'", "\\": "\\\\"}


def handler(core):
    """Return the class that answers HTTP requests by `core`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        timeout = 60  # of a client that says nothing more

        def do_GET(self):
            self.answer(lambda: get(core, self.path))

        def do_POST(self):
            text = self.headers.get("Content-Length", "0")
            if not text.isdecimal():
                self.close_connection = True
                return self.send(400, "")
            length = int(text)
            if length > core.max_bytes:  # read all the same, or the client misses the answer
                while length and (part := self.rfile.read(min(length, 2**16))):
                    length -= len(part)
                return self.send(413, "")
            body = self.rfile.read(length)
            if len(body) < length:  # the client has gone
                self.close_connection = True
            else:
                self.answer(lambda: post(core, self.path, body))

        def answer(self, compute):
            if not self.path.lower().startswith("/v1/"):
                return self.send(404, "")
            try:
                status, text = 200, compute()
            except Failure as failure:
                status, text = STATUS_CODES[failure.code], error_body(failure.message)
            except Exception as error:  # of the double, which tests shall see
                status, text = 500, error_body(repr(error))
            self.send(status, text)

        def send(self, status, text):
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


def error_body(message):
    return f'{{ "error": "{"".join(ESCAPES.get(letter, letter) for letter in message)}" }}'


def get(core, path):
    found = STATUS.fullmatch(path)
    if not found:
        raise Failure(Code.INVALID_ARGUMENT, f"Malformed request: GET {path}")
    if not found[1]:
        raise Failure(Code.INVALID_ARGUMENT, "Missing model name in request.")
    spec = spec_of(found)
    if not found[4]:
        return to_json(core.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec)))
    answer = core.metadata(
        get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
    )
    graph = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(graph)
    return (
        f'{{\n"model_spec":{to_json(answer.model_spec)},\n'
        f'"metadata": {{"signature_def": {to_json(graph)}}}\n}}\n'
    )


def post(core, path, body):
    found = PREDICTION.fullmatch(path)
    if not found:
        raise Failure(Code.INVALID_ARGUMENT, f"Malformed request: POST {path}")
    spec, values = spec_of(found), parsed(body)
    name = values.get("signature_name", "")
    if not isinstance(name, str):
        raise Failure(Code.INVALID_ARGUMENT, "'signature_name' key must be a string value.")
    spec.signature_name = name
    if found[4].lower() == "classify":
        return classified(core, spec, values)
    if found[4].lower() == "regress":
        raise Failure(Code.UNIMPLEMENTED, "The double does not regress")
    return predicted(core, spec, values)


def predicted(core, spec, values):
    _, version = core.find(spec)
    name = spec.signature_name or "serving_default"
    if name not in version.signatures:
        message = f'Serving signature name: "{name}" not found in signature def'
        raise Failure(Code.INVALID_ARGUMENT, message)
    infos = version.signatures[name].inputs
    given = values.keys() & {"instances", "inputs"}
    if len(given) != 1:
        raise Failure(Code.INVALID_ARGUMENT, "Missing 'inputs' or 'instances' key")
    rows = given == {"instances"}
    value = values["instances" if rows else "inputs"]
    if rows and not isinstance(value, list):
        raise Failure(Code.INVALID_ARGUMENT, "Excepting 'instances' to be an list/array")
    if rows and not value:
        raise Failure(Code.INVALID_ARGUMENT, "No values in 'instances' array")
    if rows and is_object(value[0]):
        if not all(map(is_object, value)):
            message = "JSON Value: instances are not all objects"
            raise Failure(Code.INVALID_ARGUMENT, message)
        value = {key: [row.get(key) for row in value] for key in value[0]}
    elif not is_object(value):
        value = {min(infos): value}
    request = predict_pb2.PredictRequest(model_spec=spec)
    for key, tensor in value.items():
        if key not in infos:
            message = f"JSON object: does not have named input: {key}"
            raise Failure(Code.INVALID_ARGUMENT, message)
        request.inputs[key].CopyFrom(to_tensor(tensor, infos[key].dtype))
    answer = core.predict(request)
    outputs = {
        key: strings(key, tf.make_ndarray(tensor).tolist())
        for key, tensor in answer.outputs.items()
    }
    if not rows:
        single = next(iter(outputs.values()))
        return json.dumps({"outputs": single if len(outputs) == 1 else outputs}, indent=4)
    columns = outputs.values()
    table = [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]
    if len(outputs) == 1:
        table = [next(iter(row.values())) for row in table]
    return json.dumps({"predictions": table}, indent=4)


def classified(core, spec, values):
    examples = values.get("examples")
    if not isinstance(examples, list) or not examples:
        message = "When method is classify, key 'examples' is expected and was not found"
        raise Failure(Code.INVALID_ARGUMENT, message)
    request = classification_pb2.ClassificationRequest(model_spec=spec)
    for one in examples:
        if not isinstance(one, dict):
            raise Failure(Code.INVALID_ARGUMENT, "Example must be JSON object but got JSON")
        example = request.input.example_list.examples.add()
        for key, value in one.items():
            images = value if isinstance(value, list) else [value]
            example.features.feature[key].bytes_list.value.extend(map(decoded, images))
    answer = core.classify(request)
    rows = [
        [[one.label, one.score] for one in row.classes] for row in answer.result.classifications
    ]
    return json.dumps({"results": rows}, indent=4)


def spec_of(found):
    spec = model_pb2.ModelSpec(name=found[1])
    if found[2]:
        if int(found[2]) >= 2**63:
            message = f"Failed to convert version: {found[2]} to numeric."
            raise Failure(Code.INVALID_ARGUMENT, message)
        spec.version.value = int(found[2])
    if found[3]:
        spec.version_label = found[3]
    return spec


def parsed(body):
    if not body:
        raise Failure(Code.INVALID_ARGUMENT, "JSON Parse error: The document is empty")
    try:
        values = json.loads(body)
        json.dumps(values, ensure_ascii=False).encode()  # no half of a surrogate pair
    except (ValueError, RecursionError):
        raise Failure(
            Code.INVALID_ARGUMENT, "JSON Parse error: Invalid value. at offset: 0"
        ) from None
    if not isinstance(values, dict):
        raise Failure(Code.INVALID_ARGUMENT, f"JSON Value: {json.dumps(values)} Is not object")
    return values


def is_object(value):
    return isinstance(value, dict) and value.keys() != {"b64"}


def decoded(value):
    """Return the bytes of a string, or of an object whose only key is `b64`."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or value.keys() != {"b64"}:
        message = f"JSON Value: {json.dumps(value)} not formatted correctly for base64 data"
        raise Failure(Code.INVALID_ARGUMENT, message)
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (ValueError, TypeError):
        raise Failure(Code.INVALID_ARGUMENT, "Unable to base64 decode") from None


def to_tensor(value, dtype):
    kind = tf.dtypes.as_dtype(dtype)
    if kind == tf.string:
        values = value if isinstance(value, list) else [value]
        return tf.make_tensor_proto([decoded(one) for one in values], kind)
    try:
        return tf.make_tensor_proto(np.array(value, kind.as_numpy_dtype))
    except (ValueError, TypeError, OverflowError):
        message = f"JSON Value: {json.dumps(value)[:100]} is not of expected type: {kind.name}"
        raise Failure(Code.INVALID_ARGUMENT, message) from None


def strings(name, value):
    """Return nested lists with bytes as JSON has them: text, or base64 in outputs `*_bytes`."""
    if isinstance(value, list):
        return [strings(name, one) for one in value]
    if isinstance(value, bytes):
        coded = {"b64": base64.b64encode(value).decode()}
        return coded if name.endswith("_bytes") else value.decode()
    return value


def to_json(message):
    return json_format.MessageToJson(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
