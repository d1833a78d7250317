"""FlowBlending's benchmark at its smallest, and its verdicts over planted numbers."""

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dovetail import recipe as recipes
from dovetail.core.ladders import shifted

pytestmark = pytest.mark.usefixtures("benchmarks")

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


TINY = (
    "video.frames=3",
    "experts.large.candidates=24",
    "experts.small.candidates=6",
    "chain.0.ladder={shifted: {steps: 6, shift: 3.0}}",
)
FEW = ("LLL", "SSS", "other seed", "nudged", "LSL budget", "interleaved", "euler: LLL")


def harness(folder: Path, verb: str, *more: str) -> None:
    import flowblending

    sets = [word for change in TINY for word in ("--set", change)]
    flowblending.main([verb, "--experts", "exact", "--calibrate", "2", "--results", str(folder), *sets, *more])


def lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / "flowblending-exact.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def test_it_calibrates_makes_videos_resumes_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harness(tmp_path, "run", "--prompts", "1", "--budget", "0")
    assert "not calibrated yet: budget spent" in capsys.readouterr().out
    assert lines(tmp_path) == []
    harness(tmp_path, "run", "--prompts", "1", "--only", *FEW)
    made = lines(tmp_path)
    assert len({line["way"] for line in made}) == len(made)
    ways = {line["way"]: line for line in made}
    whole = ways["unipc aaaaaa"]
    assert whole["scores"]["psnr"] == 50
    assert whole["scores"]["agreement"] == pytest.approx(1)
    assert ways["unipc aaaaaa other seed"]["scores"]["psnr"] < ways["unipc aaaaaa nudged"]["scores"]["psnr"]
    small = next(line for way, line in ways.items() if len(set(way.split()[1])) == 1 and way.split()[1][0] != "a")
    assert small["flops"] < whole["flops"]
    assert {"prompt", "identity", "sharpness"} <= whole["scores"].keys()
    # Killed in the middle of a line: that one is made again, the others are not.
    file = tmp_path / "flowblending-exact.jsonl"
    text = file.read_text()
    file.write_text(text[: -len(text.splitlines()[-1]) // 2])
    harness(tmp_path, "run", "--prompts", "1", "--only", *FEW)
    kept = [line for line in file.read_text().splitlines() if line.endswith("}")]
    assert kept[:-1] == text.splitlines()[:-1]
    assert json.loads(kept[-1])["way"] == made[-1]["way"]
    assert json.loads(kept[-1])["scores"] == made[-1]["scores"]
    report = (tmp_path / "flowblending-exact.txt").read_text()
    for said in (
        "EXACT experts",
        "U-shaped in",
        "the fit's joints",
        "from 2 prompts to calibrate with, drawn anew",
        "the faster half",
        "half as long",
        "LSL budget",
        "\nsweep ",
        "unipc, 4 steps",
    ):
        assert said in report
    assert "too few prompts" in report
    assert (tmp_path / "flowblending-exact" / "curves.png").is_file()
    # A report measures nothing, and needs nothing measured anew.
    (tmp_path / "flowblending-exact.txt").unlink()
    harness(tmp_path, "report")
    assert (tmp_path / "flowblending-exact.txt").read_text() == report


def test_parts_measure_their_own_prompts_first_and_the_same_in_all() -> None:
    import flowblending

    whole = flowblending.asked("moving", 5)
    parts = [flowblending.shared("moving", 5, (k, 2)) for k in range(2)]
    assert all(set(part) == set(whole) for part in parts)
    assert parts[0][0] == whole[0]
    assert parts[1][0] == whole[2]


def calibration(**choices: tuple[int, ...]) -> Any:
    """Two candidates over ten steps; what rows need of a calibration."""
    from dovetail.calibrate.choose import Schedule

    errors = [[0.0] * 10, [0.1] * 10]
    case = SimpleNamespace(names=("large", "small"), costs=(10.0, 1.0), follows={})
    made = {rule: Schedule.of(choice, case.costs, errors) for rule, choice in choices.items()}
    return SimpleNamespace(case=case, choices=made, ladder=shifted(10, 3.0), weighted={"small": errors[1]})


BLEND = (0, 0, 0, 1, 1, 1, 1, 1, 0, 0)


def test_rows_at_equal_operations_and_every_boundary() -> None:
    from flowblending_rows import rows

    one = calibration(budget=BLEND, fit=BLEND)
    made = rows({"unipc": one, "euler": one}, 3)
    assert made["LSL budget"].choice == BLEND
    assert [made[f"search {early}+{5 - early}"].choice.count(0) for early in range(6)] == [5] * 6
    assert made["search 3+2"] == made["LSL fit"] == made["LSL budget"]
    assert made["LSS"] == made["search 5+0"]
    assert made["SLL"] == made["search 0+5"]
    assert {made[name].choice.count(0) for name in ("LSS", "SLL", "random", "interleaved")} == {5}
    assert made["random"] != rows({"unipc": one, "euler": one}, 4)["random"]
    taken = [k for k, place in enumerate(made["interleaved"].choice) if place == 0]
    assert {b - a for a, b in itertools.pairwise(taken)} == {2}, "by turns"
    assert made["euler: LLL"].name == "euler aaaaaaaaaa"
    assert made["nudged"].name == "unipc aaaaaaaaaa nudged"
    assert made["any schedule 0.55"].choice.count(0) <= 5, "no dearer than one interval"
    assert made["LDL"].distilled == (3, 2)
    above = sum(t > 0.875 for t in one.ladder.levels[:-1])
    assert made["LSS at 0.875"].choice == (0,) * above + (1,) * (10 - above)
    assert made["LDL"].name == "unipc LDL 3+2"
    paid = sum((10.0, 1.0)[place] for place in made["one interval 0.55"].choice)
    assert (made["fewer steps 0.55"].choice, paid) == ((0,) * 5, 55.0), "no more than is paid for, and no step more"
    assert "LSL sweep" not in made
    few = rows({"unipc": one, "euler": one}, 3, calibration(budget=(0, 0, 1, 1, 1, 1, 0)))
    assert few.keys() - made.keys() == {"LSL budget, 10 steps", "any schedule 0.55, 10 steps"}
    assert few["LSL budget, 10 steps"].choice == (0, 0, 1, 1, 1, 1, 0)
    assert rows({"unipc": calibration(budget=BLEND, sweep=BLEND), "euler": one}, 3)["LSL sweep"].choice == BLEND


def test_the_large_expert_may_take_fewer_steps_of_the_same_ladder() -> None:
    import flowblending
    from confiner_tables import Cell
    from flowblending_rows import Way

    from dovetail import recipe as recipes
    from dovetail import run
    from dovetail.calibrate.candidates import case_of

    recipe = recipes.changed(recipes.load("sprites-flowblending-exact"), TINY)
    cast = run.load(recipe)
    case = case_of(recipe, cast)
    stand = flowblending.Stand(case, cast, Cell(0, 0))
    assert stand.in_steps(3).stage.ladder.levels == pytest.approx((1.0, 6 / 7, 0.6, 0.0))
    found = stand.made(Way("unipc", (0, 0, 0)))
    assert found["flops"] == 3 * case.costs[0]
    assert found["scores"]["psnr"] < 50
    blended = stand.made(Way("unipc", (0, 1, 0)))
    assert blended["flops"] == 2 * case.costs[0] + case.costs[1]
    assert blended["scores"]["psnr"] < 50


def test_a_distilled_expert_stands_between_as_many_large_steps() -> None:
    import flowblending
    from confiner_tables import Cell
    from flowblending_rows import Way

    from dovetail import recipe as recipes
    from dovetail import run
    from dovetail.calibrate.candidates import case_of

    recipe = recipes.changed(recipes.load("sprites-flowblending"), {"video.frames": 3})
    cast = run.load(recipe)
    case = case_of(recipe, cast)
    stand = flowblending.Stand(case, cast, Cell(0, 0))
    stage, flops = stand.between(4, 5)
    assert stage.ladder.levels[4:8] == pytest.approx((12 / 13, 0.9, 0.75, 0.5))  # handed over, its own two, handed back
    assert stage.ladder.steps == 4 + 3 + 5
    assert flops == pytest.approx(9 * case.costs[0] + 3 * case.costs[1] / 2)  # without guidance
    nudged, other = stand.start("nudged"), stand.start("other seed")
    x = stand.start("")
    assert float((nudged - x).norm() / x.norm()) == pytest.approx(0.01, rel=0.02)
    assert float(nudged.std()) == pytest.approx(float(x.std()), rel=0.01)
    assert float((other * x).mean().abs()) < 0.1, "another noise"
    assert (flowblending.Stand(case, cast, Cell(1, 0)).start("other seed") != other).any(), "and for each cell its own"
    found = stand.made(Way("unipc", (), distilled=(4, 5)))
    assert found["flops"] == flops
    assert 0 < found["scores"]["psnr"] < 50


def planted(**values: dict[str, float]) -> dict[str, Any]:
    """Rows whose numbers wiggle a little from prompt to prompt, all in the same way."""

    def row(numbers: dict[str, float]) -> dict[tuple[int, int], Any]:
        found = {}
        for p in range(12):
            moved = {name: value * (1 + 0.001 * (p % 3)) for name, value in numbers.items()}
            facts = {name: moved.pop(name) for name in ("flops", "seconds", "clock")}
            line = {"way": "unipc aaasssssaa", "prompt": p, "seed": 0, "machine": "m"}
            found[p, 0] = {**line, "scores": moved, **facts}
        return found

    return {name.replace("_", " "): row(numbers) for name, numbers in values.items()}


def test_verdicts_follow_from_the_numbers() -> None:
    from flowblending_report import as_good, column, dominates, placed, regret, videos

    def numbers(psnr: float, sharp: float, flops: float, seconds: float) -> dict[str, float]:
        shown = {"psnr": psnr, "agreement": psnr / 50, "prompt": 0.9, "identity": sharp, "sharpness": sharp}
        return {**shown, "flops": flops, "seconds": seconds, "clock": seconds}

    table = planted(
        LLL=numbers(50, 1.0, 100, 10.0),
        SSS=numbers(20, 0.5, 10, 2.0),
        other_seed=numbers(10, 1.0, 100, 10),
        nudged=numbers(30, 1.0, 100, 10),
        LSL_budget=numbers(28, 0.98, 50, 6.0),
        LSS=numbers(25, 0.7, 50, 6.0),
        interleaved=numbers(29, 0.98, 50, 6.6),
    )
    table |= {
        f"search {i}+{5 - i}": row
        for i, row in enumerate(
            planted(
                a=numbers(20, 1, 50, 6),
                b=numbers(21, 1, 50, 6),
                c=numbers(29, 1, 50, 6),
                d=numbers(28, 1, 50, 6),
                e=numbers(25, 1, 50, 6),
                f=numbers(25, 1, 50, 6),
            ).values()
        )
    }

    assert max(column(table["LLL"], "prompt").values()) < 1, "what was right of the prompt, not its number"

    def said(claims: list[Any], begins: str) -> str:
        return next(claim.verdict for claim in claims if claim.text.startswith(begins))

    good = as_good(table, "LSL budget")
    assert said(good, "operations saved") == "yes"
    assert said(good, "times faster, on its core") == "yes"
    assert said(good, "sharpness: lacks") == "yes"
    assert said(good, "psnr, normalised") == "yes"
    assert said(good, "prompt: LLL - SSS") == "SSS is not seen to be worse, so no answer"
    worse = as_good(table, "LSS")
    assert said(worse, "sharpness: lacks") == "no"
    assert said(worse, "psnr, normalised") == "no"
    both = placed(table, "LSL budget", ("LSS", "interleaved"))
    assert said(both, "LSS: psnr") == "better"
    assert said(both, "interleaved: psnr") == "worse"
    assert said(both, "interleaved: prompt") == "no difference seen"
    # What was made beside other work has no seconds, and is asked for none.
    busy = {
        cell: {key: line[key] for key in line if key not in ("seconds", "clock")} for cell, line in table["LSS"].items()
    }
    assert not any("times faster" in claim.text for claim in as_good({**table, "LSS": busy}, "LSS"))
    shown = {line.split()[0]: line for line in videos("t", {**table, "LSS": busy}).splitlines()}
    assert ("  -  " in shown["LSS"], "  -  " in shown["interleaved"]) == (True, False)
    agreement, lacks = regret(table, "", 5)
    assert agreement.text.startswith("agreement: lacks")
    assert "the best of 6 is search 2+3" in lacks.text
    assert "(the worst lacks 0.300)" in lacks.text
    assert lacks.verdict == "yes"
    far = table | {"LSL budget": table["search 4+1"]}
    assert regret(far, "", 5)[1].verdict == "no"
    table |= {"one interval 0.4": table["LSS"], "any schedule 0.4": table["LSL budget"]}
    assert dominates(table)[0].verdict == "yes"
    table["any schedule 0.4"] = table["search 0+5"]
    assert dominates(table)[0].verdict == "no, worse"
    table["any schedule 0.4"] = planted(x=numbers(45, 1, 55, 6))["x"]
    assert dominates(table)[0].verdict == "not shown", "it costs more"


def test_curves_are_called_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import flowblending_report
    from flowblending_report import Study, boundaries, divergence

    monkeypatch.setattr(flowblending_report, "DRAWS", 5)
    levels = tuple(1 - k / 12 for k in range(12))
    valley = [1.0, 0.9, 0.8, 0.3, 0.1, 0.05, 0.05, 0.1, 0.3, 0.8, 0.9, 1.0]
    rising = [0.01 * 1.5**k for k in range(12)]
    late = [0.02, 0.1, 0.5, 1.0, 0.5, 0.2, 0.1, 0.1, 0.2, 0.5, 1.0, 1.2]
    curves = {"velocity": valley, "video": rising, "v": late, "left in the video": [1.0] * 3 + [0.1] * 6 + [1.0] * 3}
    study = Study("all", 4, levels, tuple(curves for _ in range(3)), (10.0, 1.0))
    said = divergence(study)
    assert "velocity: U-shaped; U-shaped in 100%" in said
    assert "video: not U-shaped (rises toward the video); U-shaped in 0%" in said
    assert "v: not U-shaped (neither rises nor falls; it is from 0.833 on)" in said
    # Of .55 of the operations six large steps can be paid, best where most is left.
    assert study.interval(study.middle("left in the video")) == (3, 3)
    table = boundaries({}, [study])
    assert "all" in table.splitlines()[-1]


def test_boundaries_are_held_against_the_best_of_other_ladders() -> None:
    """Two large steps above and one below, of eight, which is the best; of four there is one above, and it belongs below."""
    from flowblending_report import Study, carried

    whole = shifted(8, 3.0)
    found = SimpleNamespace(ladder=whole, choices={"budget": SimpleNamespace(choice=(0, 0, 1, 1, 1, 1, 1, 0))})
    left, few = [4.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0], [2.0, 3.0, 1.0, 4.0]
    ladders = {"own": (whole.levels[:-1], left), "few": (shifted(4, 3.0).levels[:-1], few)}
    own = {
        name: Study(name, 1, levels, ({"left in the video": each},), (10.0, 1.0))
        for name, (levels, each) in ladders.items()
    }
    said = [line.split() for line in carried(found, own).splitlines()[2:]]
    assert said[0] == ["own", "8", "3", "5.0000", "5.0000", "10.0000"]
    assert said[1] == ["few", "4", "1", "8.0000", "6.0000", "8.0000"]


@pytest.mark.weights
def test_boundaries_of_the_trained_pair_go_along_to_other_ladders_and_another_solver(tmp_path: Path) -> None:
    """Of 20 steps by UniPC, by the errors that were measured there: by Euler and in 14 steps they are the best, at another
    shift nearly so. The results have these."""
    import flowblending
    from flowblending_report import carried

    folder = Path(shutil.copytree(RESULTS / "flowblending-trained", tmp_path / "flowblending-trained"))
    recipe, all_, purse = recipes.load("sprites-flowblending"), (0, 1), flowblending.Purse(0)
    found = flowblending.calibrated(recipe, folder, 16, all_, purse)
    assert found is not None
    brief = flowblending.in_brief(recipe, found["unipc"].ladder.steps, folder, 16, all_, purse)
    assert brief is not None
    own = flowblending.ladders(recipe, found, brief, folder, 16, all_, purse)
    assert list(own) == ["unipc", "euler", "unipc, 14 steps", "unipc, shift 5"]
    said = carried(found["unipc"], own)
    assert said in (RESULTS / "flowblending-trained.txt").read_text()
    for line in said.splitlines()[2:]:
        left, best, worst = map(float, line.split()[-3:])
        assert left <= best + (0.25 if "shift" in line else 0.1) * (worst - best), line


def test_what_other_prompts_would_have_chosen() -> None:
    """Two kinds of prompts to calibrate with: of one the small expert belongs first, of the other in the middle."""
    from flowblending_report import Study, drawn_anew

    def one(psnr: float) -> dict[str, float]:
        return {"psnr": psnr, "agreement": psnr / 50, "flops": 1, "seconds": 1, "clock": 1}

    table = planted(LLL=one(50), SSS=one(10), **{f"search_{i}+{5 - i}": one(20 + 4 * i) for i in range(6)})
    table = {name.replace("_", " "): row for name, row in table.items()}
    first, between = [0.1] * 5 + [1.0] * 5, [1.0] * 4 + [0.1] * 5 + [1.0]
    study = Study("all", 1, (1.0,) * 10, ({"left in the video": first}, {"left in the video": between}), (10.0, 1.0))
    assert study.interval(first) == (0, 5)
    assert study.interval(between) == (4, 1)
    claims = drawn_anew(table, "", 5, study)
    assert [claim.text.partition(",")[0] for claim in claims] == ["agreement", "psnr"]
    assert "drawn anew 100 times" in claims[1].text
    assert "below 0.1 in 0%" not in claims[1].text, "search 4+1 lacks 4 of 40"


def test_a_span_the_wrong_way_round_is_no_span() -> None:
    from flowblending_report import inferiority

    def one(sharpness: float) -> dict[str, float]:
        return {"sharpness": sharpness, "flops": 1, "seconds": 1, "clock": 1}

    for value in (0.6, 0.8):
        table = planted(LLL=one(0.7), SSS=one(0.75), X=one(value))
        assert inferiority(table, "X", "sharpness").verdict == "SSS is not seen to be worse, so no answer"
    table = planted(LLL=one(0.75), SSS=one(0.65), X=one(0.745), Y=one(0.73))
    assert inferiority(table, "X", "sharpness").verdict == "yes"
    assert inferiority(table, "Y", "sharpness").verdict == "no", "the margin is a tenth of the span"


def test_a_difference_that_adjustment_takes_back_is_said_to_be_one() -> None:
    from harness import Claim, questions

    asked = [
        ("Which?", [Claim("a", "better", 0.04), Claim("b", "better", 0.001), Claim("c", "no difference seen", 0.9)])
    ]
    said = questions(asked, "{n} tests")
    assert "a, p 0.0800: better, not after Holm" in said
    assert "b, p 0.0030: better\n" in said
    assert said.endswith("c, p 0.9000: no difference seen")


def test_scenes_are_parted_by_how_fast_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flowblending
    from flowblending_report import Study

    from dovetail.calibrate.report import kept

    prompts = tuple("abcd")
    case = SimpleNamespace(digest="d", recipe=SimpleNamespace(video=SimpleNamespace(seed=0)))
    for prompt, speed in zip(prompts, (3.0, 1.0, 2.0, 4.0), strict=True):
        kept(tmp_path, "speed", "d", prompt, 0).write(speed)
    whole = Study("moving", 1, (1.0, 0.5), tuple({"velocity": [float(i)]} for i in range(4)), (10.0, 1.0))
    found: Any = SimpleNamespace(case=case)
    slower, faster = flowblending.paced(whole, found, tmp_path, prompts, flowblending.Purse(0))
    assert slower.name == "moving, the slower half: 1.50 px per frame"
    assert [curve["velocity"] for curve in slower.curves] == [[1.0], [2.0]]
    assert [curve["velocity"] for curve in faster.curves] == [[0.0], [3.0]]
