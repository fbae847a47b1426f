"""Show which part of an image speaks for a class: Grad-CAM (Selvaraju et al. 2017).

*Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization*,
arXiv:1610.02391, equations 1 and 2.
"""

import keras
import numpy as np
import tensorflow as tf

from ..networks.graph import deep_recursion


def grad_cam(
    model: keras.Model, images: np.ndarray, classes: np.ndarray, layer: str | None = None
) -> np.ndarray:
    """Return where the feature maps of a layer raise the score of a class.

    For a network that ends in global average pooling and one dense layer, the map of its last
    features is its class activation map (Zhou et al. 2016) without the negative part, divided by
    the number of places (section 3.1 there).

    Args:
        model: a Functional classifier. Use logits: the gradient of a softmax also shows what speaks
            against the other classes.
        images: preprocessed images, float32 `[N, H, W, 3]`.
        classes: the class number for each image, int `[N]`.
        layer: the name of a layer with feature maps `[N, h, w, C]`; None for the last one.

    Returns:
        Maps of numbers that are not negative, float32 `[N, h, w]`.

    Raises:
        ValueError: the model has no such layer, or the layer has no feature maps.
    """
    names = [each.name for each in model.layers]
    if layer is None:
        mapped = [each.name for each in model.layers if _has_maps(each)]
        if not mapped:
            raise ValueError(f"{model.name} has no layer with feature maps [N, h, w, C]")
        layer = mapped[-1]
    elif layer not in names:
        raise ValueError(f"layer is {layer!r}; {model.name} has {', '.join(names)}")
    elif not _has_maps(model.get_layer(layer)):
        raise ValueError(f"layer is {layer!r}, whose output is not [N, h, w, C]")
    with deep_recursion(len(names)):
        inner = keras.Model(model.inputs, [model.get_layer(layer).output, model.output])
    with tf.GradientTape() as tape:
        maps, scores = inner(tf.constant(images), training=False)
        chosen = tf.gather(scores, tf.constant(classes), axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(chosen, maps), axis=(1, 2))
    return tf.nn.relu(tf.einsum("nhwc,nc->nhw", maps, weights)).numpy()


def _has_maps(layer: keras.layers.Layer) -> bool:
    """Return whether the output of a layer is `[N, h, w, C]`, and it is not the image itself."""
    output = getattr(layer, "output", None)
    return (
        not isinstance(layer, keras.layers.InputLayer)
        and isinstance(output, keras.KerasTensor)
        and len(output.shape) == 4
    )
