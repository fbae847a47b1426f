"""The complete description of a training as one value.

A recipe is flat, except for its network. The numbers of classes and images follow from the data
set. `runs/recipes.py` holds the named recipes.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from ..choices import require
from ..files import parse_json
from ..networks.spec import ResNetSpec
from .typed_json import from_values

Augmentation = Literal[
    "auto", "none", "pad-crop", "pad-crop-flip", "scale-crop-flip", "resized-crop-flip"
]
Loss = Literal["cross_entropy", "binary_cross_entropy"]
Optimizer = Literal["sgd", "adamw", "lamb"]
Kept = Literal["last", "best"]
Frozen = Literal["none", "batch_norm", "backbone"]
Precision = Literal["float32", "mixed_float16", "mixed_bfloat16", "float64"]
Statistics = Literal["moving", "population"]
Pieces = tuple[tuple[float, float], ...]

# Section 4.2: the rate is divided by 10 at 32k and 48k of 64k iterations.
PAPER_DROPS = ((0.0, 1.0), (0.5, 0.1), (0.75, 0.01))
# Section 4.2, 110 layers: 0.01 until the training error is below 80 %, about 400 iterations.
PAPER_WARMUP = ((0.0, 0.1), (400 / 64_000, 1.0), *PAPER_DROPS[1:])

MAX_EPOCHS = 1_000_000
"""the longest training, in epochs, because a training lists all epochs that it validates after"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training.

    Raises:
        ValueError: a field has an invalid value. The message names both.
    """

    name: str
    """name of the run's folder and of the export"""
    spec: ResNetSpec
    """the network"""
    dataset: str
    """"digits", "synthetic", a name of tensorflow-datasets such as "cifar10", or the path of a
    folder of images"""
    data_dir: str | None = None
    """folder of tensorflow-datasets' data; None: $TFDS_DATA_DIR, or ~/tensorflow_datasets"""
    image_size: int | None = None
    """side in pixels that images are resized and cropped to; None: the data set's own size"""
    skip_broken: bool = False
    """whether unreadable files in a folder are left out; otherwise they are listed and nothing
    starts"""
    holdout: int = 0
    """number of training images held out for validation; 0: validate on the data set's validation
    split if it also has a test split, otherwise on the test split"""
    augmentation: Augmentation = "none"
    """"pad-crop-flip": pad by an eighth of the side, take a random crop or its mirror image
    (section 4.2); "pad-crop": the same without mirror images, for objects with a left and a right;
    "scale-crop-flip": resize the shorter side to between 8/7 and 15/7 of the crop (256 to 480 for
    224), take a random crop or its mirror image (section 3.4); "resized-crop-flip": resize a random
    part of the image, of a random area and an aspect ratio between 3/4 and 4/3, or its mirror image
    (Szegedy et al. 2015, section 6); "auto": "pad-crop-flip" if all images have one size and are in
    memory, otherwise "scale-crop-flip\""""
    crop_area: float = 0.08
    """smallest share of the image in the crop of "resized-crop-flip"; 0.08 is from Szegedy et
    al."""
    trivial_augment: bool = False
    """whether each image gets one random operation of random strength (TrivialAugment, wide:
    Mueller and Hutter 2021)"""
    rand_augment: float = 0.0
    """strength from 0 to 10 of the two random operations that each image gets (RandAugment: Cubuk
    et al. 2020, strengths as in Wightman et al. 2021); 0: none"""
    erasing: float = 0.0
    """share of images in which a random rectangle becomes the mean color (random erasing: Zhong et
    al. 2020)"""
    mixup: float = 0.0
    """alpha of the beta distribution of the weights with which two images are added (MixUp: Zhang
    et al. 2018); 0: none. If `cutmix` is set too, each pair gets one of the two at random"""
    cutmix: float = 0.0
    """alpha of the beta distribution of the share of an image that stays uncovered by a rectangle
    of another image (CutMix: Yun et al. 2019); 0: none"""
    repeated_augmentation: int = 1
    """views of each image in one batch; an epoch then has that many times fewer different images
    (repeated augmentation: Hoffer et al. 2020)"""
    lighting: float = 0.0
    """standard deviation of the color shift along the principal components of ImageNet's colors;
    0.1 is from AlexNet"""
    weights: str | None = None
    """initial weights. None: random; "imagenet": published by keras.applications; otherwise the
    path of a weight file that the factories read, or of a finished run. The classifier is new
    unless its classes are the same. Images are preprocessed as the weights need"""
    freeze: Frozen = "none"
    """layers that are not trained: "batch_norm", including its statistics, or the whole
    "backbone\""""
    stochastic_depth: float = 0.0
    """share of images for which training drops the last residual unit; it rises linearly from the
    first unit to the last (Huang et al. 2016)"""
    dropout: float = 0.0
    """share of the features before the classifier that training sets to 0 (Srivastava et al.
    2014)"""
    zero_gamma: bool = False
    """whether the last batch norm of each residual unit starts with gamma 0 (Goyal et al. 2017,
    section 5.1)"""
    head_epochs: int = 0
    """number of first epochs that train only the classifier"""
    weigh_classes: bool = False
    """whether the loss weighs images inversely to the frequency of their class; the mean weight is
    1"""
    loss: Loss = "cross_entropy"
    """"cross_entropy", or "binary_cross_entropy" of each class alone, which counts a class as
    present if its share in the label is at least 0.2 (Wightman et al. 2021)"""
    label_smoothing: float = 0.0
    """share of each label that is spread over all classes (Szegedy et al. 2016)"""
    teacher: str | None = None
    """run whose outputs for the same augmented images are learned, too (distillation: Hinton et
    al. 2015)"""
    distillation: float = 0.9
    """weight of the teacher's outputs in the loss; the labels have the rest"""
    temperature: float = 4.0
    """divisor of the logits of both networks in the loss of the teacher's outputs"""
    batch_size: int = 128
    """images per step, over all devices together"""
    epochs: float | None = None
    """length in passes over the training split; give this or `steps`"""
    steps: int | None = None
    """length in optimizer steps (the paper's iterations)"""
    learning_rate: float = 0.1
    """peak learning rate, which `schedule` and `warmup` multiply"""
    schedule: Pieces | Literal["cosine", "plateau"] = PAPER_DROPS
    """pieces (start, multiplier): from this fraction of the run on, the rate is the peak times the
    multiplier; "cosine": half a period, down to zero; "plateau": a tenth whenever the validation
    error stops falling"""
    warmup: float = 0.0
    """fraction of the run in which the rate rises linearly to the schedule's rate"""
    optimizer: Optimizer = "sgd"
    """"sgd" (the paper), "adamw" (Loshchilov and Hutter 2019) or "lamb" (You et al. 2020)"""
    momentum: float = 0.9
    """momentum of SGD; beta 1 of AdamW and LAMB"""
    nesterov: bool = False
    """whether SGD uses Nesterov momentum"""
    weight_decay: float = 1e-4
    """weight decay of the kernels: with SGD the paper's, as an L2 penalty of half this strength;
    with AdamW and LAMB decoupled from the gradient"""
    precision: Precision = "float32"
    """precision of the computation; if mixed, weights stay float32. float64 is for comparing
    trainings, whose rounding differences grow from step to step"""
    ema: float = 0.0
    """decay per step of an exponential moving average of the weights, which is kept instead of the
    last weights; 0: no average"""
    bn_statistics: Statistics = "moving"
    """batch norm's mean and variance after training: "moving" averages, or the statistics of the
    whole training "population\""""
    keep: Kept = "last"
    """weights that are kept: after the "last" step, or with the "best" validation on images outside
    the test split"""
    patience: int = 0
    """validations without a new lowest error after which training stops; 0: it never stops early"""
    validate_every: int = 1
    """epochs per validation; the last epoch is always validated"""
    seed: int = 0
    """seed of the initial weights, the order of images and the augmentation"""
    deterministic: bool = False
    """whether training uses only operations that give the same bits every time"""

    def __post_init__(self) -> None:
        folder = re.fullmatch(r"(?!\.\.?$)[^/\\\x00-\x1f\x7f]+", self.name)
        if folder is None:
            raise ValueError(f"name is {self.name!r}; give the name of a folder, not a path")
        require("augmentation", self.augmentation, get_args(Augmentation))
        require("precision", self.precision, get_args(Precision))
        require("freeze", self.freeze, get_args(Frozen))
        require("bn_statistics", self.bn_statistics, get_args(Statistics))
        require("loss", self.loss, get_args(Loss))
        require("optimizer", self.optimizer, get_args(Optimizer))
        require("keep", self.keep, get_args(Kept))
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"epochs is {self.epochs!r} and steps is {self.steps!r}; give exactly one of them"
            )
        for name in (
            "epochs",
            "steps",
            "batch_size",
            "learning_rate",
            "validate_every",
            "image_size",
            "repeated_augmentation",
            "temperature",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}; give a positive number")
        for name in (
            "holdout",
            "lighting",
            "head_epochs",
            "weight_decay",
            "seed",
            "mixup",
            "cutmix",
            "patience",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; give zero or a positive number"
                )
        for name in ("warmup", "momentum", "label_smoothing", "ema", "stochastic_depth", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; give a number of at least 0 and below 1"
                )
        for name, highest in (("erasing", 1), ("distillation", 1), ("rand_augment", 10)):
            if not 0 <= getattr(self, name) <= highest:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; give a number from 0 to {highest}"
                )
        if not 0 < self.crop_area <= 1:
            raise ValueError(f"crop_area is {self.crop_area!r}; give a number above 0, at most 1")
        if self.trivial_augment and self.rand_augment:
            raise ValueError(
                f"trivial_augment is True and rand_augment is {self.rand_augment}; give one of them"
            )
        if self.nesterov and not (self.momentum and self.optimizer == "sgd"):
            raise ValueError(
                f"nesterov is True, optimizer is {self.optimizer!r} and momentum is"
                f" {self.momentum}; Nesterov momentum needs SGD and a positive momentum"
            )
        if self.weights is None and (self.freeze != "none" or self.head_epochs):
            raise ValueError(
                f"weights is None, freeze is {self.freeze!r} and head_epochs is {self.head_epochs};"
                " frozen layers need pretrained weights: give weights"
            )
        if self.freeze != "none" and self.bn_statistics == "population":
            raise ValueError(
                f"freeze is {self.freeze!r} and bn_statistics is 'population';"
                " frozen statistics are not recomputed: give 'moving'"
            )
        if self.loss == "binary_cross_entropy" and self.label_smoothing:
            raise ValueError(
                f"loss is 'binary_cross_entropy' and label_smoothing is {self.label_smoothing};"
                " its labels are 0 or 1: give label_smoothing 0"
            )
        if self.stochastic_depth and self.spec.shortcut is None:
            raise ValueError(
                f"stochastic_depth is {self.stochastic_depth} and spec.shortcut is None;"
                " a plain network has no residual units to leave out"
            )
        if self.zero_gamma and (self.spec.shortcut is None or self.spec.order == "pre"):
            raise ValueError(
                f"zero_gamma is True, spec.shortcut is {self.spec.shortcut!r} and spec.order is"
                f" {self.spec.order!r}; only a residual unit of order 'post' ends in a batch norm"
            )
        if self.schedule == "plateau" and not self.holdout:
            raise ValueError(
                "schedule is 'plateau' and holdout is 0;"
                " hold out training images to measure the plateau"
            )
        if isinstance(self.schedule, str):
            require("schedule", self.schedule, ("cosine", "plateau"))
            return
        starts = [start for start, _ in self.schedule]
        if (
            not starts
            or starts[0] != 0
            or starts != sorted(set(starts))
            or not starts[-1] < 1
            or not all(0 <= multiplier < math.inf for _, multiplier in self.schedule)
        ):
            raise ValueError(
                f"schedule is {self.schedule!r};"
                " give (start, multiplier) pieces whose starts rise from 0 and stay below 1"
            )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the length of the run in optimizer steps, at least one.

        Args:
            steps_per_epoch: steps per epoch of the data.

        Raises:
            ValueError: the run has more than `MAX_EPOCHS` epochs.
        """
        total = self.steps
        if total is None:
            assert self.epochs is not None
            total = max(1, round(self.epochs * steps_per_epoch))
        if total > MAX_EPOCHS * steps_per_epoch:
            raise ValueError(
                f"epochs is {self.epochs!r} and steps is {self.steps!r}; give at most"
                f" {MAX_EPOCHS:,} epochs, here of {steps_per_epoch} steps"
            )
        return total

    def override(self, **changes: Any) -> "Recipe":
        """Return this recipe with changed fields; `epochs` and `steps` replace each other."""
        for given, other in (("epochs", "steps"), ("steps", "epochs")):
            if changes.get(given) is not None:
                changes.setdefault(other, None)
        return replace(self, **changes)

    def to_json(self) -> str:
        """Return the recipe as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read a recipe from the text of `to_json`.

        Raises:
            ValueError: the text is not a recipe. The message names the first invalid field.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ValueError(f"not a recipe: {error}") from None
        if not isinstance(values.get("spec"), dict):
            raise ValueError("not a recipe: expected an object with a `spec`")
        return from_values(cls, values | {"spec": from_values(ResNetSpec, values["spec"])})
