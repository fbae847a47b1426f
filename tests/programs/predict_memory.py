"""Predict the files of a folder, and print the peak of the resident memory in MB on the way."""

import re
import sys
from pathlib import Path

from keras_resnet.serving.predict import files_in, predict_each


def peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1000


target, folder, *numbers = sys.argv[1:]
for count, answer in enumerate(predict_each(Path(target), files_in([folder])), 1):
    assert "scores" in answer
    if str(count) in numbers:
        print(count, peak())
