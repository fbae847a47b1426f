"""A SavedModel in TensorFlow's C++ session, which needs a process without Python TensorFlow."""

import os
import subprocess
import sys
import threading
import weakref
from multiprocessing.connection import Connection, Pipe

from keras_resnet.serving.cpp_loader import SavedModel


class Session:
    """A loaded SavedModel that answers one request at a time; its process ends with this object.

    Raises:
        ValueError: it cannot be loaded. The message is TensorFlow's.
    """

    def __init__(self, folder, endpoints):
        self._connection, other = Pipe()
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(other.fileno())],
            pass_fds=[other.fileno()],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        other.close()
        self._end = weakref.finalize(self, end, self._connection, process)
        self._one = threading.Lock()
        self._ask(str(folder), endpoints)

    def run(self, signature, inputs):
        """Return the output arrays by name.

        Raises:
            ValueError: the request fails. The message is TensorFlow's.
        """
        return self._ask(signature, inputs)

    def _ask(self, *request):
        with self._one:
            self._connection.send(request)
            answer = self._connection.recv()
        if isinstance(answer, str):
            raise ValueError(answer)
        return answer


def end(connection, process):
    connection.close()
    process.wait()


def main(descriptor):
    """Answer requests until the other end is closed."""
    with Connection(descriptor) as connection:
        model = None
        while True:
            try:
                first, second = connection.recv()
            except EOFError:
                return
            try:
                if model is None:
                    model, answer = SavedModel(first, second), {}
                else:
                    answer = model.run(first, second)
            except (ValueError, KeyError) as error:  # a dtype that it does not take is a key
                answer = str(error)
            connection.send(answer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
