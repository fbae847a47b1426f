"""What several tests use."""

from pathlib import Path

from PIL.Image import Transpose

from keras_resnet.networks.build import build

PROGRAMS = Path(__file__).parent / "programs"
"""what tests run in processes of their own"""

STORED_BY_ORIENTATION = (
    None,
    Transpose.FLIP_LEFT_RIGHT,
    Transpose.ROTATE_180,
    Transpose.FLIP_TOP_BOTTOM,
    Transpose.TRANSPOSE,
    Transpose.ROTATE_90,
    Transpose.TRANSVERSE,
    Transpose.ROTATE_270,
)
"""how an upright image is stored for the EXIF orientations 1 to 8: the inverses of Pillow's
`ImageOps.exif_transpose`"""


def network_of(recipe, size, classes, weight_decay=0.0):
    """Build a recipe's network for square images of `size` pixels, giving logits."""
    return build(
        recipe.spec,
        input_shape=(size, size, 3),
        classes=classes,
        classifier_activation=None,
        weight_decay=weight_decay,
    )
