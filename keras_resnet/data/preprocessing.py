"""Turn an image into the network's input, as described by a value stored with weights and exports.

Training, evaluation and serving call the same functions, so they cannot differ.
"""

import json
import reprlib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from ..choices import brief, require
from ..files import parse_json, read_text
from .dataset import Arrays, Dataset

MAX_RESIZE = 8192
"""the largest `resize` in pixels"""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize, center crop, order the channels, subtract the mean, divide by the scale.

    Pixels are in 0 to 255. `mean` and `scale` may be any array or sequence of numbers, and are
    converted to tuples of floats.

    Raises:
        ValueError: a field has an invalid value.
    """

    resize: int
    """the shorter side after the resize in pixels, or both sides if `aspect` is "stretch" """
    crop: int
    """the side of the center crop in pixels, which is the network's input"""
    channels: Literal["RGB", "BGR"] = "RGB"
    """the order of the channels in the network's input, in `mean` and in `scale`"""
    mean: tuple[Any, ...] = (0.0, 0.0, 0.0)
    """`[3]`, or `[crop][crop][3]` for the paper's per-pixel mean"""
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """the divisor of each channel after the mean is subtracted"""
    aspect: Literal["keep", "stretch"] = "keep"
    """"keep" resizes the shorter side and crops the center; "stretch" resizes the whole image to
    `crop` x `crop`"""
    antialias: bool = True
    """whether the bilinear filter widens when the resize shrinks an image; the default of
    `tf.image.resize` and Keras is False"""
    crop_offset: Literal["floor", "round"] = "floor"
    """how the offset of the center crop is rounded: "floor" as in Keras, or "round" to the nearest
    integer and .5 to the even one, as in torchvision and timm"""
    exif_orientation: bool = False
    """whether to rotate and mirror encoded images by their EXIF orientation; False for public
    weights, and for runs from before this field"""

    def __post_init__(self) -> None:
        for name in ("mean", "scale"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if not (
            _is_int(self.crop)
            and _is_int(self.resize)
            and 0 < self.crop <= self.resize <= MAX_RESIZE
        ):
            raise ValueError(
                f"crop is {reprlib.repr(self.crop)} and resize is {reprlib.repr(self.resize)}; give"
                f" whole numbers of pixels with 0 < crop <= resize <= {MAX_RESIZE}"
            )
        require("channels", self.channels, ("RGB", "BGR"))
        require("aspect", self.aspect, ("keep", "stretch"))
        require("crop_offset", self.crop_offset, ("floor", "round"))
        for name in ("antialias", "exif_orientation"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} is {value!r}; choose one of True, False")
        if self.aspect == "stretch" and self.resize != self.crop:
            raise ValueError(
                f"aspect is 'stretch', resize is {self.resize} and crop is {self.crop}; give the"
                " same for both: nothing is cropped"
            )
        if (shape := np.shape(self.mean)) not in ((3,), (self.crop, self.crop, 3)):
            raise ValueError(f"mean has shape {shape}; give (3,) or ({self.crop}, {self.crop}, 3)")
        # In float32, as in the division.
        if np.shape(self.scale) != (3,) or not np.asarray(self.scale, np.float32).all():
            raise ValueError(f"scale is {self.scale}; give three numbers other than 0")

    @property
    def normalization(self) -> tuple[Any, ...]:
        """The channels, mean and scale, which trained weights depend on.

        Another resize or crop only changes the size of the images.
        """
        return self.channels, self.mean, self.scale

    def for_size(self, size: int) -> "Preprocessing":
        """Return the preprocessing for an input of another size.

        The normalization and the ratio of `resize` to `crop` are unchanged.

        Args:
            size: the new `crop` in pixels.

        Raises:
            ValueError: the mean is per pixel, and fits one size only.
        """
        if size == self.crop:
            return self
        if np.ndim(self.mean) > 1:
            raise ValueError(
                f"size is {size}; the mean is an image of {self.crop} x {self.crop} pixels and fits"
                " no other size"
            )
        return replace(self, resize=round(size * self.resize / self.crop), crop=size)

    def describe(self) -> str:
        """Return the normalization in words, for messages."""
        mean = "a per-pixel mean" if np.ndim(self.mean) > 1 else f"mean {self.mean}"
        return f"{self.channels} channels, {mean} and scale {self.scale}"

    def to_json(self) -> str:
        """Return the value as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Preprocessing":
        """Return the preprocessing from JSON written by `to_json`.

        Args:
            text: the JSON. Fields with a default may be missing.

        Raises:
            ValueError: the text is not a preprocessing.
        """
        try:
            values = parse_json(text)
            known = [field.name for field in fields(cls)]
            if unknown := [name for name in values if name not in known]:
                raise ValueError(
                    f"{brief(unknown[0])} is unknown; the fields are {', '.join(known)}"
                )
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a preprocessing: {error}") from None

    @classmethod
    def read(cls, path: Path) -> "Preprocessing":
        """Read the preprocessing from a JSON file.

        Args:
            path: the file.

        Raises:
            ValueError: the file does not hold a preprocessing.
        """
        text = read_text(path)
        try:
            return cls.from_json(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _numbers(name: str, values: Any) -> tuple[Any, ...]:
    """Return an array or nested sequence as nested tuples of floats."""
    try:
        numbers = np.asarray(values, np.float64)
    except (OverflowError, RecursionError, TypeError, ValueError):
        raise ValueError(f"{name} is {reprlib.repr(values)[:100]}; give numbers") from None
    if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
        fault = f"is {values!r}" if numbers.size <= 3 else "has values that are not finite"
        raise ValueError(f"{name} {fault}; give finite numbers")
    return _tuples(numbers.tolist())


def _rgb(
    mean: tuple[float, ...], scale: tuple[float, ...], channels: Literal["RGB", "BGR"] = "RGB"
) -> Preprocessing:
    return Preprocessing(resize=256, crop=224, channels=channels, mean=mean, scale=scale)  # type: ignore[arg-type]


# For public ImageNet weights, by the names of keras.applications' modes, with a crop of 224 px.
PREPROCESSING: dict[str, Preprocessing] = {
    # The paper's authors: BGR, the mean of ImageNet.
    "caffe": _rgb((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR"),
    # torchvision and timm: (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) of 255.
    "torch": replace(
        _rgb((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
        crop_offset="round",
    ),
    # keras.applications' V2 networks: -1 to 1.
    "tf": _rgb((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    # The networks of `weights="cifar10"`: the mean image subtracted.
    "cifar10": Preprocessing.read(
        Path(__file__).parents[1] / "networks" / "pretrained" / "cifar10" / "preprocessing.json"
    ),
}


def per_pixel_mean(images: np.ndarray, size: int) -> Preprocessing:
    """Return the preprocessing that subtracts the mean image, as the paper for CIFAR (section 4.2).

    It also divides by 255, which keeps activations near one. The network's batch norm cancels it.

    Args:
        images: the training set, uint8 `[N, H, W, 3]`. If its size differs from the input's, the
            mean image is resized.
        size: the side of the network's input in pixels.
    """
    image = np.asarray(np.mean(images, axis=0, keepdims=True, dtype=np.float64), np.float32)
    blank = Preprocessing(resize=size, crop=size)
    mean = resize_and_crop(blank, image).numpy()[0]
    return Preprocessing(
        resize=size,
        crop=size,
        mean=_tuples(mean.tolist()),
        scale=(255.0, 255.0, 255.0),
        exif_orientation=True,
    )


def per_channel_mean(size: int) -> Preprocessing:
    """Return the preprocessing that subtracts ImageNet's mean color.

    The shorter side of test images is 8/7 of the crop, as the paper's 256 and 224 (section 3.4).

    Args:
        size: the side of the network's input in pixels.
    """
    mean = PREPROCESSING["caffe"].mean[::-1]
    imagenet = Preprocessing(
        resize=256, crop=224, mean=mean, scale=(255.0, 255.0, 255.0), exif_orientation=True
    )
    return imagenet.for_size(size)


def preprocessing_for(dataset: Dataset, image_size: int | None) -> Preprocessing:
    """Return the paper's preprocessing for a data set.

    It subtracts the mean image if images are in memory (section 4.2), otherwise the mean color
    (section 3.4).

    Args:
        dataset: the data set, whose training images are read.
        image_size: the side of the network's input in pixels. None for the side of the images, or
            for their median shorter side, 224 at most, if they differ in size.
    """
    if isinstance(dataset.train, Arrays):
        return per_pixel_mean(
            dataset.train.images, image_size or int(np.min(dataset.train.images.shape[1:3]))
        )
    return per_channel_mean(image_size or min(224, dataset.shorter_side or 224))


def normalize(preprocessing: Preprocessing, images: tf.Tensor) -> tf.Tensor:
    """Order the channels, subtract the mean and divide by the scale.

    Args:
        preprocessing: the channels, mean and scale.
        images: RGB in 0 to 255, `[..., crop, crop, 3]`.

    Returns:
        The network's input, float32 of the same shape.
    """
    if preprocessing.channels == "BGR":
        images = tf.reverse(images, axis=[-1])
    mean = tf.constant(np.asarray(preprocessing.mean, np.float32))
    scale = tf.constant(np.asarray(preprocessing.scale, np.float32))
    return (tf.cast(images, tf.float32) - mean) / scale


def denormalize(preprocessing: Preprocessing, images: tf.Tensor) -> tf.Tensor:
    """Undo `normalize`, and clip the values to 0 to 255.

    Args:
        preprocessing: the preprocessing that `normalize` was called with.
        images: float32 `[..., crop, crop, 3]`.

    Returns:
        uint8 RGB of the same shape.
    """
    values = images * np.asarray(preprocessing.scale, np.float32) + np.asarray(
        preprocessing.mean, np.float32
    )
    if preprocessing.channels == "BGR":
        values = tf.reverse(values, axis=[-1])
    return tf.saturate_cast(tf.round(values), tf.uint8)


def resize_and_crop(preprocessing: Preprocessing, images: tf.Tensor) -> tf.Tensor:
    """Resize images and crop their centers, which is the single test view.

    Images that already have the size keep their exact values.

    Args:
        preprocessing: the sizes, the aspect and the filter.
        images: `[N, H, W, 3]` in 0 to 255, of any numeric dtype.

    Returns:
        float32 `[N, crop, crop, 3]` in 0 to 255.
    """
    side, crop = preprocessing.resize, preprocessing.crop
    if images.shape[1:3] != (side, side):
        images = resized(preprocessing, images, side)
    images = tf.cast(images, tf.float32)
    top, left = tf.unstack(center(preprocessing, tf.shape(images)[1:3]))
    images = images[:, top : top + crop, left : left + crop]
    return tf.ensure_shape(images, [None, crop, crop, 3])


def center(preprocessing: Preprocessing, sides: tf.Tensor) -> tf.Tensor:
    """Return the top and left of the center crop, int32 `[2]`.

    Args:
        preprocessing: the side of the crop and the rounding of its offset.
        sides: the height and width of the resized image, int32 `[2]`.
    """
    margins = sides - preprocessing.crop
    if preprocessing.crop_offset == "floor":
        return margins // 2
    return tf.cast(tf.round(margins / 2), tf.int32)  # as Python's `round`, which torchvision uses


def resized(preprocessing: Preprocessing, images: tf.Tensor, side: int) -> tf.Tensor:
    """Resize images with the bilinear filter, keeping or stretching their aspect.

    Args:
        preprocessing: the aspect and the filter.
        images: `[N, H, W, 3]` of any numeric dtype.
        side: the shorter side in pixels, or both sides if the aspect is "stretch".

    Returns:
        float32 `[N, h, w, 3]`.
    """
    if preprocessing.aspect == "stretch":
        sides = tf.constant([side, side])
    else:
        sides = tf.shape(images)[1:3]
        # Integer arithmetic: a float factor can round a side down by one pixel.
        sides = sides * side // tf.reduce_min(sides)
    # The filter computes in float32 for any dtype, so large images need not be converted first.
    images = tf.image.resize(images, sides, method="bilinear", antialias=preprocessing.antialias)
    return tf.cast(images, tf.float32)
