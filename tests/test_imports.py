"""Imports run one way (app.py -> page -> model <- train), do nothing, and bring torch in only where it computes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = [
    ROOT / "app.py",
    *(path for part in ("page", "model", "train") for path in sorted(ROOT.glob(f"{part}/**/*.py"))),
]
FORBIDDEN = {
    "app.py": {"train"},
    "page": {"train", "app"},
    "model": {"train", "app", "page", "gradio"},
    "train": {"app", "page", "gradio"},
}
# What a module may do when it is imported, apart from definitions: assignments, and these calls.
ON_IMPORT = {"os.environ.setdefault"}


def imported(path: Path) -> set[str]:
    """The top-level names of what a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    part = path.relative_to(ROOT).parts[0]
    assert imported(path) & FORBIDDEN[part] == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_only_defines(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            assert ast.unparse(node.value.func) in ON_IMPORT, f"line {node.lineno}"
        else:
            assert not isinstance(node, ast.For | ast.While | ast.With | ast.Try), f"line {node.lineno}"


def modules_after(code: str) -> set[str]:
    """The top-level modules that Python holds after `code`."""
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
    import model

    assert model.__all__
    for name in model.__all__:
        assert getattr(model, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'model' has no attribute 'Teller'"):
        _ = model.Teller
