"""Each benchmark, at its smallest."""

import json
import re
from collections import Counter
from importlib import import_module
from pathlib import Path
from shutil import copy

import pytest

from dovetail import recipe as recipes

pytestmark = pytest.mark.usefixtures("benchmarks")


FEW = ("renderer", "wrong caption", "confiner 4+5", "only S 4+5", "only T 4+5", "T-S 4+5", "temporal 100")


def tables(folder: Path, verb: str, *more: str) -> None:
    import confiner_tables

    confiner_tables.main([verb, "--experts", "exact", "--frames", "3", "--results", str(folder), *more])


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "confiner-exact.jsonl").read_text().splitlines()]


def test_tables_resume_and_report(tmp_path, capsys):
    asked = ("--prompts", "2", "--only", *FEW[:4])
    tables(tmp_path, "run", *asked)
    made = lines(tmp_path)
    assert [(line["row"], line["prompt"]) for line in made] == [(row, p) for p in range(2) for row in FEW[:4]]
    # Killed in the middle of a line: that one is made again, the others are not.
    file = tmp_path / "confiner-exact.jsonl"
    text = file.read_text()
    file.write_text(text[: -len(text.splitlines()[-1]) // 2])
    tables(tmp_path, "run", *asked)
    kept = [line for line in file.read_text().splitlines() if line.endswith("}")]
    assert kept[:-1] == text.splitlines()[:-1]
    again, before = json.loads(kept[-1]), made[-1]
    assert (again["row"], again["scores"], again["calls"]) == (before["row"], before["scores"], before["calls"])
    report = (tmp_path / "confiner-exact.txt").read_text()
    assert "EXACT experts" in report
    assert "renderer" in report
    assert capsys.readouterr().out.endswith(report + "\n")


def test_questions_are_answered(tmp_path):
    tables(tmp_path, "run", "--prompts", "1", "--only", *FEW)
    report = (tmp_path / "confiner-exact.txt").read_text()
    assert "control 4, spatial 10, temporal 5" in report
    for question in ("only-spatial lose", "only-temporal lose", "non-inferior", "9 steps beat", "'T-S 4+5'"):
        assert question in report
    assert "too few prompts" in report
    by_row = {line["row"]: line["scores"] for line in lines(tmp_path)}
    assert by_row["renderer"]["prompt"] == 1.0
    assert by_row["wrong caption"]["prompt"] < 1.0
    assert by_row["confiner 4+5"]["sharpness"] > by_row["only T 4+5"]["sharpness"] + 0.1


def test_parts_share_the_prompts_between_them(tmp_path):
    for part in ("0/2", "1/2"):
        tables(tmp_path, "run", "--prompts", "5", "--part", part, "--only", "renderer")
    assert sorted(line["prompt"] for line in lines(tmp_path)) == [0, 1, 2, 3, 4]
    assert [line["prompt"] for line in lines(tmp_path)] == [0, 1, 4, 2, 3]


def test_a_spent_budget_makes_nothing(tmp_path, capsys):
    tables(tmp_path, "run", "--prompts", "1", "--budget", "0")
    assert "budget spent: 0 of" in capsys.readouterr().out
    assert not (tmp_path / "confiner-exact.jsonl").exists()


def test_verdicts_follow_from_the_numbers():
    """Planted: S switches identities, T is dull, ConFiner is as good as the better one on all but texture."""
    from report import answers

    def row(**scores):
        return {
            (p, 0): {"scores": {name: value + 0.001 * (p % 3) for name, value in scores.items()}} for p in range(12)
        }

    shared = {"smoothness_of_motion": 0.5, "motion_smoothness": 0.9, "imaging_quality": 0.1}
    rows = {
        "confiner 4+5": row(identity=0.99, sharpness=1.0, texture=0.7, **shared),
        "only S 4+5": row(identity=0.8, sharpness=1.0, texture=1.0, **shared),
        "only T 4+5": row(identity=0.99, sharpness=0.6, texture=0.5, **shared),
        "temporal 100": row(identity=0.98, sharpness=0.6, texture=0.5, **shared),
    }
    rows |= {f"open {name}": row(identity=0.9, **shared) for name in ("confiner 4+5", "only S 4+5", "only T 4+5")}
    rows["open only S 4+5"] = row(identity=0.5, **shared)
    said = answers(rows, "exact").splitlines()

    def verdict(question: str, measure: str) -> str:
        at = next(i for i, line in enumerate(said) if question in line)
        return next(line for line in said[at + 1 :] if line.strip().startswith(measure)).rpartition(": ")[2]

    assert verdict("only-spatial lose", "identity") == "yes, worse"
    assert verdict("only-spatial lose", "smoothness_of_motion") == "no difference seen"
    assert verdict("only-temporal lose", "sharpness") == "yes, worse"
    assert verdict("non-inferior", "identity") == "yes"
    assert verdict("non-inferior", "texture") == "no"
    assert verdict("non-inferior", "smoothness_of_motion") == "no span to speak of, so no answer"
    assert verdict("(open 4+5; only S", "identity") == "yes, worse"
    assert verdict("(open 4+5; share", "identity") == "yes"
    assert verdict("9 steps beat", "sharpness") == "yes, sharper"
    assert verdict("9 steps beat", "identity") == "kept"


def test_every_row_is_a_recipe_of_its_own():
    from confiner_tables import fingerprints
    from methods import CHEAPER, CORE, OPEN, rows

    from dovetail import recipe as recipes

    for name in ("sprites", "sprites-exact"):
        made = rows(recipes.load(name))
        assert {*CHEAPER, *CORE} <= made.keys()
        told = {name: recipe for name, recipe in made.items() if not name.startswith(OPEN)}
        assert len({recipes.dump(recipe) for recipe in told.values()}) == len(told)
        assert len({key for row, key in fingerprints(recipes.load(name)).items() if row in made}) == len(made)
    base = recipes.load("sprites")
    assert rows(base)["confiner 4+5"] == base
    assert rows(base)["confiner 8+10"].chain == recipes.load("sprites-18").chain
    assert rows(base)["S-T then S 4+5"].chain == recipes.load("sprites-lighter").chain
    assert rows(base)["only T 4+5"].chain == recipes.load("sprites-only-temporal").chain


def test_a_median_has_an_interval():
    from overhead import middle

    found = middle([1.0, 1.01, 1.02, 1.0, 3.0, 0.99, 1.01, 1.0, 1.02])
    assert found.value == 1.01
    assert 0.99 <= found.low <= 1.01 <= found.high <= 1.02
    assert middle([2.0]) == type(found)(2.0, 2.0, 2.0)


def test_overhead_of_exact_experts(capsys):
    import overhead

    overhead.main(["--experts", "exact", "--rounds", "1", "--frames", "2"])
    assert "inside networks: 0." in capsys.readouterr().out


@pytest.mark.slow
def test_overhead_against_the_stock_pipelines(capsys, recwarn):
    import overhead

    overhead.main(["--experts", "random", "--rounds", "1", "--steps", "2", "--frames", "2"])
    said = capsys.readouterr().out
    assert "AnimateDiffPipeline" in said
    assert "TextToVideoSDPipeline" in said
    assert "LSL, 2 switches" in said
    assert "interleaved, 17 switches" in said


@pytest.mark.slow
def test_demo_is_measured(capsys):
    import demo

    demo.main(["--recipe", "sprites-exact", "--rounds", "1", "--threads", "1"])
    assert "peak_megabytes  median" in capsys.readouterr().out


def test_a_key_knows_what_is_set_and_nothing_else() -> None:
    from harness import told

    from dovetail import recipe as recipes

    recipe = recipes.load("sprites")
    assert "null" not in told(recipe)
    assert '"seed": 0' in told(recipe)
    other = recipes.changed(recipe, {"chain.refine.denoise.coordinated.noise": "fixed"})
    assert told(other) != told(recipe)
    assert told(recipes.changed(recipe, {"about": "The same."})) == told(recipe)


def test_takes_are_seen_and_reported(tmp_path, capsys):
    import takes

    asked = ("--experts", "exact", "--takes", "2", "--results", str(tmp_path))
    takes.main(["run", "--prompts", "1", *asked])
    file = tmp_path / "takes-exact.jsonl"
    before = file.read_text()
    takes.main(["run", "--prompts", "2", *asked])
    assert file.read_text().startswith(before)
    made = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["prompt"], len(line["takes"])) for line in made] == [(0, 2), (1, 2)]
    assert all({"prompt", "presence", "right"} <= take["scores"].keys() for line in made for take in line["takes"])
    report = (tmp_path / "takes-exact.txt").read_text()
    assert "EXACT experts" in report
    assert "clip: is 'best of 2' better than 'any'?" in report
    assert capsys.readouterr().out.endswith(report + "\n")


def test_the_report_of_takes_counts_pairs_and_chooses_by_evidence():
    import takes_report

    def take(evidence, right):
        return {"evidence": evidence, "scores": {"prompt": right, "presence": 1.0, "right": right}}

    takes = [[take(1.0, 0.0), take(2.0, 1.0)], [take(2.0, 0.0), take(1.0, 1.0)], [take(1.0, 1.0), take(3.0, 1.0)]]
    lines = [{"row": "clip", "prompt": i, "machine": "it", "takes": each} for i, each in enumerate(takes)]
    text = takes_report.report(lines, "trained")
    assert "ranked first in 0.500" in text
    assert "(2 prompts that have both)" in text
    ways = takes_report.clips(lines)
    assert [ways["best of 2"][i, 0]["right"] for i in range(3)] == [1.0, 0.0, 1.0]
    assert [ways["any"][i, 0]["right"] for i in range(3)] == [0.5, 0.5, 1.0]
    assert [ways["ideal"][i, 0]["right"] for i in range(3)] == [1.0, 1.0, 1.0]


# --- what results say --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "experts"), [("long", "trained"), ("syncos", "trained"), ("syncos", "exact"), ("takes", "trained")]
)
def test_reports_are_what_todays_recipes_make_of_the_lines(module: str, experts: str, tmp_path: Path) -> None:
    """A line counts as long as its recipe, weights and measures are those of today. A field that is new in recipes and has
    a default other than none makes all of them old."""
    kept = ROOT / "benchmarks" / "results"
    copy(kept / f"{module}-{experts}.jsonl", tmp_path)
    import_module(module).main(["report", "--experts", experts, "--results", str(tmp_path)])
    assert (tmp_path / f"{module}-{experts}.txt").read_text() == (kept / f"{module}-{experts}.txt").read_text()


def test_rows_of_the_long_table_are_of_todays_recipes() -> None:
    """The quick half of the above."""
    from harness import read
    from long import keys
    from long_rows import LONG, rows

    known = keys(rows(recipes.load("sprites-long")), LONG)
    results = ROOT / "benchmarks" / "results"
    lines = Counter(
        line["row"] for line in read(results / "long-trained.jsonl") if line["key"] == known.get(line["row"])
    )
    table = (results / "long-trained.txt").read_text().partition("What keeps")[2].partition("\n\n")[0]
    shown = {match[1]: int(match[2]) for match in re.finditer(r"^(\S.*? \d+) +(\d+)  ", table, re.MULTILINE)}
    assert shown == lines
    assert len(shown) > 10


# --- what pages quote of results ---------------------------------------------------------------------------------


NUMBER = r"(-?\d*\.\d+)"
QUOTED = re.compile(rf"{NUMBER} \[\s*{NUMBER},\s+{NUMBER}\]")
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "methods").glob("*.md")]


def quoted(page: Path) -> set[tuple[str, ...]]:
    """Every figure with an interval on a page, line breaks or not."""
    return {match.groups() for match in QUOTED.finditer(" ".join(page.read_text(encoding="utf-8").split()))}


def test_figures_with_intervals_stand_in_results() -> None:
    """Rounded, or with the other sign. The log and the decisions keep those of their day."""
    results = {
        tuple(map(float, each)) for path in (ROOT / "benchmarks" / "results").glob("*.txt") for each in quoted(path)
    }
    known = results | {(-mean, -high, -low) for mean, low, high in results}
    pages = {page: quoted(page) for page in PAGES if page.name != "log.md"}
    assert sum(map(len, pages.values())) > 100

    def stands(figure: tuple[str, ...]) -> bool:
        places = [len(each.partition(".")[2]) for each in figure]
        near = [(float(each), 0.501 * 10**-n) for each, n in zip(figure, places, strict=True)]
        return any(all(abs(a - b) <= off for (a, off), b in zip(near, each, strict=True)) for each in known)

    assert [(page.name, each) for page, all_ in pages.items() for each in all_ if not stands(each)] == []
