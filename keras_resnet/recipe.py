"""Every training run as one complete value.

`RECIPES` is where the paper's numbers stand. A recipe is flat but for its network; what it leaves
open (how many classes, how many pictures) follows from the data set.
"""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from .spec import NETWORKS, ResNetSpec, cifar_spec, imagenet_spec, require

Augmentation = Literal["auto", "none", "pad-crop", "pad-crop-flip", "scale-crop-flip"]
Frozen = Literal["none", "batch_norm", "backbone"]
Precision = Literal["float32", "mixed_float16", "mixed_bfloat16", "float64"]
Statistics = Literal["moving", "population"]
Pieces = tuple[tuple[float, float], ...]

PAPER_DROPS = ((0.0, 1.0), (0.5, 0.1), (0.75, 0.01))  # at 32k and 48k of 64k iterations (section 4.2)
# 110 layers: 0.01 until the training error is below 80 %, which the paper puts at about 400 iterations.
PAPER_WARMUP = ((0.0, 0.1), (400 / 64_000, 1.0), *PAPER_DROPS[1:])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run. Raises `ValueError` where a field is not usable, naming the value."""

    name: str
    """names the run's folder and the export"""
    spec: ResNetSpec
    """the network"""
    dataset: str
    """"digits", "synthetic", a name of tensorflow-datasets such as "cifar10", or the path of a folder of pictures"""
    data_dir: str | None = None
    """where tensorflow-datasets keeps its data; None: $TFDS_DATA_DIR, or ~/tensorflow_datasets"""
    image_size: int | None = None
    """side in pixels that pictures are resized and cropped to; None: the data set's own"""
    skip_broken: bool = False
    """whether files in a folder that cannot be read as pictures are left out; else they are named and nothing starts"""
    holdout: int = 0
    """pictures kept from the training split to validate on; 0: validate on the data set's validation split where it has
    one beside a test split, else on the test split"""
    augmentation: Augmentation = "none"
    """"pad-crop-flip": pad by an eighth of the side, take a random crop or its mirror image (section 4.2);
    "pad-crop": never the mirror image, for what has a left and a right; "scale-crop-flip": shorter side between 8/7 and
    15/7 of the crop (256 to 480 for 224), a random crop or its mirror image (section 3.4);
    "auto": "pad-crop-flip" where all pictures are of one size and in memory, else "scale-crop-flip\""""
    lighting: float = 0.0
    """standard deviation of the colour shift along the principal components of ImageNet's colours; 0.1 is AlexNet's"""
    weights: str | None = None
    """where training starts: None: random weights; "imagenet": those that keras.applications publishes; else the path
    of a file that the factories read, or of a run that is trained to its end. The classifier is new unless it is for
    the same classes; the pictures are prepared as for the weights"""
    freeze: Frozen = "none"
    """what keeps its weights all along: "batch_norm", which then keeps its statistics too, or the whole "backbone\""""
    head_epochs: int = 0
    """epochs at the beginning in which the classifier alone is trained"""
    weigh_classes: bool = False
    """whether a picture counts in inverse proportion to the pictures of its class; 1 on average"""
    batch_size: int = 128
    """pictures a step, over all devices together"""
    epochs: float | None = None
    """length in passes over the training split; give this or `steps`"""
    steps: int | None = None
    """length in optimizer steps (the paper's iterations)"""
    learning_rate: float = 0.1
    """the peak, which `schedule` and `warmup` multiply"""
    schedule: Pieces | Literal["cosine", "plateau"] = PAPER_DROPS
    """pieces (from, multiplier): from that fraction of the run on, the rate is the peak times the multiplier;
    "cosine": half a period, down to zero; "plateau": a tenth whenever the validation error stops falling"""
    warmup: float = 0.0
    """fraction of the run in which the rate rises to the schedule's in a straight line"""
    momentum: float = 0.9
    """of SGD"""
    nesterov: bool = False
    """whether SGD looks ahead along its momentum"""
    label_smoothing: float = 0.0
    """share of each label that is spread over all classes"""
    weight_decay: float = 1e-4
    """the paper's: an L2 penalty of half of it on the kernels"""
    precision: Precision = "float32"
    """of the computation; mixed, weights stay float32. float64 is for comparing trainings, since what rounding makes of
    two of them grows from step to step"""
    ema: float = 0.0
    """decay a step of the moving average of the weights, which is then what is kept; 0: the last weights are kept"""
    bn_statistics: Statistics = "moving"
    """batch norm's mean and variance after training: "moving" averages, or those of the training set, computed anew"""
    validate_every: int = 1
    """epochs from one validation to the next; the last epoch is always validated"""
    seed: int = 0
    """decides initial weights, order of pictures and augmentation"""
    deterministic: bool = False
    """only operations that give the same bits every time"""

    def __post_init__(self) -> None:
        require("augmentation", self.augmentation, get_args(Augmentation))
        require("precision", self.precision, get_args(Precision))
        require("freeze", self.freeze, get_args(Frozen))
        require("bn_statistics", self.bn_statistics, get_args(Statistics))
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"epochs is {self.epochs!r} and steps is {self.steps!r}; give exactly one of them")
        for name in ("epochs", "steps", "batch_size", "learning_rate", "validate_every", "image_size"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value!r}; give a positive number")
        for name in ("holdout", "lighting", "head_epochs", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give zero or a positive number")
        for name in ("warmup", "momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a number from zero on and below one")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is True and momentum is 0; nesterov is a form of momentum")
        if self.weights is None and (self.freeze != "none" or self.head_epochs):
            raise ValueError(
                f"weights is None, freeze is {self.freeze!r} and head_epochs is {self.head_epochs}; "
                "random weights are of no use frozen: give weights"
            )
        if self.freeze != "none" and self.bn_statistics == "population":
            raise ValueError(f"freeze is {self.freeze!r} and bn_statistics is 'population'; frozen statistics stay")
        if self.schedule == "plateau" and not self.holdout:
            raise ValueError(
                "schedule is 'plateau' and holdout is 0; hold pictures out of the training split for it to look at"
            )
        if isinstance(self.schedule, str):
            require("schedule", self.schedule, ("cosine", "plateau"))
            return
        starts = [start for start, _ in self.schedule]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1:
            raise ValueError(
                f"schedule is {self.schedule!r}; give (from, multiplier) pieces, from 0 on, increasing and below 1"
            )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Length of the run in optimizer steps, at least one."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * steps_per_epoch))

    def override(self, **changes: Any) -> "Recipe":
        """This recipe with other values. Giving `epochs` takes `steps` back, and the other way round."""
        for given, other in (("epochs", "steps"), ("steps", "epochs")):
            if changes.get(given) is not None:
                changes.setdefault(other, None)
        return replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The recipe written by `to_json`. Raises `ValueError` naming the first field that does not fit."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a recipe: {error}") from None
        if not isinstance(values, dict) or not isinstance(values.get("spec"), dict):
            raise ValueError("not a recipe: an object with a `spec` is wanted")
        return _from_values(cls, values | {"spec": _from_values(ResNetSpec, values["spec"])})


def _from_values(cls: type, values: dict[str, Any]) -> Any:
    names = [field.name for field in fields(cls)]
    for name in values:
        require(f"a field of {cls.__name__}", name, tuple(names))
    for name, value in values.items():
        # JSON has no tuples.
        if isinstance(value, list):
            values = values | {name: tuple(tuple(v) if isinstance(v, list) else v for v in value)}
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"not a {cls.__name__}: {error}") from None


def _digits(spec: ResNetSpec) -> Recipe:
    return Recipe(
        name=f"digits-{spec.name}",
        spec=spec,
        dataset="digits",
        augmentation="pad-crop",
        batch_size=64,
        epochs=30,
        seed=1,
    )


def _cifar(dataset: str, spec: ResNetSpec) -> Recipe:
    return Recipe(
        name=f"{dataset}-{spec.name}",
        spec=spec,
        dataset=dataset,
        augmentation="pad-crop-flip",
        batch_size=128,
        steps=64_000,
        schedule=PAPER_WARMUP if spec.depth >= 110 else PAPER_DROPS,
    )


def _short(recipe: Recipe) -> Recipe:
    """A quarter of the paper's epochs, chosen on CIFAR-10's 45k/5k split: results/cifar10-resnet20-short/trials.csv."""
    return replace(
        recipe,
        name=f"{recipe.name}-short",
        epochs=40,
        steps=None,
        schedule="cosine",
        warmup=0.05,
        learning_rate=0.4,
        nesterov=True,
        label_smoothing=0.1,
        weight_decay=5e-4,
        validate_every=4,
    )


def _imagenet(spec: ResNetSpec) -> Recipe:
    return Recipe(
        name=f"imagenet-{spec.name}",
        spec=spec,
        dataset="imagenet2012",
        augmentation="scale-crop-flip",
        lighting=0.1,
        batch_size=256,
        steps=600_000,
    )


def _finetune(spec: ResNetSpec, weights: str) -> Recipe:
    return Recipe(
        name=f"finetune-{spec.name}",
        spec=spec,
        dataset="",
        augmentation="auto",
        weights=weights,
        head_epochs=3,
        batch_size=32,
        epochs=15,
        learning_rate=0.01,
        schedule="cosine",
    )


CIFAR_DEPTHS = (20, 32, 44, 56, 110)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        # keras-resnet train digits-resnet20: the degradation problem in minutes, on a laptop.
        # Not in the paper. The README's results say what each reaches.
        _digits(cifar_spec(20)),
        _digits(cifar_spec(20, shortcut=None)),
        _digits(cifar_spec(56)),
        _digits(cifar_spec(56, shortcut=None)),
        # keras-resnet train cifar10-resnet20: section 4.2, errors of Table 6.
        *(
            _cifar(dataset, spec)
            for dataset in ("cifar10", "cifar100")
            for spec in (
                *(cifar_spec(depth) for depth in CIFAR_DEPTHS),
                *(cifar_spec(depth, shortcut=None) for depth in CIFAR_DEPTHS),
                cifar_spec(1202),
            )
        ),
        # keras-resnet train cifar10-resnet20-short: not in the paper; its error in a quarter of its epochs.
        _short(_cifar("cifar10", cifar_spec(20))),
        _short(_cifar("cifar100", cifar_spec(20))),
        # keras-resnet train imagenet-resnet50: section 3.4. The paper's schedule divides by 10 "when the error
        # plateaus", for up to 60e4 iterations: --schedule plateau --holdout 50000. The pieces are CIFAR's.
        *(
            _imagenet(NETWORKS[name])
            for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "plain18", "plain34")
        ),
        # keras-resnet train finetune-resnet50 --dataset FOLDER: not in the paper. People's own pictures, from published
        # weights; and from nothing, for those who have many pictures or want to see what the weights are worth.
        _finetune(NETWORKS["resnet50"], "imagenet"),
        replace(
            _imagenet(NETWORKS["resnet18"]),
            name="pictures-resnet18",
            dataset="",
            augmentation="auto",
            batch_size=64,
            epochs=90,
            steps=None,
        ),  # fmt: skip
        # Tiny twins: every path of the larger recipes in seconds.
        replace(_digits(cifar_spec(8)), name="digits-tiny", epochs=3),
        replace(_cifar("cifar10", cifar_spec(8)), name="cifar10-tiny", steps=20, holdout=48_000, validate_every=100),
        replace(
            _imagenet(replace(imagenet_spec("bottleneck", (1, 1)), width=8)),
            name="imagenet-tiny",
            image_size=64,
            batch_size=16,
            steps=20,
        ),
        Recipe(
            name="synthetic-tiny",
            spec=replace(imagenet_spec("bottleneck", (1, 1)), width=8),
            dataset="synthetic",
            image_size=64,
            batch_size=16,
            steps=40,
        ),
    )
}
