"""The structure of the package: who imports whom, who names what, and what an import costs."""

import ast
import configparser
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_resnet

ROOT = Path(keras_resnet.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A package may import those above it; those of one level do not import each other.
LEVELS = (
    {"archives", "choices", "figures", "files", "terminal"},
    {"data"},
    {"networks"},
    {"runs"},
    {"training"},
    {"evaluation"},
    {"serving"},
    {"tuning"},
    {"cli"},
    {"__main__"},
)


def package(path):
    """Return the package of a file, or the name of a file that is in none."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Yield the dotted names a file imports anywhere in it, relative ones spelled out."""
    parent = ("keras_resnet", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parent[: len(parent) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            # `from . import data` names modules; `from .run import Run` names what is in one.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def ours(path):
    """Return the packages of this project that a file imports, but for its own."""
    found = {name.split(".")[1] for name in imports(path) if name.startswith("keras_resnet.")}
    return found - {"__version__", package(path)}


@pytest.mark.parametrize("path", FILES[1:], ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    level = next(i for i, names in enumerate(LEVELS) if package(path) in names)
    assert ours(path) <= set().union(*LEVELS[:level])


@pytest.mark.parametrize("name", sorted(set().union(*LEVELS[1:]) - {"__main__"}))
def test_no_circles_within_a_package(name):
    files = {path.stem: path for path in FILES if package(path) == name}
    needs = {
        stem: {
            found.split(".")[2]
            for found in imports(path)
            if found.count(".") > 1 and found.split(".")[:2] == ["keras_resnet", name]
        }
        & files.keys() - {"__init__"}
        for stem, path in files.items()
    }
    while needs:
        free = [stem for stem, needed in needs.items() if not needed & needs.keys()]
        assert free, f"these import each other: {sorted(needs)}"
        for stem in free:
            del needs[stem]


def test_the_imports_are_found():
    """The rules above hold trivially where nothing is read."""
    assert FILES[0].name == "__init__.py" and FILES[0].parent == ROOT
    assert ours(ROOT / "networks" / "weights.py") == {"data"}
    assert {"data", "networks", "runs"} <= ours(ROOT / "training" / "train.py")
    assert "keras_resnet.data.dataset.Dataset" in set(imports(ROOT / "data" / "digits.py"))
    assert {"runs", "serving"} <= ours(ROOT / "cli" / "exports.py")
    assert {"training", "tuning"} <= ours(ROOT / "cli" / "trainings.py")


@pytest.mark.parametrize(
    "name", ["networks", "runs", "training", "evaluation", "serving", "tuning", "cli"]
)
def test_sub_packages_re_export_nothing(name):
    """So `keras_resnet.export` is the function while `keras_resnet/serving/export.py` exists."""
    body = tree(ROOT / name / "__init__.py").body
    assert all(isinstance(node, ast.Expr) for node in body), "a docstring and nothing else"


@pytest.mark.parametrize(
    "name",
    [
        "networks/spec",
        "networks/paper",
        "networks/summary",
        "runs/recipe",
        "runs/recipes",
        "choices",
    ],
)
def test_plain_values_need_the_standard_library_only(name):
    found = {module.split(".")[0] for module in imports(ROOT / f"{name}.py")}
    assert found
    assert found <= {"keras_resnet", *sys.stdlib_module_names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "only"),
    [
        ("tyro", {"cli"}),
        ("keras_tuner", {"tuning"}),
        # Every source of images is a data set.
        ("tensorflow_datasets", {"data"}),
        ("sklearn", {"data", "evaluation"}),
        ("scipy", {"runs", "evaluation"}),
        ("matplotlib", {"evaluation"}),
        ("jinja2", {"evaluation"}),
        ("h5py", {"networks"}),
        ("safetensors", {"networks"}),
    ],
)
def test_a_library_is_imported_in_one_place(library, only):
    users = {
        package(path) for path in FILES if library in {name.split(".")[0] for name in imports(path)}
    }
    assert users <= only


def test_the_wheel_has_every_file_that_is_read():
    """Such as the template of the report; setuptools packs what setup.cfg names beside modules."""
    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg")
    packed = {
        path
        for name, patterns in config["options.package_data"].items()
        for pattern in patterns.split()
        for path in ROOT.parent.joinpath(*name.split(".")).glob(pattern)
    }
    others = {
        path for path in ROOT.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert {path for path in others if path.name != "README.md"} == packed
    assert {ROOT / "evaluation" / f"{page}.html.jinja" for page in ("report", "explain")} < packed


def test_the_command_line_is_made_by_tyro():
    assert "tyro" in set(imports(ROOT / "cli" / "parser.py"))


def test_only_training_names_strategies():
    users = {
        package(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Attribute) and node.attr.endswith("Strategy"))
        or (isinstance(node, ast.alias) and node.name.endswith("Strategy"))
    }
    assert users == {"training"}


def strings(path):
    """Yield the string constants of a file, docstrings and the parts of f-strings included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


# A flag of ours has hyphens; those of TensorFlow Serving have underscores.
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z.-]*(?![\w.-])")


@pytest.mark.parametrize("path", FILES[1:], ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_command_line_mentions_flags(path):
    """The library names an argument in backticks, which `cli` turns into its flag."""
    if package(path) != "cli":
        assert [text for text in strings(path) if FLAG.search(text)] == []


@pytest.mark.parametrize("text", ["give another --run-dir", "--spec.width 8", "use --steps=9"])
def test_a_flag_is_recognized(text):
    assert FLAG.search(text)
    assert not FLAG.search("for a server with --enable_batching, a -- dash, and 1--2")


def test_no_module_starts_another():
    """Of the package; runtimes alone must run where TensorFlow's Python is not loaded."""
    starters = {
        str(path.relative_to(ROOT))
        for path in FILES
        if "subprocess" in imported(path) or "-m keras_resnet" in " ".join(strings(path))
    }
    assert starters == {"serving/child.py", "serving/cpp_loader.py", "serving/speed.py"}
    others = {"multiprocessing", "pty"}
    assert [name for name in starters if imported(ROOT / name) & others] == []


def imported(path):
    return {name.split(".")[0] for name in imports(path)}


def fresh(code):
    """Return the standard output of `code` in a process of its own, which must succeed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# TensorFlow takes seconds to import, and help, `list` and `show` need none of the others.
HEAVY = (
    "tensorflow",
    "keras",
    "numpy",
    "sklearn",
    "scipy",
    "PIL",
    "tensorflow_datasets",
    "keras_tuner",
    "pygments",
)


MAIN = "from keras_resnet.cli.commands import main"


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import keras_resnet",
        "import keras_resnet.cli.commands",
        "import keras_resnet; dir(keras_resnet); keras_resnet.NETWORKS, keras_resnet.ResNetSpec",
        "import keras_resnet; keras_resnet.RECIPES, keras_resnet.Recipe, keras_resnet.Run",
        f"{MAIN}; assert main(['list']) == 0",
        f"{MAIN}; assert main(['show', 'resnet34']) == 0",
        f"{MAIN}; assert main(['show', 'resnet34', '--json']) == 0",
        *(
            f"{MAIN}\ntry: main([{verb}'--help'])\nexcept SystemExit as end: assert not end.code"
            for verb in (
                "",
                *(f"'{verb}', " for verb in ("train", "evaluate", "export", "client", "search")),
            )
        ),
    ],
)
def test_what_does_not_compute_loads_no_tensorflow(code):
    loaded = (
        fresh(f"{code}\nimport sys\nprint('loaded', *sys.modules)").rpartition("loaded ")[2].split()
    )
    assert "keras_resnet" in loaded
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)


@pytest.mark.parametrize("name", keras_resnet.__all__)
def test_public_names_resolve(name):
    value = getattr(keras_resnet, name)
    assert value is not None
    assert name in dir(keras_resnet)


def test_public_names_are_those_of_their_modules():
    for name, home in keras_resnet._HOME.items():
        assert getattr(keras_resnet, name) is getattr(
            importlib.import_module(f"keras_resnet.{home}"), name
        )


VERBS = (
    "train",
    "evaluate",
    "compare",
    "report",
    "explain",
    "export",
    "check",
    "benchmark",
    "predict",
    "search",
)


def test_verbs_are_functions_whatever_was_imported():
    """Modules of the same names are in sub-packages, and do not take their place."""
    modules = [
        f"{path.relative_to(ROOT).with_suffix('')}".replace("/", ".")
        for path in FILES
        if path.stem in VERBS
    ]
    assert {"training.train", "evaluation.evaluate", "serving.export"} <= set(modules)
    for module in modules:
        importlib.import_module(f"keras_resnet.{module}")
    for verb in VERBS:
        assert inspect.isfunction(getattr(keras_resnet, verb))
        assert getattr(keras_resnet, verb).__name__ == verb
    assert keras_resnet.data is importlib.import_module("keras_resnet.data")


@pytest.mark.parametrize("name", [name for name in keras_resnet.__all__ if name[0] != "_"])
def test_public_functions_document_all_arguments(name):
    """A notebook shows the docstring: its `Args` name every argument."""
    value = getattr(keras_resnet, name)
    if not inspect.isfunction(value):
        return
    documented = inspect.getdoc(value)
    for argument in inspect.signature(value).parameters:
        assert re.search(rf"^ +\**{argument}:", documented, re.MULTILINE), argument


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'keras_resnet'.*'ResNet19'"):
        _ = keras_resnet.ResNet19
    with pytest.raises(ImportError):
        from keras_resnet import ResNet19  # noqa: F401


def test_version():
    assert all(part.isdecimal() for part in keras_resnet.__version__.split(".")[:2])
    citation = (ROOT.parent / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {keras_resnet.__version__}\n" in citation


SCRIPTS = [path for path in (ROOT.parent / "scripts").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "path",
    [path for path in SCRIPTS if path.suffix in (".sh", ".sbatch", ".yaml")],
    ids=lambda path: path.name,
)
def test_no_script_starts_python_on_the_working_directory(path):
    """`-c` and `-m` put it first on the path of imports, but for `-I` and `-P`."""
    text = re.sub(r"\s*\n\s*- ", " ", path.read_text(encoding="utf-8"))
    starts = re.findall(r'python[\d.]*"? +(-\w.*)', text)
    assert [start for start in starts if not re.match(r"-[IP] |-$|- ", start)] == []


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.suffix == ".py"],
                         ids=lambda path: path.name)  # fmt: skip
def test_no_python_script_spawns_on_the_working_directory(path):
    """A spawned process begins with `python -c`; `python FILE` has the folder of the file first."""
    text = path.read_text(encoding="utf-8")
    if "multiprocessing" in text:
        assert 'os.environ.setdefault("PYTHONSAFEPATH", "1")' in text
    assert all(line.split("sys.executable, ")[1].startswith(("__file__", '"-I"', '"-P"'))
               for line in text.splitlines() if "sys.executable, " in line)  # fmt: skip


def test_launching_workers_imports_nothing_from_the_working_directory(tmp_path):
    for name in ("json", "socket"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'w').close()")
    (tmp_path / "keras-resnet").write_text("#!/bin/sh\n")
    (tmp_path / "keras-resnet").chmod(0o755)
    for script in ("launch_local.sh", "search_local.sh"):
        subprocess.run(
            ["bash", ROOT.parent / "scripts" / script, "1", "recipe"],
            cwd=tmp_path,
            env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
            check=True,
        )
    assert not (tmp_path / "imported").exists()
