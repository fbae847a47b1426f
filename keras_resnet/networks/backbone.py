"""Find a network's backbone by the names of its layers."""

import re
from collections.abc import Collection

STAGE = re.compile(r"conv(\d+)_block\d+_")
"""the start of the names of a unit's layers; the number is the stage's"""


def backbone_of(names: Collection[str]) -> frozenset[str]:
    """Select the layer names of a network's backbone, which is everything before the head.

    If no name belongs to a residual unit, none is selected: a user's own head may also have a
    "conv1_bn".

    Args:
        names: names of the layers of one model, with or without weights.
    """
    if not any(map(STAGE.match, names)):
        return frozenset()
    pre = any(name.endswith("_preact_bn") for name in names)
    ends = r"|post_(bn|relu)" if pre else ""
    stem = r"conv1_(pad|conv|bn|relu)|pool1_(pad|max|pool)"
    backbone = re.compile(rf"{STAGE.pattern}.+|{stem}{ends}")
    return frozenset(filter(backbone.fullmatch, names))
