"""Messages of the library, in the words of the command line."""

import pytest

from keras_resnet.cli.flags import flags_of, with_flags
from keras_resnet.cli.parser import commands

VERBS = commands()


@pytest.mark.parametrize(
    ("verb", "message", "shown"),
    [
        (
            "train",
            "another process is training in runs/a; give another `run_dir`",
            "another process is training in runs/a; give another --run-dir",
        ),
        ("train", "batch_size is 100; 3 replicas", "--batch-size is 100; 3 replicas"),
        (
            "train",
            "epochs is None and steps is None; give exactly one of them",
            "--epochs is None and --steps is None; give exactly one of them",
        ),
        (
            "train",
            "weights is None, freeze is 'none' and head_epochs is 3; random weights",
            "--weights is None, --freeze is 'none' and --head-epochs is 3; random weights",
        ),
        # The network's fields, by either name.
        ("train", "spec.width is 0; give more", "--spec.width is 0; give more"),
        ("train", "stride_on is '5x5'; choose one", "--spec.stride-on is '5x5'; choose one"),
        ("show", "stride_on is '5x5'; choose one", "--stride-on is '5x5'; choose one"),
        ("train", "give a `spec.stride_on`", "give a --spec.stride-on"),
        # Only where the verb has such a flag.
        ("export", "give another `run_dir`", "give another `run_dir`"),
        ("evaluate", "trials is 0; give more", "trials is 0; give more"),
        ("check", "`run_dir` and batch_size is 3", "`run_dir` and batch_size is 3"),
        # Flags that have another name than the library's argument.
        ("search", "give another `directory`", "give another --run-dir"),
        ("export", "directory is '/'; give another", "--to is '/'; give another"),
        ("evaluate", "`data` has no labels", "--dataset has no labels"),
        # Other words stay.
        ("train", "runs/a: `keras-resnet train runs/a` resumes it", None),
        ("train", "the learning_rate is high", None),
        ("train", "a loss of nan; what seed is used", None),
        ("train", "/data/seed is not a folder", None),
    ],
)
def test_arguments_become_flags(verb, message, shown):
    assert with_flags(message, flags_of(verb, VERBS[verb])) == (shown or message)


@pytest.mark.parametrize("verb", VERBS)
def test_each_flag_exists(verb, capsys):
    """Those that messages are given are those that the help names."""
    from keras_resnet.cli.commands import main

    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    flags = flags_of(verb, VERBS[verb])
    assert flags or verb == "check"
    for flag in flags.values():
        assert f"{flag} " in shown or f"{flag}," in shown or f"{flag}\n" in shown
