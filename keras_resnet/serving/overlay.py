"""Draw an image, and the heat map to lay over it, for a web page."""

import base64
import io

import numpy as np
from PIL import Image

from ..data.preprocessing import Preprocessing
from ..figures import viridis

OPACITY = 0.3, 0.7
"""of a heat map over its image, where it is coldest and where it is hottest"""


def resized(image: np.ndarray, side: int) -> Image.Image:
    """Return an image whose longer side has `side` pixels.

    A smaller image keeps its pixels visible.

    Args:
        image: uint8 `[H, W, 3]`.
        side: the longer side in pixels.
    """
    height, width, _ = image.shape
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    kept = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize(size, kept, reducing_gap=2.0)


def overlay(heat: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> Image.Image:
    """Return a heat map as a layer over an image, transparent where the network sees nothing.

    Args:
        heat: a class activation map `[h, w]`; values below zero, which speak against the class, are
            shown as zero.
        size: width and height of the image in pixels.
        preprocessing: says which part of the image the map covers.
    """
    share = preprocessing.crop / preprocessing.resize
    width, height = size if preprocessing.aspect == "stretch" else (min(size), min(size))
    left, top = (size[0] - share * width) / 2, (size[1] - share * height) / 2
    box = [round(edge) for edge in (left, top, size[0] - left, size[1] - top)]
    positive = np.maximum(heat, 0).astype(np.float32)
    # Scaled before it is resized, because Pillow resizes arrays of floats as they are.
    scaled = Image.fromarray(positive / max(positive.max(), 1e-9))
    inside = np.asarray(
        scaled.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BILINEAR)
    )
    opacity = np.interp(inside, (0, 1), np.multiply(OPACITY, 255)).astype(np.uint8)
    layer = Image.new("RGBA", size)
    colors = np.dstack([viridis(inside), opacity])
    layer.paste(Image.fromarray(colors), (box[0], box[1]))
    return layer


def data_url(image: Image.Image) -> str:
    """Return an image as a PNG in a URL."""
    file = io.BytesIO()
    image.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
