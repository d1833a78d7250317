"""The architecture, read from the source: who may import whom."""

import ast
import sys
from pathlib import Path

import pytest

import dovetail

SOURCE = Path(dovetail.__file__).parent

BELOW: dict[str, set[str]] = {
    "errors": set(),
    "core": {"core"},
    "methods": {"methods", "core"},
    "experts": {"experts", "core"},
    "video": {"video", "core"},
    "sprites": {"sprites", "experts", "video", "core"},
    "recipe": {"recipe", "methods", "experts", "sprites", "core"},
    "eval": {"eval", "sprites", "video", "core"},
    "calibrate": {"calibrate", "costs", "run", "recipe", "methods", "experts", "sprites", "eval", "video", "core"},
    "costs": {"costs", "run", "recipe", "methods", "experts", "sprites", "core"},
    "run": {"run", "recipe", "methods", "experts", "sprites", "video", "core"},
    # Another way in beside the command: it writes recipes, and walks them with components in place of weights.
    "pipelines": {"pipelines", "run", "recipe", "experts", "core"},
}
"""What each part may import, beside the errors. The edges (the package itself, the command) may import all."""

CORE_MAY = {"torch", "einops", *sys.stdlib_module_names}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def code(tree: ast.Module) -> set[int]:
    """The lines that hold code: no docstrings, comments or blanks."""
    said = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return {node.lineno for node in ast.walk(tree) if hasattr(node, "lineno")} - said


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    used = {name.split(".")[1] for name in imports(path) if name.startswith("dovetail.")}
    if part(path) in BELOW:
        assert used <= BELOW[part(path)] | {"errors"}, f"{part(path)} may not import {used - BELOW[part(path)]}"


@pytest.mark.parametrize("path", [f for f in FILES if part(f) == "core"], ids=lambda path: path.name)
def test_the_core_is_mathematics(path):
    assert {name.split(".")[0] for name in imports(path)} <= CORE_MAY | {"dovetail"}


SPEAK_DIFFUSERS = {"experts", "pipelines"}
"""Experts are networks of diffusers; pipelines are pipelines of it, which nothing here imports (decision 22)."""


@pytest.mark.parametrize(
    "path", [f for f in FILES if part(f) not in SPEAK_DIFFUSERS], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_pretrained_networks_live_in_experts(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"diffusers", "transformers"}


@pytest.mark.parametrize("path", [f for f in FILES if part(f) == "methods"], ids=lambda path: path.name)
def test_a_method_fits_on_a_screen_and_names_its_paper(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body
    assert len(code(tree)) <= 80


def test_every_part_has_its_place():
    """A new folder or module beside these needs a line in the table above."""
    edges = {"__init__", "__main__", "cli"}
    assert {part(path) for path in FILES} <= BELOW.keys() | edges


def test_the_rules_can_be_broken(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("def later():\n    from dovetail.experts import loading\n    import diffusers.utils\n")
    assert imports(file) == {"dovetail.experts.loading", "diffusers.utils"}
