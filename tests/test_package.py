"""What may import what, and what an import costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import keras_resnet

ROOT = Path(keras_resnet.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# One way, upwards: each module may import what stands above it, and only what it needs.
NETWORK = {"spec", "recipe", "run", "analysis", "data", "model", "distribution", "replicas", "weights", "factories"}
TRAINING = {"schedule", "optimization", "bn_statistics", "checkpoint", "callbacks", "start"}
SERVING = {"fold", "serving", "serving_files", "card", "cpp_loader", "audit"}
VERBS = {"train", "evaluate", "export", "check", "predict", "diagnose"}
MAY_IMPORT = {
    "spec": set(),
    "recipe": {"spec"},
    "analysis": {"spec"},
    "run": {"spec", "recipe"},
    "tables": {"spec", "recipe", "analysis"},
    "data": set(),
    "model": {"spec"},
    "distribution": set(),
    "replicas": set(),
    "weights": {"spec", "model", "data"},
    "factories": {"spec", "model", "weights", "data"},
    "schedule": {"recipe"},
    "optimization": {"recipe", "schedule"},
    "bn_statistics": set(),
    "start": {"recipe", "run", "data", "weights"},
    "checkpoint": {"run"},
    "callbacks": {"checkpoint", "distribution", "run", "schedule"},
    "fold": {"model"},
    "serving": {"data"},
    "serving_files": set(),
    "card": {"data", "run", "serving_files"},
    "cpp_loader": set(),
    "audit": {"serving_files"},
    **dict.fromkeys(VERBS, NETWORK | TRAINING | SERVING),
    "search": NETWORK | TRAINING | VERBS,
    "report": NETWORK | TRAINING | VERBS,
    "cli": NETWORK | TRAINING | VERBS | {"search", "report", "tables"},
    "__main__": {"cli"},
    "__init__": set(),
}
ANYONE = {"__version__"}


def module(path):
    """The package of a file in one, such as `data`; else its name."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Dotted names that a file imports anywhere in it, relative ones spelled out."""
    package = ("keras_resnet", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            # `from . import data` names modules; `from .run import Run` names what is in one.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ours(path):
    """Modules of this package that a file imports from elsewhere than its own."""
    found = {name.split(".")[1] for name in imports(path) if name.startswith("keras_resnet.")}
    return found - ANYONE - {module(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    assert module(path) in MAY_IMPORT, "a new module needs its place in MAY_IMPORT"
    assert ours(path) <= MAY_IMPORT[module(path)]


def test_the_order_of_imports_has_no_circle():
    left = dict(MAY_IMPORT)
    while left:
        free = [name for name, needed in left.items() if not needed & left.keys()]
        assert free, f"these import each other: {sorted(left)}"
        for name in free:
            del left[name]


def test_the_imports_are_found():
    """The rules above hold trivially where nothing is read."""
    assert "spec" in ours(ROOT / "model.py")
    assert {"data", "distribution", "model", "recipe", "run"} <= ours(ROOT / "train.py")
    assert "keras_resnet.data.dataset.Dataset" in set(imports(ROOT / "data" / "digits.py"))
    assert {"train", "evaluate", "export", "predict"} <= ours(ROOT / "cli.py"), "inside functions too"


@pytest.mark.parametrize("name", ["spec", "recipe", "analysis"])
def test_plain_values_need_the_standard_library_only(name):
    foreign = {found.split(".")[0] for found in imports(ROOT / f"{name}.py")} - {"keras_resnet"}
    assert foreign
    assert foreign <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("library", "only"),
    [
        ("tyro", {"cli"}),
        ("keras_tuner", {"search"}),
        # What reads pictures from somewhere is a family of data sets.
        ("tensorflow_datasets", {"data"}),
        ("sklearn", {"data", "evaluate"}),
        ("h5py", {"weights"}),
        ("safetensors", {"weights"}),
    ],
)
def test_a_library_is_imported_in_one_place(library, only):
    users = {module(path) for path in FILES if library in {name.split(".")[0] for name in imports(path)}}
    assert users <= only


def test_the_command_line_is_made_by_tyro():
    assert "tyro" in set(imports(ROOT / "cli.py"))


def test_only_distribution_names_strategies():
    users = {
        module(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr.endswith("Strategy"))
        or (isinstance(node, ast.alias) and node.name.endswith("Strategy"))
    }
    assert users == {"distribution"}


def fresh(code):
    """Standard output of `code` in a process of its own; it must end well."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# TensorFlow takes seconds to import; the rest has no part in help, `list` and `show`.
HEAVY = ("tensorflow", "keras", "numpy", "sklearn", "scipy", "PIL", "tensorflow_datasets", "keras_tuner", "pygments")


@pytest.mark.parametrize(
    "code",
    [
        "import keras_resnet, keras_resnet.cli",
        "import keras_resnet; dir(keras_resnet); keras_resnet.NETWORKS, keras_resnet.ResNetSpec",
        "import keras_resnet; keras_resnet.RECIPES, keras_resnet.Recipe",
        "from keras_resnet.cli import main; assert main(['list']) == 0",
        "from keras_resnet.cli import main; assert main(['show', 'resnet34']) == 0",
        "from keras_resnet.cli import main; assert main(['show', 'resnet34', '--json']) == 0",
    ],
)
def test_what_does_not_compute_loads_no_tensorflow(code):
    loaded = fresh(f"{code}\nimport sys\nprint('loaded', *sys.modules)").rpartition("loaded ")[2].split()
    assert "keras_resnet" in loaded
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)


@pytest.mark.parametrize("name", keras_resnet.__all__)
def test_public_names_resolve(name):
    value = getattr(keras_resnet, name)
    assert value is not None
    assert name in dir(keras_resnet)


def test_public_names_are_those_of_their_modules():
    for name, home in keras_resnet._HOME.items():
        assert getattr(keras_resnet, name) is getattr(importlib.import_module(f"keras_resnet.{home}"), name)


def test_no_public_name_hides_a_module():
    """`keras_resnet.train` is the module, whether or not something has imported it."""
    assert not {path.stem for path in ROOT.iterdir()} & set(keras_resnet.__all__)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'keras_resnet'.*'ResNet19'"):
        _ = keras_resnet.ResNet19
    with pytest.raises(ImportError):
        from keras_resnet import ResNet19  # noqa: F401


def test_version():
    assert all(part.isdecimal() for part in keras_resnet.__version__.split(".")[:2])
