"""The paper's networks by name, and their errors."""

from .spec import BlockKind, ResNetSpec, Shortcut


def cifar_spec(depth: int, shortcut: Shortcut | None = "A") -> ResNetSpec:
    """Return a network of the 6n+2 family of section 4.2.

    It has three stages of n basic units with 16, 32 and 64 channels.

    Raises:
        ValueError: `depth` is not 6n+2 with a positive n.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(
            f"depth is {depth}; the CIFAR networks have 6n+2 layers: 8, 14, 20, 32, 44, 56, 110,"
            " 1202, ..."
        )
    return ResNetSpec(stem="cifar", blocks=((depth - 2) // 6,) * 3, width=16, shortcut=shortcut)


def imagenet_spec(
    block: BlockKind, blocks: tuple[int, ...], shortcut: Shortcut | None = "B"
) -> ResNetSpec:
    """Return a network of Table 1.

    It has four stages with 64 to 512 channels. Bottleneck units output four times as many.
    """
    return ResNetSpec(stem="imagenet", block=block, blocks=blocks, width=64, shortcut=shortcut)


NETWORKS: dict[str, ResNetSpec] = {
    "resnet18": imagenet_spec("basic", (2, 2, 2, 2)),
    "resnet34": imagenet_spec("basic", (3, 4, 6, 3)),
    "resnet50": imagenet_spec("bottleneck", (3, 4, 6, 3)),
    "resnet101": imagenet_spec("bottleneck", (3, 4, 23, 3)),
    "resnet152": imagenet_spec("bottleneck", (3, 8, 36, 3)),
    "plain18": imagenet_spec("basic", (2, 2, 2, 2), shortcut=None),
    "plain34": imagenet_spec("basic", (3, 4, 6, 3), shortcut=None),
    "resnet20": cifar_spec(20),
    "resnet32": cifar_spec(32),
    "resnet44": cifar_spec(44),
    "resnet56": cifar_spec(56),
    "resnet110": cifar_spec(110),
    "resnet1202": cifar_spec(1202),
    "plain20": cifar_spec(20, shortcut=None),
    "plain32": cifar_spec(32, shortcut=None),
    "plain44": cifar_spec(44, shortcut=None),
    "plain56": cifar_spec(56, shortcut=None),
    "plain110": cifar_spec(110, shortcut=None),
}

# Error in percent and its source. The paper does not report ResNet-18 with the default shortcut B.
PAPER_ERRORS: dict[str, tuple[float, str]] = {
    "plain18": (27.94, "ImageNet validation, top-1, 10-crop (Table 2)"),
    "plain34": (28.54, "ImageNet validation, top-1, 10-crop (Table 2)"),
    "resnet18-a": (27.88, "ImageNet validation, top-1, 10-crop (Table 2)"),
    "resnet34-a": (25.03, "ImageNet validation, top-1, 10-crop (Table 3)"),
    "resnet34": (24.52, "ImageNet validation, top-1, 10-crop (Table 3)"),
    "resnet34-c": (24.19, "ImageNet validation, top-1, 10-crop (Table 3)"),
    "resnet50": (22.85, "ImageNet validation, top-1, 10-crop (Table 3)"),
    "resnet101": (21.75, "ImageNet validation, top-1, 10-crop (Table 3)"),
    "resnet152": (21.43, "ImageNet validation, top-1, 10-crop (Table 3)"),
    "resnet20": (8.75, "CIFAR-10 test (Table 6)"),
    "resnet32": (7.51, "CIFAR-10 test (Table 6)"),
    "resnet44": (7.17, "CIFAR-10 test (Table 6)"),
    "resnet56": (6.97, "CIFAR-10 test (Table 6)"),
    "resnet110": (6.43, "CIFAR-10 test, best of five runs (Table 6)"),
    "resnet1202": (7.93, "CIFAR-10 test (Table 6)"),
}
