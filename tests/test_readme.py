"""What the README shows, works: its Python, its commands, its recipe, its links and its file tree."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dovetail
from dovetail import cli, recipe
from dovetail.experts import FAMILIES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
WEIGHTS = ROOT / "src" / "dovetail" / "sprites" / "weights" / "control"
"""There once the trained experts are; until then they are played by exact ones."""


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def commands() -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for line in block("bash").splitlines()]
    assert all(words[0] == "dovetail" for words in lines)
    return [words[1:] for words in lines]


def exact(words: list[str]) -> list[str]:
    """The same command with exact experts in place of trained ones."""
    if words[0] not in ("generate", "refine", "takes") or "--from" in words:
        return words
    kept = ["sprites-exact" if word.startswith("sprites") else word for word in words]
    return kept if "-r" in kept else [*kept, "-r", "sprites-exact"]


def run_all(lines: list[list[str]]) -> list[str]:
    """Run commands one after another in the present folder; what they print."""
    said = []
    for words in lines:
        result = CliRunner().invoke(cli.app, words)
        assert result.exit_code == 0, (words, result.output)
        said.append(result.stdout)
    return said


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = block("python")
    assert source.count('recipe="sprites"') == 2
    left: dict[str, object] = {}
    exec(source.replace('recipe="sprites"', 'recipe="sprites-exact"'), left)
    assert isinstance(left["refined"], dovetail.Video)
    assert left["refined"].settings["calls"] == {"spatial": 10, "temporal": 5}
    assert (tmp_path / "out" / "circle.mp4").is_file()


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = commands()
    assert {words[0] for words in lines} == {
        "generate",
        "refine",
        "takes",
        "plan",
        "recipes",
        "words",
        "experts",
        "compare",
    }
    said = run_all([exact(words) for words in lines])
    assert (tmp_path / "out" / "rings-sheet.png").is_file()
    assert "refine: 10 steps" in said[-4]
    demo, again = (dovetail.video.read(tmp_path / "out" / f"{name}.mp4").frames for name in ("demo", "again"))
    assert (demo == again).all()


def test_every_option_of_the_tour_is_one() -> None:
    """As written, recipes included: each command is parsed, and each recipe with its changes is planned."""
    for words in commands():
        if words[0] == "generate" and "--from" not in words:
            name = words[words.index("-r") + 1] if "-r" in words else cli.DEFAULT
            changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            assert dovetail.plan(name, overrides=changes).counts


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the trained sprite experts are not here")
def test_the_tour_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_all(commands())
    exec(block("python"), {})


def test_the_recipes_of_published_weights_are_there() -> None:
    (section,) = re.findall(r"^## With real models\n(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([a-z]+\d*-[\w-]+)`", section)) - set(FAMILIES)
    assert len(named) >= 9
    assert named <= set(recipe.names())
    for line in re.findall(r"^    dovetail ([^#\n]*)", section, re.MULTILINE):
        words = shlex.split(line)
        assert words[:1] in (["doctor"], ["models"], ["generate"])
        assert words[-1] in {"doctor", *recipe.names()}


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link]
    assert len(links) > 10
    # The strip is a picture of what the trained experts make.
    missing = [link for link in links if not (ROOT / link).exists() and (link != "docs/strip.png" or WEIGHTS.is_dir())]
    assert not missing


def test_the_file_tree_is_the_package() -> None:
    (tree,) = re.findall(r"^    src/dovetail/\n(.*?)^    docs/", TEXT, re.MULTILINE | re.DOTALL)
    shown = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    there = {
        path.name
        for path in (ROOT / "src" / "dovetail").iterdir()
        if (path.is_dir() and path.name != "__pycache__") or (path.suffix == ".py" and not path.name.startswith("__"))
    }
    assert shown == there


def test_training_commands_name_scripts_and_options_that_are() -> None:
    """Training itself takes hours; that the page speaks of these scripts is checked by their text."""
    page = (ROOT / "training" / "README.md").read_text(encoding="utf-8")
    lines = [shlex.split(line) for line in re.findall(r"^python (.*)$", page, re.MULTILINE)]
    assert len(lines) > 8
    for script, *words in lines:
        source = (ROOT / script).read_text()
        assert all(f'add_argument("{word}"' in source for word in words if word.startswith("--")), (script, words)
    shown = set(re.findall(r"^\| `(\w+\.py)` \| [^|]+\|$", page, re.MULTILINE))
    assert shown >= {path.name for path in (ROOT / "training").glob("*.py")}


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\[\d{4}\]\(([^)]+)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("0*.md"))
