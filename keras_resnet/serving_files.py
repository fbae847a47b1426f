"""What TF Serving and its clients find beside the graph: labels, warm-up requests, batching parameters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

LABELS = "assets/labels.txt"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
BATCHING = "batching_params.pbtxt"
MAX_WARM_UP = 1000
"""records; one more and the server refuses to load"""
MAX_BATCH_SIZE = 8
BATCH_SIZES = (1, 2, 4, MAX_BATCH_SIZE)
"""what a batching server pads requests to"""


def example(image_bytes: bytes) -> bytes:
    """A serialized tf.Example as `classify` takes it."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image_bytes]))
    return tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature})).SerializeToString()


def write_labels(folder: Path, labels: tuple[str, ...]) -> None:
    """One a line, in the order of the outputs."""
    _place(folder / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")


def write_warm_up(folder: Path, size: int) -> None:
    """Requests of every signature in every size that batching pads to, which the server replays when it loads.

    `size`: side of the network's input in pixels. The first request of a size would else pay for memory and threads.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    picture = tf.io.encode_jpeg(np.zeros((size, size, 3), np.uint8)).numpy()
    inputs = {
        "serving_default": ("image_bytes", picture),
        "image_tensor": ("images", np.uint8),
        "features": ("images", np.uint8),
        "tensor": ("inputs", np.float32),
        "classify": ("inputs", example(picture)),
    }
    with tf.io.TFRecordWriter(str(_place(folder / WARM_UP))) as writer:
        for signature, (name, value) in inputs.items():
            for batch in BATCH_SIZES:
                request = predict_pb2.PredictRequest()
                # TF Serving names the model of a record by the one that it loads.
                request.model_spec.name = "default"
                request.model_spec.signature_name = signature
                if isinstance(value, bytes):
                    tensor = tf.make_tensor_proto([value] * batch, tf.string)
                else:
                    # One number, which stands for all.
                    tensor = tf.make_tensor_proto(value(0), shape=[batch, size, size, 3])
                request.inputs[name].CopyFrom(tensor)
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())


def read_warm_up(folder: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Signature and inputs of each record. Raises `ValueError` where the server would not replay the file."""
    from tensorflow_serving.apis import prediction_log_pb2

    try:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(folder / WARM_UP))]
        logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    except Exception as error:  # protobuf's and TensorFlow's have nothing else in common
        raise ValueError(f"{WARM_UP} is damaged: {error}") from None
    if len(logs) > MAX_WARM_UP:
        raise ValueError(f"{WARM_UP} has {len(logs)} records; the server loads {MAX_WARM_UP} at most")
    for log in logs:
        kind = log.WhichOneof("log_type")
        if kind != "predict_log":
            raise ValueError(f"{WARM_UP} has a record of type {kind}, which is not replayed here")
        request = log.predict_log.request
        inputs = {name: _array(tensor) for name, tensor in request.inputs.items()}
        yield request.model_spec.signature_name or "serving_default", inputs


def write_batching(folder: Path) -> None:
    """For a server with `--enable_batching --enable_per_model_batching_parameters`."""
    lines = [
        f"max_batch_size {{ value: {MAX_BATCH_SIZE} }}",
        "batch_timeout_micros { value: 2000 }",
        "# Enough for a burst; beyond it clients are told to come again.",
        "max_enqueued_batches { value: 64 }",
        "# The sizes that warm-up has seen. num_batch_threads is left to the server, which has as many as cores.",
        *(f"allowed_batch_sizes: {size}" for size in BATCH_SIZES),
    ]
    (folder / BATCHING).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_batching(folder: Path) -> list[int]:
    """The allowed batch sizes. Raises `ValueError` where the server would refuse the file."""
    parameters = _batching_parameters()()
    try:
        text_format.Parse((folder / BATCHING).read_text(encoding="utf-8"), parameters)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{BATCHING}: {error}") from None
    sizes = list(parameters.allowed_batch_sizes)
    if sizes != sorted(set(sizes)) or (sizes and sizes[-1] != parameters.max_batch_size.value):
        raise ValueError(
            f"{BATCHING}: allowed_batch_sizes are {sizes}; give them rising, the last equal to max_batch_size "
            f"({parameters.max_batch_size.value})"
        )
    return sizes


def _batching_parameters() -> Any:
    """TF Serving's session_bundle_config.proto, which tensorflow-serving-api leaves out."""
    number, text = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
    truth = ".google.protobuf.BoolValue"
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_resnet/batching.proto", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    message = file.message_type.add(name="BatchingParameters")
    for index, (name, kind) in {
        1: ("max_batch_size", number),
        2: ("batch_timeout_micros", number),
        3: ("max_enqueued_batches", number),
        4: ("num_batch_threads", number),
        5: ("thread_pool_name", text),
        8: ("enable_large_batch_splitting", truth),
        9: ("max_execution_batch_size", number),
    }.items():
        message.field.add(name=name, number=index, label=field.LABEL_OPTIONAL, type=field.TYPE_MESSAGE, type_name=kind)
    message.field.add(name="allowed_batch_sizes", number=6, label=field.LABEL_REPEATED, type=field.TYPE_INT64)
    message.field.add(name="pad_variable_length_inputs", number=7, label=field.LABEL_OPTIONAL, type=field.TYPE_BOOL)
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))


def _array(tensor: Any) -> np.ndarray:
    """Strings as objects, as in `cpp_loader.Call`."""
    value = tf.make_ndarray(tensor)
    return value.astype(object) if tensor.dtype == tf.string.as_datatype_enum else value


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
