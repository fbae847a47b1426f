"""Test a network without single units, as Veit, Wilber and Belongie do (2016).

*Residual Networks Behave Like Ensembles of Relatively Shallow Networks*, arXiv:1605.06431,
section 4.1: removing one unit of a residual network hardly changes its error; removing one of a
plain network destroys it.
"""

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

from ..networks.blocks import switchable, units
from ..networks.spec import ResNetSpec


def errors_without(
    model: keras.Model,
    spec: ResNetSpec,
    batches: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
    removed: Sequence[Sequence[str]],
) -> list[float]:
    """Return the error in percent of a network without some of its units, for each choice of them.

    Args:
        model: a network that `build` has built, with class scores as output.
        spec: its spec.
        batches: returns the images, float32 `[N, H, W, 3]` preprocessed, and labels, int `[N]`.
        removed: the names of the units to leave out together, such as `["conv2_block1"]`; `[]` for
            the whole network.

    Raises:
        ValueError: a name belongs to no unit, or to one that a plain network cannot do without.
    """
    found = units(spec)
    choices = [unit.name for unit in found if unit.removable]
    for name in {name for names in removed for name in names}:
        if name not in choices:
            raise ValueError(
                f"removed has {name!r}; choose from the removable units {', '.join(choices)}"
            )
    switches = np.array(
        [[unit.name not in names for unit in found] for names in removed], np.float32
    )
    run = switchable(model, spec)
    predicted = tf.function(
        lambda images, row: tf.argmax(run(images, row), axis=1), reduce_retracing=True
    )
    wrong, count = np.zeros(len(switches)), 0
    for images, labels in batches():
        count += len(labels)
        for number, row in enumerate(switches):
            answers = predicted(tf.constant(images), tf.constant(row)).numpy()
            wrong[number] += np.count_nonzero(answers != labels)
    return (100 * wrong / count).tolist()


def lesions(
    model: keras.Model,
    spec: ResNetSpec,
    batches: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
) -> tuple[float, list[tuple[str, float]]]:
    """Return the error of a network in percent, and its error without each single unit.

    Args:
        model: a network that `build` has built, with class scores as output.
        spec: its spec.
        batches: as in `errors_without`.

    Returns:
        The error of the whole network, and pairs of a unit's name and the error without it, for the
        units that can be removed.
    """
    names = [unit.name for unit in units(spec) if unit.removable]
    whole, *without = errors_without(model, spec, batches, [[], *([name] for name in names)])
    return whole, list(zip(names, without, strict=True))
