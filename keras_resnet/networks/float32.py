"""Convert models to float32."""

from typing import Any

import keras
from keras import layers

from .graph import Replacement, rebuild


def float32_copy(model: keras.Model) -> keras.Model:
    """Return a float32 copy of a model, or the model itself if it computes in float32.

    The copy has the same outputs, including the last activation.

    Raises:
        ValueError: the model computes in another precision and is neither Functional nor
            Sequential.
    """
    if all(layer.compute_dtype == "float32" for layer in model._flatten_layers()):
        return model
    return rebuild(model, in_float32)


def in_float32(operation: Any, name: str) -> Replacement:
    """Copy an operation and its weights, converting float16, bfloat16 and float64 to float32."""
    if not isinstance(operation, layers.Layer):
        # copy.copy would make Keras serialize the operation.
        kind: Any = type(operation)
        copied = kind.__new__(kind)
        vars(copied).update(vars(operation), name=name, _inbound_nodes=[], _outbound_nodes=[])
        return copied, []
    if isinstance(operation, UncopiedLayer):
        operation = operation.layer
    if type(operation) is layers.Lambda:
        # Keras refuses to load a Lambda layer from a config, which may come from anyone.
        copied = layers.Lambda(
            operation.function,
            output_shape=operation._output_shape,
            mask=operation.mask,
            arguments=operation.arguments,
            dtype=_policy_in_float32(operation.dtype_policy.name),
            name=name,
        )
        return copied, []
    try:
        config = _config_in_float32(operation.get_config())
        # An activation may be a user's function, which a config cannot name.
        own_activation = "activation" in vars(operation) and "activation" in config
        if own_activation:
            config["activation"] = "linear"
        if "name" in config:
            config["name"] = name
        copied = type(operation).from_config(config)
        copied.name = name  # some constructors take no name
    except (NotImplementedError, TypeError, ValueError):
        return UncopiedLayer(operation, name), []
    if own_activation:
        copied.activation = operation.activation
    return copied, operation.get_weights()


class UncopiedLayer(layers.Layer):
    """Calls a layer that cannot be copied, without adding a node to that layer's own graph."""

    def __init__(self, layer: layers.Layer, name: str) -> None:
        super().__init__(name=name, dtype=layer.dtype_policy)
        self.layer = layer
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer."""
        return self.layer(*args, **kwargs)


def _config_in_float32(config: Any) -> Any:
    """Replace the floating-point policies in a layer's config, including those of inner layers."""
    if isinstance(config, list):
        return [_config_in_float32(value) for value in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return _policy_in_float32(config["config"]["name"])
    return {
        k: _policy_in_float32(v) if k == "dtype" else _config_in_float32(v)
        for k, v in config.items()
    }


def _policy_in_float32(dtype: Any) -> Any:
    """Replace a floating-point policy; keep any other, such as "uint8"."""
    if isinstance(dtype, dict):
        return _config_in_float32(dtype)
    others = ("float16", "bfloat16", "float64", "mixed_float16", "mixed_bfloat16")
    return "float32" if dtype in others else dtype
