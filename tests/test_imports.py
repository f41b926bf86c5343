"""Imports run one way (app.py -> page -> model <- train), without circles, and start nothing.

torch is imported only when something computes. Files, classes and functions are short enough to be read.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import model

ROOT = Path(__file__).parent.parent
PATHS = [
    ROOT / "app.py",
    *(path for part in ("page", "model", "train") for path in sorted(ROOT.glob(f"{part}/**/*.py"))),
]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in PATHS}
LAZY = {f"model.{name}": f"model.{home}" for name, home in model._MODULES.items()}
FORBIDDEN = {
    "app": {"train"},
    "page": {"train", "app"},
    "model": {"train", "app", "page", "gradio"},
    "train": {"app", "page", "gradio"},
}
# When it is imported, a module may define, assign, and make these calls.
ON_IMPORT = {"os.environ.setdefault"}

each_module = pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))


def imported(source: str) -> set[str]:
    """The dotted names that a source imports or runs with `-m`, including imports in functions and for types only."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.List | ast.Tuple):
            words = [each.value if isinstance(each, ast.Constant) else None for each in node.elts]
            names |= {f"{name}.__main__" for flag, name in pairwise(words) if flag == "-m"}
    return names


@cache
def neighbours(name: str) -> set[str]:
    """The other modules of this project that a module imports or runs."""
    found = set()
    for other in imported(MODULES[name].read_text()):
        other = LAZY.get(other, other)
        while other and other not in MODULES:  # a name in a module, a package without __main__, or another project
            other = other.rpartition(".")[0]
        found |= {other} - {"", name}
    return found


def circle(name: str) -> str:
    """The shortest circle of imports through a module; an empty string if there is none."""
    ways = [[name]]
    seen = set()
    for way in ways:  # grows inside the loop
        for other in sorted(neighbours(way[-1])):
            if other == name:
                return " -> ".join([*way, name])
            if other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return ""


@each_module
def test_imports_run_one_way(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert {name.split(".")[0] for name in imported(path.read_text())} & FORBIDDEN[part] == set()


@pytest.mark.parametrize("name", MODULES)
def test_imports_make_no_circle(name: str) -> None:
    assert circle(name) == ""


def test_hidden_imports_are_seen() -> None:
    source = """
import os.path
from train.text import corpus, streams
if TYPE_CHECKING:
    from model.gpt import GPT
def run():
    import torch
    call([sys.executable, "-m", "train.export", folder], ("python", "-m", "train"), "python -m train.push", ["-m"])
"""
    names = {"os.path", "train.text.corpus", "train.text.streams", "model.gpt.GPT", "torch"}
    assert imported(source) == names | {"train.export.__main__", "train.__main__"}


@each_module
def test_files_classes_and_functions_are_short(path: Path) -> None:
    source = path.read_text()
    long = {path.name: lines} if (lines := len(source.splitlines())) > 300 else {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > (150 if isinstance(node, ast.ClassDef) else 60):
                long[node.name] = lines
    assert long == {}


@each_module
def test_a_module_only_defines(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            assert ast.unparse(node.value.func) in ON_IMPORT, f"line {node.lineno}"
        else:
            assert not isinstance(node, ast.For | ast.While | ast.With | ast.Try), f"line {node.lineno}"


def modules_after(code: str) -> set[str]:
    """The top-level modules that Python has imported after `code`."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_torch_waits_until_something_computes(tiny_artifact: Path) -> None:
    code = f"import model; storyteller = model.load({str(tiny_artifact)!r}); model.Sampling(), model.Vocab"
    loaded = modules_after(f"{code}; storyteller.prepare('Once')")
    assert loaded & {"torch", "gradio", "train"} == set()
    assert "torch" in modules_after(f"{code}; next(storyteller.tell('Once'))")


def test_importing_the_package_imports_little() -> None:
    assert modules_after("import model") & {"torch", "numpy", "safetensors"} == set()


def test_every_public_name_is_there() -> None:
    assert model.__all__
    for name in model.__all__:
        assert getattr(model, name) is getattr(import_module(LAZY[f"model.{name}"]), name)
    with pytest.raises(AttributeError, match="module 'model' has no attribute 'Teller'"):
        _ = model.Teller
