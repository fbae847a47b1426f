"""Requests that no client should send: random bytes, broken HTTP, JSON and protobufs."""

import base64
import json
import socket
import struct

import grpc
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GRPC_METHODS = (
    PREDICT,
    "/tensorflow.serving.PredictionService/Classify",
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/tensorflow.serving.ModelService/GetModelStatus",
    "/tensorflow.serving.PredictionService/Invent",
)
VALUES = (None, True, -1, 1e999, "text", [], {}, [[]], [[1], [2, 3]], {"b64": 1}, {"b64": "?"},
          [{"b64": "AAAA"}, 7], [{"a": 1}, 7], {"a": {"b": []}})  # fmt: skip
SECONDS = 30
"""that an answer may take"""


def http_junk(rng, model, image):
    """Return the bytes of a bad HTTP request.

    Args:
        rng: NumPy's generator of random numbers.
        model: the name of a model of the server.
        image: an encoded image.
    """
    path = f"/v1/models/{model}:predict"
    good = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
    match rng.integers(8):
        case 0:  # noise
            return rng.bytes(int(rng.integers(1, 4000))) + b"\r\n\r\n"
        case 1:  # a broken request line
            lines = (b"GET", b"GET  HTTP/1.1", b"POST / HTTP/9.9", b"\0 / HTTP/1.1", b"A" * 70_000)
            return lines[rng.integers(len(lines))] + b"\r\n\r\n"
        case 2:  # a length that is none, or of a body that never comes
            length = (b"many", b"-5", b"9" * 30, b"1e3", b"100000")[rng.integers(5)]
            return b"POST %b HTTP/1.1\r\nContent-Length: %b\r\n\r\n{" % (path.encode(), length)
        case 3:  # huge or many headers
            header = b"X: %b\r\n" % (b"x" * 70_000) if rng.integers(2) else b"X: x\r\n" * 1000
            return b"GET / HTTP/1.1\r\n" + header + b"\r\n"
        case 4:  # broken JSON
            damaged = bytearray(good[: rng.integers(len(good))])
            for place in rng.integers(len(damaged) or 1, size=len(damaged) and 5):
                damaged[place] = rng.integers(256)
            return post(path, bytes(damaged))
        case 5:  # wrong types
            keys = ("instances", "inputs", "signature_name", "examples", "other")
            chosen = rng.choice(keys, size=rng.integers(1, 4))
            body = {str(key): VALUES[rng.integers(len(VALUES))] for key in chosen}
            return post(path, json.dumps(body).encode())
        case 6:  # wrong paths and methods
            paths = ("/", "/v1/models", f"/v1/models/{model}/versions/x:predict", "/v1/models/a:b",
                     f"/v1/models/{model}/versions/{'9' * 30}:predict", "/../../etc/passwd",
                     f"/v1/models/{model}x:predict")  # fmt: skip
            method = ("GET", "POST", "DELETE", "BREW")[rng.integers(4)]
            return post(paths[rng.integers(len(paths))], good, method)
        case _:  # a deep one
            depth = int(rng.choice([1, 500, 1000, 100_000]))
            return post(path, b'{"instances": %b%b}' % (b"[" * depth, b"]" * depth))


def post(path, body, method="POST"):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answer_of(url, request):
    """Send bytes and say that this is all; return the status, None if there is none."""
    with connected(url) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            words = connection.makefile("rb").readline(1000).split()
        except ConnectionError:
            return None
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") else None


def cut_off(url, request):
    """Send bytes, and vanish as a client does whose process is killed."""
    with connected(url) as connection:
        connection.sendall(request)
        # Closing then resets the connection.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def connected(url):
    host, _, port = url.rpartition("//")[2].partition(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


def grpc_junk(rng, model, image):
    """Return the method and the bytes of a bad gRPC request; arguments as in `http_junk`."""
    request = predict_request(model, [image])
    good = request.SerializeToString()
    match rng.integers(5):
        case 0:
            message = rng.bytes(int(rng.integers(1, 4000)))
        case 1:
            message = good[: rng.integers(len(good))]
        case 2:
            damaged = bytearray(good)
            for place in rng.integers(60, size=3):  # where the structure is
                damaged[place] = rng.integers(256)
            message = bytes(damaged)
        case 3:  # another type, or a shape of other or far more values than there are
            tensor = request.inputs["image_bytes"]
            tensor.dtype = int(rng.integers(0, 30))
            tensor.tensor_shape.dim[0].size = int(rng.choice([-1, 0, 2, 10**6, 2**40, 2**62]))
            tensor.tensor_shape.dim.add(size=int(rng.integers(-2, 3)))
            message = request.SerializeToString()
        case _:
            request.model_spec.name = model[: rng.integers(len(model))]
            request.model_spec.signature_name = ("", "x", "tensor", "classify")[rng.integers(4)]
            message = request.SerializeToString()
    return GRPC_METHODS[0 if rng.integers(2) else rng.integers(len(GRPC_METHODS))], message


def predict_request(model, images):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=images)
    tensor.tensor_shape.dim.add(size=len(images))
    request.inputs["image_bytes"].CopyFrom(tensor)
    return request


def code_of(channel, method, message):
    """Send the bytes of a message to a method, and return the code of its status."""
    try:
        channel.unary_unary(method)(message, timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK
