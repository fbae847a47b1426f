"""Split and fold every network of keras.applications, and compare the results with the network.

For each network, with random weights and batch norm statistics on small images, it reports the
number of features, the largest difference of the split's softmax from the network's probabilities,
and that of the folded logits relative to the largest logit. Takes about 20 minutes on two cores:

    python scripts/experiments/applications.py

Writes scripts/results/applications.txt.
"""

from pathlib import Path

import keras
import numpy as np

from keras_resnet.networks.folding import fold_batch_norm
from keras_resnet.networks.logits import features_and_logits

RESULTS = Path(__file__).parents[1] / "results" / "applications.txt"
LARGER = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
# With scales around 1 the sums of hundreds of units would exceed the precision of float32.
RANGES = {
    "gamma": (0.1, 0.3),
    "beta": (-0.3, 0.3),
    "moving_mean": (-0.3, 0.3),
    "moving_variance": (0.5, 2.0),
}


def main() -> None:
    names = sorted(
        name
        for name, value in vars(keras.applications).items()
        if name[0].isupper() and callable(value)
    )
    rows = [f"{'':20}{'features':>10}{'softmax':>12}{'folded logits':>16}"]
    for name in names:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        side = LARGER.get(name, 32)
        shape = (side, side, 3)
        model = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=7)
        random = np.random.default_rng(0)
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                for weight in layer.weights:
                    weight.assign(random.uniform(*RANGES[weight.name], weight.shape))
        images = random.uniform(0, 255, (4, *shape)).astype(np.float32)
        split = features_and_logits(model)
        answer = {k: v.numpy() for k, v in split.model(images, training=False).items()}
        folded = fold_batch_norm(split.model)(images, training=False)["logits"].numpy()
        logits = answer["logits"]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        softmax = powers / powers.sum(axis=1, keepdims=True)
        own = np.abs(softmax - model.predict(images, verbose=0)).max()
        fold = np.abs(folded - logits).max() / np.abs(logits).max()
        found = str(answer["features"].shape[1]) if "features" in answer else split.note
        rows.append(f"{name:20}{found:>10}{own:12.1e}{fold:16.1e}")
        print(rows[-1], flush=True)
    RESULTS.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
