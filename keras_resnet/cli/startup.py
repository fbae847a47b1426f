"""Import TensorFlow only in the verbs that compute, so that the others answer at once."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from ..choices import require


def import_tensorflow() -> None:
    """Import TensorFlow without the notes it writes about itself.

    Raises:
        ValueError: another Keras backend is chosen.
    """
    require("KERAS_BACKEND", os.environ.setdefault("KERAS_BACKEND", "tensorflow"), ("tensorflow",))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _held_back_stderr():
        import tensorflow as tf

        from ..training.distribution import CLUSTER_VARIABLES

        # The search for GPUs is noisy too. But a cluster can be joined only before anything is
        # computed. On some processors the first transposition of uint8 is noted as well, once.
        if not tf.config.list_physical_devices("GPU") and not os.environ.keys() & CLUSTER_VARIABLES:
            tf.function(tf.transpose)(tf.zeros([2, 2, 2], tf.uint8), [1, 0, 2])


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Show what C code writes to standard error meanwhile only where something fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:  # not KeyboardInterrupt, which is not a failure
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
