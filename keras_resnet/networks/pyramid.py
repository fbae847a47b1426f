"""Feature pyramids from the stages of a network."""

import keras

from .backbone import STAGE
from .graph import deep_recursion


def feature_pyramid(model: keras.Model) -> keras.Model:
    """Return a model of the outputs of all stages, for detection and segmentation.

    It shares the layers and weights of `model`. For images `[N, H, W, 3]` an ImageNet network gives

        C2  [N, H/4, W/4, C]      C = 64 (18 and 34 layers) or 256 (bottlenecks)
        C3  [N, H/8, W/8, 2C]
        C4  [N, H/16, W/16, 4C]
        C5  [N, H/32, W/32, 8C]

    with heights and widths rounded up. A CIFAR network gives C2, C3 and C4 with strides 1, 2 and 4.
    With order "pre" each output is the sum before the next batch norm.

    Args:
        model: a network of this package, with or without top, built or loaded from a file.

    Raises:
        ValueError: the model has no layers with the names of stages.
    """
    # Layers are sorted from input to output, so the last layer of a stage gives its output.
    ends = {
        f"C{stage[1]}": layer.output for layer in model.layers if (stage := STAGE.match(layer.name))
    }
    if not ends:
        raise ValueError(
            f"{model.name} has no stages: its layers are not those of a network of this package"
        )
    with deep_recursion(len(model.layers)):
        return keras.Model(model.input, ends, name=f"{model.name}_pyramid")
