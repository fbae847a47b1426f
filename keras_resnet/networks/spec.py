"""A network as a value, down to every convolution, in plain Python.

A `ResNetSpec` holds everything that distinguishes one network of the paper from another. The plain
network is the same value with `shortcut=None`. The number of classes and the image size belong to
the data, so functions that need them take them as arguments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from ..choices import require

Stem = Literal["cifar", "imagenet"]
BlockKind = Literal["basic", "bottleneck"]
Shortcut = Literal["A", "B", "C"]
StrideOn = Literal["1x1", "3x3"]
Order = Literal["post", "pre"]

# Far above the paper's networks. With larger values the list of layers alone could exhaust memory.
MAX_STAGES = 8
MAX_UNITS = 10_000
MAX_WIDTH = 65_536


@dataclass(frozen=True)
class Convolution:
    """A square convolution, padded so that stride 1 keeps height and width."""

    name: str
    kernel: int
    inputs: int
    outputs: int
    stride: int = 1

    @property
    def padding(self) -> int:
        """The padding on each side in pixels."""
        return (self.kernel - 1) // 2


@dataclass(frozen=True)
class Block:
    """One residual unit: its convolutions in order, and the kind of its shortcut."""

    name: str
    convolutions: tuple[Convolution, ...]
    shortcut: Literal["identity", "zero padding", "projection"] | None

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return self.convolutions[0].inputs

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.convolutions[-1].outputs

    @property
    def stride(self) -> int:
        """The stride of the whole unit."""
        return max(conv.stride for conv in self.convolutions)

    @property
    def projection(self) -> Convolution:
        """The 1x1 convolution on the shortcut, if `shortcut` is "projection"."""
        return Convolution(f"{self.name}_0", 1, self.inputs, self.outputs, self.stride)


@dataclass(frozen=True)
class Layer:
    """One layer with weights, or the stem's pool, named as in the Keras model of the spec."""

    name: str
    kind: Literal["convolution", "batch norm", "max pool", "dense"]
    stage: str  # conv1, conv2_x, ... as in Table 1; "head" for the classifier
    inputs: int  # channels
    outputs: int  # channels
    size: tuple[int, int]  # output height and width in pixels; (1, 1) for the classifier
    kernel: int = 1
    stride: int = 1
    on_shortcut: bool = False


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """One network of He et al. (2015), sections 3.3 and 4.2.

    Raises:
        ValueError: a field has an invalid value.
    """

    stem: Stem
    """"cifar": 3x3 convolution (section 4.2); "imagenet": 7x7/2 convolution and 3x3/2 max pool
    (Table 1)"""
    blocks: tuple[int, ...]
    """residual units in each stage"""
    width: int
    """channels of the first stage's 3x3 convolutions; each later stage doubles them"""
    block: BlockKind = "basic"
    """"basic": two 3x3 convolutions; "bottleneck": 1x1, 3x3, 1x1 (Fig. 5)"""
    shortcut: Shortcut | None = "B"
    """"A": zero padding; "B": projection where the shape changes; "C": projection in every unit;
    None: the plain network"""
    stride_on: StrideOn = "1x1"
    """the bottleneck convolution with stride 2: "1x1" in the paper, "3x3" in torchvision's v1.5"""
    order: Order = "post"
    """"post": conv-BN-ReLU (the paper); "pre": BN-ReLU-conv (He et al. 2016)"""

    def __post_init__(self) -> None:
        require("stem", self.stem, get_args(Stem))
        require("block", self.block, get_args(BlockKind))
        require("shortcut", self.shortcut, (*get_args(Shortcut), None))
        require("stride_on", self.stride_on, get_args(StrideOn))
        require("order", self.order, get_args(Order))
        if not (
            isinstance(self.blocks, tuple) and self.blocks and all(map(_is_count, self.blocks))
        ):
            raise ValueError(
                f"blocks is {self.blocks!r}; give a tuple of positive integers, the residual units"
                " of each stage"
            )
        if len(self.blocks) > MAX_STAGES or sum(self.blocks) > MAX_UNITS:
            raise ValueError(
                f"blocks is {self.blocks!r}; give at most {MAX_STAGES} stages, and"
                f" {MAX_UNITS:,} residual units in all"
            )
        if not _is_count(self.width) or self.width > MAX_WIDTH:
            raise ValueError(
                f"width is {self.width!r}; give a positive integer number of channels, at most"
                f" {MAX_WIDTH:,}"
            )

    @property
    def depth(self) -> int:
        """Number of layers with weights on the main path, as in the network's name."""
        return sum(len(block.convolutions) for stage in self.stages() for block in stage) + 2

    @property
    def default_shortcut(self) -> Shortcut:
        """The paper's option: A for CIFAR networks (section 4.2), B for ImageNet ones (Table 3)."""
        return "A" if self.stem == "cifar" else "B"

    @property
    def name(self) -> str:
        """`resnet34` or `plain34`, with suffixes for values other than the defaults, such as
        `resnet34-c`, `resnet50-v1.5` or `resnet110-pre`."""
        name = f"{'plain' if self.shortcut is None else 'resnet'}{self.depth}"
        if self.shortcut not in (None, self.default_shortcut):
            name += f"-{self.shortcut.lower()}"
        if self.block == "bottleneck" and self.stride_on == "3x3":
            name += "-v1.5"
        if self.order == "pre":
            name += "-pre"
        return name

    @property
    def features(self) -> int:
        """Number of channels before the classifier."""
        return self.width * 2 ** (len(self.blocks) - 1) * (4 if self.block == "bottleneck" else 1)

    @property
    def stem_convolution(self) -> Convolution:
        """The convolution of the stem."""
        kernel, stride = (3, 1) if self.stem == "cifar" else (7, 2)
        return Convolution("conv1", kernel, 3, self.width, stride)

    def stages(self) -> Iterator[list[Block]]:
        """Yield the residual units of each stage: conv2_x, conv3_x, ... of Table 1.

        The first unit of every stage except the first halves height and width.
        """
        inputs = self.width
        for index, count in enumerate(self.blocks):
            stage = []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                stage.append(
                    self._block(
                        f"conv{index + 2}_block{position + 1}",
                        inputs,
                        self.width * 2**index,
                        stride,
                    )
                )
                inputs = stage[-1].outputs
            yield stage

    def _block(self, name: str, inputs: int, width: int, stride: int) -> Block:
        if self.block == "basic":
            shapes = [(3, width, stride), (3, width, 1)]
        elif self.stride_on == "1x1":
            shapes = [(1, width, stride), (3, width, 1), (1, 4 * width, 1)]
        else:
            shapes = [(1, width, 1), (3, width, stride), (1, 4 * width, 1)]
        convolutions, channels = [], inputs
        for number, (kernel, outputs, conv_stride) in enumerate(shapes, start=1):
            convolutions.append(
                Convolution(f"{name}_{number}", kernel, channels, outputs, conv_stride)
            )
            channels = outputs

        same_shape = stride == 1 and inputs == channels
        shortcut: Literal["identity", "zero padding", "projection"] | None
        if self.shortcut is None:
            shortcut = None
        elif self.shortcut == "C" or (self.shortcut == "B" and not same_shape):
            shortcut = "projection"
        else:
            shortcut = "identity" if same_shape else "zero padding"
        return Block(name, tuple(convolutions), shortcut)

    def layers(self, input_size: int | tuple[int, int], classes: int) -> list[Layer]:
        """List every convolution, batch norm and dense layer, and the stem's pool.

        Layers on shortcuts are included. Names and shapes are the same as in the Keras model that
        `keras_resnet.networks.build.build` returns.

        Args:
            input_size: side of a square image, or height and width, in pixels.
            classes: number of outputs of the classifier.
        """
        size = (input_size, input_size) if isinstance(input_size, int) else input_size
        layers: list[Layer] = []

        def conv(
            c: Convolution, stage: str, size: tuple[int, int], on_shortcut: bool = False
        ) -> tuple[int, int]:
            size = _strided(size, c.kernel, c.stride)
            layers.append(
                Layer(
                    f"{c.name}_conv",
                    "convolution",
                    stage,
                    c.inputs,
                    c.outputs,
                    size,
                    c.kernel,
                    c.stride,
                    on_shortcut,
                )
            )
            return size

        def norm(
            name: str, stage: str, channels: int, size: tuple[int, int], on_shortcut: bool = False
        ) -> None:
            layers.append(
                Layer(name, "batch norm", stage, channels, channels, size, on_shortcut=on_shortcut)
            )

        post = self.order == "post"
        size = conv(self.stem_convolution, "conv1", size)
        if post:
            norm("conv1_bn", "conv1", self.width, size)
        if self.stem == "imagenet":
            # Table 1 counts the pool as the first layer of conv2_x.
            size = _strided(size, 3, 2)
            layers.append(
                Layer("pool1_pool", "max pool", "conv2_x", self.width, self.width, size, 3, 2)
            )

        for index, blocks in enumerate(self.stages()):
            stage = f"conv{index + 2}_x"
            for block in blocks:
                if not post:
                    norm(f"{block.name}_preact_bn", stage, block.inputs, size)
                if block.shortcut == "projection":
                    out = conv(block.projection, stage, size, on_shortcut=True)
                    if post:
                        norm(f"{block.name}_0_bn", stage, block.outputs, out, on_shortcut=True)
                for c in block.convolutions:
                    size = conv(c, stage, size)
                    if post or c is not block.convolutions[-1]:
                        norm(f"{c.name}_bn", stage, c.outputs, size)
        if not post:
            norm("post_bn", "head", self.features, size)
        layers.append(Layer("predictions", "dense", "head", self.features, classes, (1, 1)))
        return layers


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _strided(size: tuple[int, int], kernel: int, stride: int) -> tuple[int, int]:
    padding = (kernel - 1) // 2
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    return height, width
