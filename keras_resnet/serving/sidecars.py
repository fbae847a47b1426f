"""Write and read an export's labels, preprocessing, warm-up requests and batching parameters."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

from ..data.preprocessing import Preprocessing

LABELS = "assets/labels.txt"
PREPROCESSING = "assets.extra/preprocessing.json"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
BATCHING = "batching_params.pbtxt"
MAX_WARM_UP = 1000
"""the largest number of records that the server accepts"""
MAX_WARM_UP_VALUES = 2**25
"""the largest number of values in a record; a few bytes can declare more than memory holds"""
MAX_BATCH_SIZE = 8
BATCH_SIZES = (1, 2, 4, MAX_BATCH_SIZE)
"""the batch sizes that a batching server pads requests to"""


def example(image_bytes: bytes) -> bytes:
    """Return an encoded image as the serialized tf.Example that `classify` takes."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image_bytes]))
    return tf.train.Example(
        features=tf.train.Features(feature={"image/encoded": feature})
    ).SerializeToString()


def write_labels(folder: Path, class_names: Iterable[str]) -> None:
    """Write one class name per line, UTF-8, in the order of the model's outputs."""
    text = "".join(f"{name}\n" for name in class_names)
    _with_folder(folder / LABELS).write_bytes(text.encode())


def read_labels(folder: Path) -> list[bytes]:
    """Read the class names, UTF-8, in the order of the model's outputs."""
    # Not `str.splitlines`, which also ends a line at characters that a name can hold.
    return (folder / LABELS).read_bytes().splitlines()


def write_preprocessing(folder: Path, preprocessing: Preprocessing) -> None:
    """Write what the graph does to an image, for those who show what it sees.

    `Preprocessing.read` reads the file.
    """
    _with_folder(folder / PREPROCESSING).write_text(preprocessing.to_json(), encoding="utf-8")


def write_warm_up(folder: Path, size: int, signatures: Iterable[str]) -> None:
    """Write the requests that the server replays when it loads the SavedModel.

    There is one per signature and batch size. Without them the first request of each size would be
    slow, because it allocates memory and starts threads.

    Args:
        folder: the folder of the SavedModel.
        size: the side of the network's input in pixels.
        signatures: the names of the signatures of the SavedModel.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    image = tf.io.encode_jpeg(np.zeros((size, size, 3), np.uint8)).numpy()
    inputs = {
        "serving_default": ("image_bytes", image),
        "image_tensor": ("images", np.uint8),
        "features": ("images", np.uint8),
        "tensor": ("inputs", np.float32),
        "classify": ("inputs", example(image)),
        "heat_map": ("image_bytes", image),
    }
    with tf.io.TFRecordWriter(str(_with_folder(folder / WARM_UP))) as writer:
        for signature in signatures:
            name, value = inputs[signature]
            for batch in BATCH_SIZES:
                request = predict_pb2.PredictRequest()
                # TF Serving replaces this with the name of the loaded model.
                request.model_spec.name = "default"
                request.model_spec.signature_name = signature
                if isinstance(value, bytes):
                    tensor = tf.make_tensor_proto([value] * batch, tf.string)
                else:
                    # A tensor proto repeats its last number, so one number is enough.
                    tensor = tf.make_tensor_proto(value(0), shape=[batch, size, size, 3])
                request.inputs[name].CopyFrom(tensor)
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())


def read_warm_up(folder: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield the signature and the inputs of each warm-up request.

    Raises:
        ValueError: the server cannot replay the file.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    try:
        size = (folder / WARM_UP).stat().st_size
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(folder / WARM_UP))]
        logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    except Exception as error:  # the only common base class of protobuf's and TensorFlow's errors
        raise ValueError(f"{WARM_UP} is damaged: {error}") from None
    if size and not logs:  # TensorFlow ignores a few bytes that are shorter than any record
        raise ValueError(f"{WARM_UP} is damaged: it has {size} bytes and not one record")
    if len(logs) > MAX_WARM_UP:
        raise ValueError(
            f"{WARM_UP} has {len(logs)} records; the server loads {MAX_WARM_UP} at most"
        )
    for log in logs:
        kind = log.WhichOneof("log_type")
        if kind != "predict_log":
            raise ValueError(
                f"{WARM_UP} has a record of type {kind}, which cannot be replayed here"
            )
        request = log.predict_log.request
        for tensor in request.inputs.values():
            if math.prod(dim.size for dim in tensor.tensor_shape.dim) > MAX_WARM_UP_VALUES:
                raise ValueError(f"{WARM_UP} has a record that is too large for the memory")
        inputs = {name: _array(tensor) for name, tensor in request.inputs.items()}
        yield request.model_spec.signature_name or "serving_default", inputs


def write_batching(folder: Path) -> None:
    """Write the batching parameters.

    A server with `--enable_batching --enable_per_model_batching_parameters` reads them.
    """
    lines = [
        f"max_batch_size {{ value: {MAX_BATCH_SIZE} }}",
        "batch_timeout_micros { value: 2000 }",
        "# Enough for a burst; when the queue is full, the server asks clients to retry.",
        "max_enqueued_batches { value: 64 }",
        "# The sizes of the warm-up requests. num_batch_threads defaults to the server's cores.",
        *(f"allowed_batch_sizes: {size}" for size in BATCH_SIZES),
    ]
    (folder / BATCHING).write_text("\n".join(lines) + "\n", encoding="utf-8")


def batching_parameters(folder: Path) -> Any:
    """Read the batching parameters as TF Serving's message `BatchingParameters`.

    Raises:
        ValueError: the server refuses such a file.
    """
    parameters = _batching_parameters()()
    try:
        text_format.Parse((folder / BATCHING).read_text(encoding="utf-8"), parameters)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{BATCHING}: {error}") from None
    sizes = list(parameters.allowed_batch_sizes)
    if sizes != sorted(set(sizes)) or (sizes and sizes[-1] != parameters.max_batch_size.value):
        raise ValueError(
            f"{BATCHING}: allowed_batch_sizes are {sizes}; give them in ascending order, the last"
            f" equal to max_batch_size ({parameters.max_batch_size.value})"
        )
    return parameters


def read_batching(folder: Path) -> list[int]:
    """Read the allowed batch sizes.

    Raises:
        ValueError: the server refuses such a file.
    """
    return list(batching_parameters(folder).allowed_batch_sizes)


def _batching_parameters() -> Any:
    """Build the message of session_bundle_config.proto, which tensorflow-serving-api lacks."""
    integer, string = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
    boolean = ".google.protobuf.BoolValue"
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_resnet/batching.proto",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    message = file.message_type.add(name="BatchingParameters")
    for index, (name, kind) in {
        1: ("max_batch_size", integer),
        2: ("batch_timeout_micros", integer),
        3: ("max_enqueued_batches", integer),
        4: ("num_batch_threads", integer),
        5: ("thread_pool_name", string),
        8: ("enable_large_batch_splitting", boolean),
        9: ("max_execution_batch_size", integer),
    }.items():
        message.field.add(
            name=name,
            number=index,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE,
            type_name=kind,
        )
    message.field.add(
        name="allowed_batch_sizes", number=6, label=field.LABEL_REPEATED, type=field.TYPE_INT64
    )
    message.field.add(
        name="pad_variable_length_inputs",
        number=7,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_BOOL,
    )
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))


def _array(tensor: Any) -> np.ndarray:
    """Return a tensor as an array, with strings as objects as in `cpp_loader.Call`."""
    value = tf.make_ndarray(tensor)
    return value.astype(object) if tensor.dtype == tf.string.as_datatype_enum else value


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
