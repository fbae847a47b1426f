"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) through tensorflow-datasets: 50,000 pictures to train, 10,000 to test."""

import os

import numpy as np

from .dataset import Dataset, Arrays


def load(name: str, data_dir: str | None) -> Dataset:
    """`name` is "cifar10" or "cifar100". Raises `ValueError` where the data has not been prepared, saying how to."""
    os.environ.setdefault("NO_GCE_CHECK", "true")  # else a machine without network waits for an answer
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    if not builder.is_prepared():
        raise ValueError(
            f"{name} is not in {builder.data_path.parent.parent}; prepare it once, with a network, by "
            f"`python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}').download_and_prepare()\"`, "
            "or name the folder that holds it with --data-dir or TFDS_DATA_DIR"
        )

    def split(which: str) -> Arrays:
        examples = builder.as_dataset(split=which, batch_size=-1)
        return Arrays(examples["image"].numpy(), examples["label"].numpy().astype(np.int32))

    return Dataset(
        name=name, labels=tuple(builder.info.features["label"].names), train=split("train"), test=split("test")
    )
