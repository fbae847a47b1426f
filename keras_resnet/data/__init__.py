"""Load data sets; preprocess, augment and batch images, for this package's training or your own.

| module | contents |
|---|---|
| `data` itself | `load`: a data set by its name, or a folder of images |
| `dataset` | `Dataset` and its splits |
| `own_data` | `as_split`: arrays and any `tf.data.Dataset` as a split |
| `splitting` | hold images out of the training split |
| `records` | splits in TFRecord and array_record files |
| `digits`, `synthetic`, `folder`, `tfds` | the sources of data sets, one file per source |
| `walking` | list the files of a folder, without thumbnails and metadata |
| `scan` | find unreadable files in a folder, and remember the others |
| `decoding` | decode images of bounded size |
| `preprocessing` | `Preprocessing`: resize, crop and normalize images |
| `augmentation` | random views of training images, for `Dataset.map` |
| `policies` | TrivialAugment and RandAugment, which choose from `operations` |
| `mixing` | MixUp and CutMix of pairs of images |
| `crops` | the views for evaluation: center crop, ten crops, several scales |
| `pipeline` | batches of a split |

`README.md` in this folder has an example of each.

```python
from keras_resnet import data

digits = data.load("digits")
batches = data.pipeline.train_batches(
    digits.train,
    data.preprocessing.per_pixel_mean(digits.train.images, 8),
    batch_size=64,
    augmentation=data.pipeline.Augmentation("pad-crop"),
)
```
"""

import warnings
from pathlib import Path

from . import (
    augmentation,
    crops,
    dataset,
    decoding,
    digits,
    folder,
    mixing,
    operations,
    own_data,
    pipeline,
    policies,
    preprocessing,
    records,
    scan,
    splitting,
    synthetic,
    tfds,
    walking,
)

__all__ = [
    "augmentation",
    "crops",
    "dataset",
    "decoding",
    "digits",
    "folder",
    "load",
    "mixing",
    "operations",
    "own_data",
    "pipeline",
    "policies",
    "preprocessing",
    "records",
    "scan",
    "splitting",
    "synthetic",
    "tfds",
    "walking",
]


def load(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    holdout: int = 0,
    seed: int = 0,
    skip_broken: bool = False,
    hosts: scan.Hosts = scan.ALONE,
) -> dataset.Dataset:
    """Load a data set by its name, or the images in a folder.

    A name takes precedence over a folder of the same name, with a warning, so that a recipe means
    the same in every working directory.

    Args:
        name: "digits", "synthetic", the name of an image data set of tensorflow-datasets or in
            `data_dir`, or the path of a folder.
        data_dir: the folder where tensorflow-datasets keeps its data; by default `TFDS_DATA_DIR`,
            otherwise the default of tensorflow-datasets.
        image_size: the side of synthetic images in pixels, 32 by default.
        holdout: the number of training images to hold out for validation.
        seed: the seed of the choice of held-out images.
        skip_broken: whether to leave out unreadable files of a folder, with a warning.
        hosts: the hosts that load the data set together. Each decodes a part of a folder's files.

    Raises:
        ValueError: no data set has this name, its data is missing or unreadable, or it is too small
            for `holdout`, or the hosts have different files.
    """
    if not name:
        raise ValueError(
            "no data set is given; give a folder of images or the name of a data set as `dataset`"
        )
    path = Path(name)
    if path.is_file():
        raise ValueError(
            f"{name} is a file; give the folder of the images, unpacked if they are in an archive"
        )
    named = name in ("digits", "synthetic") or (
        path.is_dir() and path.name == name and tfds.knows(name, data_dir)
    )
    if named and path.is_dir():
        warnings.warn(
            f"{name} is the data set of that name; give ./{name} for the folder", stacklevel=2
        )
    if name == "digits":
        found = digits.load()
    elif name == "synthetic":
        found = synthetic.load(image_size or 32)
    elif path.is_dir() and not named:
        found = folder.load(path, seed=seed, skip_broken=skip_broken, hosts=hosts)
    else:
        return tfds.load(name, data_dir, holdout=holdout, seed=seed)
    return splitting.hold_out(found, holdout, seed) if holdout else found
