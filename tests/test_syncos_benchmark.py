"""The benchmark of stories, at its smallest, and its verdicts over planted numbers."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from dovetail import recipe as recipes
from dovetail.methods.renoised import Renoised
from dovetail.methods.syncos import Coupled
from dovetail.sprites.world import DIRECTIONS, Ask, ask, render

pytestmark = pytest.mark.usefixtures("benchmarks")

TINY = (
    *("experts.video.candidates=8", "video.height=16", "video.width=16"),
    *("chain.video.ladder.shifted.steps=3", "chain.video.denoise.coupled.iterations=1"),
    "chain.video.denoise.coupled.stride=8",
)
FEW = ("renderer", "full", "gen-l-video", "fifo", "floor 0.9")
COUPLED = "chain.structure.denoise.coupled"


def harness(folder: Path, verb: str, *more: str) -> None:
    import syncos

    sets = [word for change in TINY for word in ("--set", change)]
    lengths = ("--main", "24", "--lengths", "24", "32")
    syncos.main([verb, "--experts", "exact", "--results", str(folder), *lengths, *sets, *more])


def lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / "syncos-exact.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def test_it_makes_videos_resumes_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harness(tmp_path, "run", "--prompts", "1", "--budget", "0")
    assert "budget spent: 0 of" in capsys.readouterr().out
    assert lines(tmp_path) == []
    asked = ("--prompts", "1", "--only", *FEW)
    harness(tmp_path, "run", *asked)
    made = lines(tmp_path)
    first = [f"{way} {frames}" for way, frames in
             (("renderer", 24), ("renderer", 32), ("fifo", 24), ("fifo", 32), ("full", 24), ("gen-l-video", 24), ("full", 32),
              ("gen-l-video", 32))]  # fmt: skip
    assert [line["row"] for line in made] == [*first, "floor 0.9 24"]
    assert {"order", "identity_whole", "event_prompt", "scenes", "whole"} <= made[2]["scores"].keys()
    assert made[4]["planned"]["video"] > made[5]["planned"]["video"]
    assert made[2]["calls"] == {"video": 32 + 4 * (24 + 32 - 16)}, "a clip, then clips that are walked in halves"
    # Killed in the middle of a line: that one is made again, the others are not.
    file = tmp_path / "syncos-exact.jsonl"
    text = file.read_text()
    file.write_text(text[: -len(text.splitlines()[-1]) // 2])
    harness(tmp_path, "run", *asked)
    kept = [line for line in file.read_text().splitlines() if line.endswith("}")]
    assert kept[:-1] == text.splitlines()[:-1]
    assert json.loads(kept[-1])["scores"] == made[-1]["scores"]
    report = (tmp_path / "syncos-exact.txt").read_text()
    for said in (
        "EXACT experts",
        "What keeps",
        "Sensitivity: floor",
        "Cost of one video",
        "Is more kept by full 24 than by",
        "too few",
    ):
        assert said in report
    assert (tmp_path / "syncos-exact.png").is_file(), "a picture, since length has two points"
    assert capsys.readouterr().out.endswith(report + "\n")


def test_a_report_of_nothing_writes_over_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results of another recipe are text of which nobody has the lines."""
    (tmp_path / "syncos-exact.txt").write_text("what was measured")
    harness(tmp_path, "report")
    assert "no results of this recipe" in capsys.readouterr().out
    assert (tmp_path / "syncos-exact.txt").read_text() == "what was measured"


def test_what_does_not_fit_is_said_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = (
        "--set",
        "chain.video.ladder={even: {steps: 2, start: 0.6}}",
        "--set",
        "chain.video.denoise.coupled.floor=0.5",
    )
    harness(tmp_path, "run", "--prompts", "1", "--only", "floor 0.9", *more)
    assert "floor 0.9 24 is left out: chain.video.denoise: coupled acts above floor 0.9" in capsys.readouterr().out
    assert lines(tmp_path) == []


# --- rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sprites-story", "sprites-syncos-exact"])
def test_every_row_is_a_recipe_of_its_own(name: str) -> None:
    from syncos_rows import AGAIN, AUTO, BASELINES, FAR, PAPER, PUBLISHED, SECOND, WHAT, rows

    import dovetail

    base = recipes.load(name)
    made = rows(base, 64, (64, 96))
    ways = {"full", PUBLISHED, *BASELINES, *PAPER, *WHAT, *AGAIN, *AUTO, *FAR}
    ways -= {SECOND} if name == "sprites-syncos-exact" else set()
    assert {f"{way} 64" for way in ways} <= made.keys()
    assert {f"{way} 96" for way in ("full", *BASELINES, *FAR)} <= made.keys()
    assert len({recipes.dump(made[f"{way} 64"]) for way in ("full", PUBLISHED, *BASELINES, *AUTO)}) == 8
    assert made["full 64"].chain == base.chain
    assert [stage.model_copy(update={"hold": None}) for stage in base.chain[1:]] == list(
        made["gen-l-video 64"].chain[1:]
    )
    for way in ("unguided again 64", "small again 64"):
        assert (way in made) == (name == "sprites-story"), way
    built = {way: dovetail.plan(made[f"{way} 64"]).stages[0].denoise for way in ("full", "flowlong", "no floor")}
    assert isinstance(built["full"], Coupled)
    assert isinstance(built["flowlong"], Renoised)
    assert built["flowlong"].floor == built["full"].floor
    assert built["no floor"].floor == 0


def test_what_costs_less_costs_what_it_says() -> None:
    """Of 64 frames, in 7 windows, or 5 below the floor: 20 steps, 7 above the floor, 4 looks again, both branches."""
    from syncos_rows import Parts, asked, cheaper

    four = {f"chain.structure.denoise.coupled.{key}": value for key, value in {"iterations": 4, "floor": 0.85}.items()}
    four |= {"chain.structure.ladder.shifted.shift": 3.0, f"{COUPLED}.wide": None}
    parts = Parts(recipes.changed(recipes.load("sprites-story"), four), 64)
    windows = {name: sum(asked(recipe).values()) / 16 for name, recipe in cheaper(parts).items()}
    assert windows == {
        "fewer looks": 2 * 7 * (20 + 7 * 2),
        "early stop": 2 * 7 * (20 + 7 * 4),  # at most
        "alternate steps": 2 * 7 * (20 + 4 * 4),
        "wide below": 2 * 7 * (7 + 7 * 4) + 2 * 5 * 13,
        "unguided again": 2 * 7 * 20 + 7 * 7 * 4,
        "small again": 2 * 7 * (20 + 7 * 4),
        "cheap": 2 * 7 * 7 + 2 * 5 * 13 + 7 * 7 * 4,
    }
    large = parts.with_(of={"expert": "large", "guidance": 3.0})
    assert asked(cheaper(Parts(large, 64))["small again"]) == {"large": 16 * 2 * 7 * 20, "small": 16 * 2 * 7 * 7 * 4}
    small = parts.with_(of={"expert": "small", "guidance": 3.0})
    assert "small again" not in cheaper(Parts(small, 64)), "its stage 2 asks the small expert anyway"


def test_what_varies_stage_two_has_looks_to_vary() -> None:
    """The recipe's own; where it has none, as many as the method. Where it has fewer than the method, that is a row."""
    from syncos_rows import ALIKE, BY_FRAME, COSTS, DECODED, HOLDS, LOOKS, PUBLISHED, SECOND, Parts, looks, ways

    def iterations(recipe: Any) -> int:
        return recipe.chain[0].denoise.iterations

    varied = ("floor auto", "anchor", "floor 0.9")
    parts = Parts(recipes.load("sprites-story"), 96)
    made = ways(parts)
    assert (parts.method, parts.is_flowlong) == (DECODED, False)
    assert {iterations(made[way]) for way in ("full", *varied)} == {1}
    assert (iterations(made[SECOND]), iterations(made["re-noise only"])) == (LOOKS, 0)
    gone = {"fewer looks", "early stop", "wide below", "cheap"}
    assert {*COSTS} - made.keys() == gone, "of one look there is none to spare, and below the floor it is wide anyway"
    cheaper = ({*COSTS} & made.keys()) - {"small again", "narrow below"}
    assert all(looks(made[way]) < looks(made["full"]) < looks(made["narrow below"]) for way in cheaper)
    narrow = ways(Parts(recipes.changed(parts.base, [f"{COUPLED}.wide=null"]), 96))
    assert {*COSTS} - narrow.keys() == {"fewer looks", "early stop", "narrow below"}
    assert looks(narrow["cheap"]) < min(looks(narrow["wide below"]), looks(narrow["unguided again"]))

    free = recipes.changed(parts.base, [f"{COUPLED}.hold=null", "story.by=window", "video.still=null"])
    assert [ways(Parts(free, 96)).keys() & {*HOLDS}, made.keys() & {*HOLDS}] == [
        {"hold", "objects free", "frames held"},
        {"no hold", "colours", "objects free", "frames held", ALIKE},
    ]
    assert made[ALIKE].chain[1:] == made["full"].chain[1:]
    alike = made[ALIKE].chain[0].denoise
    assert (alike.hold, alike.floor, alike.iterations, alike.wide) == (made["full"].chain[0].denoise.hold, 1.0, 0, None)
    assert looks(made[ALIKE]) == looks(made[BY_FRAME]), "told and asked as that is, and held"
    names = ("full", "objects free", "frames held")
    holds = [stage.hold for name in names for stage in made[name].chain[1:]]
    assert [made[name].chain[0].denoise.hold.objects for name in names] == [1.0, None, 1.0]
    assert [(hold.objects, hold.frames) for hold in holds] == [(1.0, None), (None, None), (1.0, 1.0)]
    assert [stage.hold and stage.hold.within for stage in made["colours"].chain[1:]] == [0.0]

    bare = recipes.changed(free, [f"{COUPLED}.iterations=0", f"{COUPLED}.wide=null"])
    without = Parts(bare, 96)
    made = ways(without)
    assert (without.method, without.is_flowlong) == (SECOND, True)
    assert LOOKS >= 4
    assert {iterations(made[way]) for way in (SECOND, *varied)} == {LOOKS}
    assert iterations(made["full"]) == iterations(made["re-noise only"]) == 0
    assert iterations(made["fewer looks"]) == LOOKS // 2
    assert looks(made[SECOND]) >= (1 + 1.6) * looks(made["full"]), "what the paper's stage 2 costs it"
    assert {*COSTS} - made.keys() == {"narrow below"}
    for change in ("iterations=2", "stages=outer", "wide=12", "floor=auto"):
        assert not Parts(recipes.changed(bare, [f"{COUPLED}.{change}"]), 96).is_flowlong, change

    assert made[PUBLISHED] == ways(parts)[PUBLISHED], "whatever the recipe has of its own"

    exact = Parts(recipes.load("sprites-syncos-exact"), 96)
    assert (exact.method, exact.is_flowlong) == ("full", False)
    assert SECOND not in ways(exact), "it has as many"


@pytest.mark.parametrize("name", ["sprites-story", "sprites-syncos-exact"])
def test_the_paper_s_method_is_held_by_nothing_and_told_by_window(name: str) -> None:
    """Its rows take it apart, not the recipe; its outer stages are Gen-L-Video's windows, and its noise FlowLong's."""
    from syncos_rows import GEN_L, LOOKS, PAPER, PUBLISHED, WHAT, Parts, ways

    import dovetail

    made = ways(Parts(recipes.load(name), 96))
    told = {way: made[way] for way in (PUBLISHED, *PAPER, *WHAT)}
    assert all(recipe.story is None for recipe in told.values())
    assert not any(stage.hold for recipe in told.values() for stage in recipe.chain[1:])
    built = {way: dovetail.plan(recipe).stages[0].denoise for way, recipe in told.items()}
    method = built.pop(PUBLISHED)
    assert (method.iterations, method.kernel, method.optimiser, method.anchor) == (LOOKS, "stein", "picard", 0)
    assert method.windows.hold is None
    coupled = {way: denoise for way, denoise in built.items() if isinstance(denoise, Coupled)}
    assert {*built} - {*coupled} == {"stages 1+3", "equal calls"}
    assert {denoise.iterations for denoise in coupled.values()} == {LOOKS}
    assert made["stages 1+3"] == made[GEN_L]
    assert built["no floor"].floor == built["stage 2"].floor == 0
    assert {denoise.floor for way, denoise in coupled.items() if way not in ("no floor", "stage 2")} == {method.floor}


def test_rows_that_make_the_same_videos_are_made_once(tmp_path: Path) -> None:
    """The recipe's own iterations are one of the values that are swept."""
    harness(tmp_path, "run", "--prompts", "1", "--only", "full 24", "iterations 1", "no shared text 24")
    made = {line["row"]: line for line in lines(tmp_path)}
    assert (
        made["full 24"] | {"row": "iterations 1 24", "key": made["iterations 1 24"]["key"]} == made["iterations 1 24"]
    )
    assert made["no shared text 24"]["scores"] != made["full 24"]["scores"], "it is told otherwise: it is another"


def test_equal_calls_are_as_many() -> None:
    from syncos_rows import Parts, looks, what

    parts = Parts(recipes.load("sprites-syncos-exact"), 48)
    whole, plain, equal = looks(parts.with_()), looks(parts.made(parts.windowed)), looks(what(parts)["equal calls"])
    assert whole <= equal < whole + plain / 20 + 1


# --- stories -----------------------------------------------------------------------------------------------------


def test_stories_have_three_or_four_events_and_leave_something_free() -> None:
    from syncos import Tale

    tales = [Tale(number) for number in range(40)]
    assert {len(tale.motions) for tale in tales} == {3, 4}
    assert all(a != b for tale in tales for a, b in zip(tale.motions, tale.motions[1:], strict=False))
    assert all(tale.asked.motion is None and tale.asked.shape for tale in tales)
    assert all(None in (t.asked.texture, t.asked.colour, t.asked.background, t.asked.pattern) for t in tales)
    assert all(tale.distance > 0 for tale in tales[1::2])
    assert Tale(3).starts(96)[0] == 0
    assert len(set(Tale(3).starts(96))) == len(Tale(3).motions)


def test_each_event_reaches_its_windows_and_without_shared_text_alone() -> None:
    from syncos import Tale, tell

    recipe = recipes.changed(recipes.load("sprites-syncos-exact"), {"video.frames": 96})
    told, bare = (tell(recipe, Tale(1), way) for way in ("full", "no shared text"))
    assert bare.prompt == ""
    assert told.prompt.startswith("a ")
    assert [span.start for span in told.spans()] == Tale(1).starts(96)
    assert [span.text.split()[0] for span in bare.spans()] == ["it"] * len(Tale(1).motions)


def test_the_world_tells_its_stories_right_and_a_still_one_does_not() -> None:
    from syncos import Tale, alike, measured, reference, scenes

    assert alike(["up", "still", "left"], ["up", "left"]) == alike(["up", "left"], ["up", "still", "left"]) == 1 - 1 / 3
    assert alike([], ["up"]) == 0
    tale = next(Tale(n) for n in range(20) if set(Tale(n).motions) <= {"left", "right", "up", "down"})
    world = reference("renderer 96", tale)["scores"]
    assert world["order"] == world["in_turn"] == world["events"] == world["turns"] == 1
    assert world["late"] <= 4
    assert (world["identity_whole"], world["event_prompt"], world["scenes"]) == (1, 1, 1)
    still = measured(render(tale.scene, [0]).expand(96, -1, -1, -1), tale, 96)["scores"]
    assert still["order"] == still["in_turn"] == 0
    assert 0 <= still["events"] == still["turns"] < 1
    assert "late" not in still
    assert still["event_motion"] == 0
    red, blue = (
        Ask("solid", "red", "circle", None, "gray", "plain"),
        Ask("solid", "blue", "circle", None, "gray", "plain"),
    )
    assert scenes([red, red, blue, red]) == 3


def told_with(*extra: tuple[int, int, str]) -> dict[str, float]:
    """What is measured of a scene that goes as its story asks, but from frame to frame another way."""
    from syncos import Tale, measured

    tale = Tale(1)
    assert tale.motions == ("up", "down", "left")
    motions = [tale.motions[frame // 32] for frame in range(96)]
    for start, stop, motion in extra:
        motions[start:stop] = [motion] * (stop - start)
    scene, frames = replace(tale.scene, motion="still"), []
    for motion in motions:
        frames.append(render(scene, [0])[0])
        across, down = DIRECTIONS[motion]
        scene = replace(scene, x=scene.x + 0.045 * across, y=scene.y + 0.045 * down)
    found: dict[str, float] = measured(torch.stack(frames), tale, 96)["scores"]
    return found


def test_an_object_may_cross_to_its_lane_where_a_change_was_asked_for() -> None:
    """Six frames on another way around frame 32, within four of it; not as many elsewhere, nor twice as many there."""
    assert (told_with()["order"], told_with()["in_turn"]) == (1, 1)
    crossing = told_with((29, 35, "right"))
    assert (crossing["order"], crossing["in_turn"]) == (0, 1)
    assert (crossing["events"], crossing["turns"]) == (3 / 4, 1)
    assert crossing["late"] <= 3
    for elsewhere in ((12, 18, "right"), (26, 38, "right")):
        found = told_with(elsewhere)
        assert (found["in_turn"], found["turns"]) == (0, found["events"]), elsewhere


def test_results_are_told_again_by_the_motions_they_keep() -> None:
    """What a line said of its order when it was made is of the measures of then; one without motions stays."""
    from syncos import Tale, told_again

    assert Tale(1).motions == ("up", "down", "left")
    kept = {"row": "full 96", "prompt": 1, "scores": {"order": 1.0, "identity": 0.5}}
    assert told_again(kept) == kept
    again = told_again({**kept, "seen": [[0, "up"], [30, "right"], [34, "down"], [63, "left"]]})["scores"]
    assert again.pop("late") == (abs(34 - 32) + abs(63 - 64)) / 2
    assert again == {"identity": 0.5, "order": 0.0, "events": 3 / 4, "in_turn": 1.0, "turns": 1.0, "in_time": 1.0}


def test_what_a_way_costs_before_what_all_have_in_common_is_told() -> None:
    from syncos import first_stage, told_again

    first = first_stage(recipes.load("sprites-story"))
    assert first == {"large", "small"}
    assert first_stage(recipes.load("sprites-syncos-exact")) == {"video"}
    line = {"row": "full 96", "prompt": 1, "scores": {}, "planned": {"large": 40.0, "small": 2.0, "spatial": 80.0}}
    assert told_again(line, first)["first"] == 42


# --- answers -----------------------------------------------------------------------------------------------------


def planted(**ways: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "row": way.replace("_", " "), "prompt": p, "seed": 0, "distance": p % 2, "seconds": scores.pop("seconds", 1.0)
            if "seconds" in scores else 1.0, "calls": {"video": 1}, "planned": {"video": 1.0}, "machine": "none",
            "scores": {name: value + 0.001 * (p % 3) * (value < 1) for name, value in scores.items()},
        }
        for way, given in ways.items() for p in range(12) for scores in [dict(given)]
    ]  # fmt: skip


def test_verdicts_follow_from_the_numbers() -> None:
    from syncos_report import answers, dear, gathered, swept

    kept = {"ground": 0.9, "event_prompt": 0.8, "event_motion": 0.8, "order": 1.0, "in_turn": 1.0, "whole": 1.0}
    kept |= {"identity_whole": 1.0, "ground_whole": 1.0, "late": 3.0, "events": 0.8, "turns": 0.95}
    full = {"identity": 0.95, **kept}
    rows = gathered(
        planted(
            full_128={**full, "seconds": 1.2},
            as_published_128={**full, "identity": 0.92},
            **{"gen-l-video_128": {**full, "identity": 0.7, "event_prompt": 0.85}},
            no_floor_128={**full, "identity": 0.6},
            identity_128={**full, "identity": 0.85, "ground": 0.95},
            no_grounding_128={**full, "identity": 0.8},
            no_fixed_noise_128={**full, "identity": 0.75},
            no_shared_text_128={**full, "identity": 0.9},
            full_256={**full, "identity": 0.5, "identity_whole": 0.0},
            full_64=full,
            floor_auto_128=full,
            **{"floor_0.9_128": {**full, "identity": 0.94}},
        )
    )
    # A value that few stories were made of is compared over these: here the first four, of which the others are harder.
    few = [cell for cell in rows["full 128"] if cell[0] < 4]
    harder = {**rows["floor 0.9 128"][few[0]], "scores": {**full, "identity": 0.5}}
    rows["floor 0.9 128"] |= {cell: harder for cell in rows["full 128"] if cell not in few}
    rows["floor 0 128"] = {cell: {**harder, "scores": {**full, "identity": 0.93}} for cell in few}
    said = answers(rows, 128, [64, 128, 256]).splitlines()

    def verdict(question: str, measure: str) -> str:
        at = next(i for i, line in enumerate(said) if question in line)
        return next(line for line in said[at + 1 :] if line.strip().startswith(measure)).rpartition(": ")[2]

    assert verdict("in order in 90 %", "frames from") == "yes"
    assert verdict("in order in 90 %", "right but for edits:") == "no"
    assert verdict("in order in 90 %", "right but for edits, and") == "yes"
    assert verdict("more kept by full 128 than by gen-l-video", "identity") == "yes"
    assert verdict("more kept by full 128 than by gen-l-video", "ground") == "no difference seen"
    assert not any("without stage 2" in line for line in said)
    assert verdict("not below Gen-L-Video", "event_prompt") == "no, lower"
    for what in ("looks", "calls", "seconds"):
        assert verdict("cost at most", what) == "yes"
    (of_the_first,) = dear({"one 1": {(0, 0): {"first": 3.0}}, "other 1": {(0, 0): {"first": 2.0}}}, "one 1", "other 1")
    assert "looks of the first stage: ratio 1.500" in of_the_first.text
    # What was made beside other work has no seconds, and is asked for none.
    busy = {cell: {key: line[key] for key in line if key != "seconds"} for cell, line in rows["full 128"].items()}
    rest = answers({**rows, "full 128": busy}, 128, [64, 128, 256])
    assert "looks: ratio" in rest
    assert "seconds: ratio" not in rest
    assert verdict("keep more than 'identity 128'", "identity") == "yes"
    assert verdict("keep more than 'identity 128'", "ground") == "no, less"
    assert verdict("more kept by as published 128 than by gen-l-video", "identity") == "yes"
    assert verdict("more kept by full 128 than by as published", "identity") == "yes"
    assert verdict("the paper's order", "as published 128 - no shared text") == "yes"
    assert verdict("the paper's order", "no grounding 128 - no floor") == "yes"
    assert verdict("the paper's order", "no fixed noise 128 - no grounding") == "no, less"
    assert verdict("80 % of stories of 256", "identity, full") == "no"
    assert verdict("lost between 64 and 256", "full 256") == "no, lower"
    assert verdict("as good as the best fixed value, floor 0.9", "identity") == "yes"
    table = swept(rows, "floor", 128).splitlines()
    assert table[0].startswith("Sensitivity: floor")
    assert [line.split()[:2] for line in table[2:]] == [["recipe", "4"], ["0", "4"], ["0.9", "4"]], "the same stories"


@pytest.mark.parametrize(("one", "other"), [("full", "no_hold"), ("full", "objects_free"), ("hold", "full")])
def test_what_is_held_is_beside_what_is_not_whichever_the_recipe_is(one: str, other: str) -> None:
    from syncos_report import answers, gathered

    kept = {
        "identity": 0.8,
        "order": 0.5,
        "in_turn": 0.5,
        "event_motion": 0.8,
        "event_prompt": 0.8,
        "ground_whole": 0.5,
        "whole": 0.5,
    }
    kept |= {"identity_whole": 0.5, "late": 3.0}
    rows = gathered(
        planted(**{f"{one}_96": {**kept, "ground": 0.9, "event_motion": 0.6}, f"{other}_96": {**kept, "ground": 0.5}})
    )
    said = answers(rows, 96, [96]).splitlines()
    title = f"by {one} 96, which is held, than by {other} 96".replace("_", " ")
    at = next(i for i, line in enumerate(said) if title in line)
    verdicts = [line.strip().split(":")[0] + line.rpartition(":")[2] for line in said[at + 1 : at + 7]]
    assert verdicts == [
        "identity no difference seen", "ground yes", "whole no difference seen", "order no difference seen", "in_turn no difference seen",
        "event_motion no, lower",
    ]  # fmt: skip


def test_finished_frames_are_held_in_the_recipe_s_own_row_alone() -> None:
    """And in the baseline's that has all of its holds. What else is compared is compared as decoded."""
    from syncos_report import report
    from syncos_rows import ALIKE, ALIKE_STILL, DECODED, rows

    base = recipes.load("sprites-story")
    made = rows(base, 96, (64,))
    still = {name for name, recipe in made.items() if recipe.video.still is not None}
    assert still == {f"{way} {frames}" for way in ("full", ALIKE_STILL) for frames in (64, 96)}
    assert all(made[name].video.still == base.video.still for name in still)
    for one, other in (("full", DECODED), (ALIKE_STILL, ALIKE)):
        assert recipes.changed(made[f"{one} 96"], {"video.still": None}) == made[f"{other} 96"]
    free = rows(recipes.changed(base, {"video.still": None}), 96, (64,))
    assert made.keys() - free.keys() == {f"{way} {frames}" for way in (DECODED, ALIKE_STILL) for frames in (64, 96)}
    assert free["full 96"] == made[f"{DECODED} 96"]
    kept = {"identity": 0.8, "ground": 0.5, "whole": 0.5, "order": 0.5, "in_turn": 0.8, "event_motion": 0.8}
    kept |= {"identity_whole": 0.5, "ground_whole": 0.5, "events": 0.9, "event_prompt": 0.8, "scenes": 1.0, "late": 3.0}
    held_ = {"full_96": {**kept, "ground": 0.9}, f"{DECODED}_96": kept, "no hold_96": {**kept, "ground": 0.2}}
    said = report(planted(**held_), "trained", 96, [96], DECODED)
    assert "'as decoded' is the" in said
    assert "by full 96, which is held, than by as decoded 96" in said
    assert "by as decoded 96, which is held, than by no hold 96" in said
    assert "by full 96, which is held, than by no hold 96" not in said


def test_what_it_brings_to_tell_frames_is_asked() -> None:
    from syncos_report import answers, gathered

    kept = {"identity": 0.8, "order": 0.5, "event_motion": 0.8, "event_prompt": 0.8, "ground": 0.5, "whole": 0.5}
    kept |= {"identity_whole": 0.5, "ground_whole": 0.5, "late": 3.0, "in_turn": 0.8}
    rows = gathered(planted(full_96=kept, **{"by window_96": {**kept, "in_turn": 0.4, "ground": 0.6}}))
    said = answers(rows, 96, [96]).splitlines()
    at = next(i for i, line in enumerate(said) if "whose frames are told, above by window 96" in line)
    verdicts = [line.strip().split(":")[0] + line.rpartition(":")[2] for line in said[at + 1 : at + 6]]
    assert verdicts[:2] == ["order no difference seen", "in_turn yes"]
    assert verdicts[4] == "ground no, less"


def test_where_the_recipe_has_no_stage_two_rows_are_beside_the_four_looks() -> None:
    from syncos_report import report

    kept = {
        "ground": 0.9,
        "event_prompt": 0.8,
        "event_motion": 0.8,
        "order": 1.0,
        "in_turn": 1.0,
        "whole": 1.0,
        "scenes": 1.0,
    }
    kept |= {"identity_whole": 1.0, "ground_whole": 1.0, "late": 3.0, "events": 1.0, "identity": 0.9}
    made = planted(
        full_96={**kept, "ground": 0.7, "in_turn": 0.0},
        flowlong_96=kept,
        **{"gen-l-video_96": {**kept, "identity": 0.8}, "early_stop_96": {**kept, "seconds": 1.4}},
        four_looks_96={**kept, "seconds": 2.0},
        as_published_96=kept,
        no_shared_text_96={**kept, "identity": 0.5},
        floor_0_96=kept,
    )
    for line in made:
        line["planned"] = {"video": 2.5 if line["row"] == "four looks 96" else 1.0}
        line["calls"] = {"video": 3, "image": 1} if line["row"] == "early stop 96" else {"video": 2, "image": 2}
    parts = report(made, "trained", 96, [96], "four looks", True).split("\n\n")
    told = "\n".join(parts)
    for title, beside in (
        ("The paper's method, taken apart", ["as published", "no shared text"]),
        ("What costs less", ["full", "four looks", "gen-l-video", "early stop"]),
    ):
        lines = next(part for part in parts if part.startswith(title)).splitlines()[2:]
        assert [line.partition(" 96")[0] for line in lines] == beside
    assert "Sensitivity: floor" in told
    assert "\nfour looks  12" in told
    assert not any(part.startswith("What the recipe's look") for part in parts), "no row but the method itself"
    assert not any(part.startswith("What the paper's stage 2") for part in parts), "no row but what it is beside"
    cost = {line.partition(" 96")[0]: line for line in next(part for part in parts if "Cost of" in part).splitlines()}
    assert cost["four looks"].split()[-7:] == ["2.50", "no", "-", "1.00", "yes", "2.00", "no"]
    assert cost["early stop"].split()[-7:] == ["1.00", "yes", "-", "1.00", "yes", "1.40", "no"]
    said = parts[-1].splitlines()

    def answers(question: str) -> list[str]:
        at = next(i for i, line in enumerate(said) if question in line)
        ends = (i for i, line in enumerate(said) if i > at and not line.startswith("  "))
        return [line.rpartition(": ")[2] for line in said[at + 1 : next(ends, len(said))]]

    assert answers("more kept by full 96 than by flowlong") == ["the same by construction, nothing to compare"]
    assert answers("more kept by four looks 96 than by gen-l-video")[0] == "yes"
    assert answers("more kept by four looks 96 than by flowlong")[0] == "no difference seen"
    assert answers("with fewer looks, not below 'four looks 96'") == ["yes", "no, lower", "no, lower", "yes"]
    assert "as published 96 - no shared text 96, identity" in told
    assert answers("'early stop 96' as good as 'four looks 96'")[2:] == ["yes", "yes", "no"]


@pytest.mark.weights
def test_the_recipe_without_stage_two_and_hold_is_flowlong_to_the_bit() -> None:
    """What the report says of such a recipe, and does not test."""
    from syncos_rows import FLOWLONG, Parts, plain

    import dovetail

    bare = {"story.by": "window", f"{COUPLED}.iterations": 0}
    made = plain(Parts(recipes.changed(recipes.load("sprites-story"), bare), 24))
    small = {"chain.structure.ladder.shifted.steps": 3, "experts.large": made["full"].experts["small"].model_dump()}
    one, other = (dovetail.generate("a red circle", first_stage(made[way], small)) for way in ("no hold", FLOWLONG))
    assert (one.frames == other.frames).all()


@pytest.mark.weights
def test_fifo_asks_a_network_by_frame_and_ends_as_other_ways_do() -> None:
    """The first of the pair, under its guidance; then ConFiner's refinement, over the latent itself."""
    from syncos import Tale, queued
    from syncos_rows import GEN_L, rows

    from dovetail import run

    short = {f"{COUPLED}.size": 4, f"{COUPLED}.stride": 2, f"{COUPLED}.wide": 3, "chain.refine.ladder.below.steps": 1}
    base = recipes.changed(recipes.load("sprites-story"), short)
    made = queued(rows(base, 24, (24,))[f"{GEN_L} 24"], Tale(1), run.load(base))
    looks = 8 + 4 * (24 + 8 - 4)  # a clip, then clips that are walked in halves
    assert made["calls"] == {"large": looks, "spatial": 4, "temporal": 2}
    assert made["planned"]["large"] == 2 * looks * 4 / 24, "both branches"
    assert {"order", "identity", "event_prompt"} <= made["scores"].keys()


def first_stage(recipe: recipes.Recipe, changes: dict[str, Any]) -> recipes.Recipe:
    """Its first stage alone, changed, of the small expert alone, so that it is quick."""
    data = recipes.plain(recipes.changed(recipe, changes))
    experts = {name: data["experts"][name] for name in ("large", "small")}
    return recipes.checked({**data, "experts": experts, "chain": data["chain"][:1]})


PAGE = Path(__file__).parents[1] / "docs" / "methods" / "syncos.md"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SHOWN = ("n", "identity", "ground", "event_prompt", "event_motion", "scenes")


@pytest.mark.parametrize(
    ("experts", "title", "some"),
    [
        ("exact", "What the paper's stage 2 does", {"as published", "mean", "common", "identity", "equal calls"}),
        ("trained", "The paper's method, taken apart", {"as published", "no floor", "no shared text", "stages 1+3"}),
        ("trained", "What the paper's stage 2 does", {"as published", "flowlong", "mean", "identity", "equal calls"}),
        ("trained-narrow", "What costs less", {"full", "gen-l-video", "unguided again", "small again", "cheap"}),
    ],
)
def test_the_page_shows_the_method_taken_apart_as_it_was_measured(experts: str, title: str, some: set[str]) -> None:
    """After new results the tables are those that this prints."""
    text = (RESULTS / f"syncos-{experts}.txt").read_text()
    found = next(part for part in text.split("\n\n") if part.startswith(title))
    _, head, *rows = (re.split(r" {2,}", line) for line in found.splitlines())
    assert {row[0].rpartition(" ")[0] for row in rows} >= some
    table = ["| | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name, *cells in rows:
        numbers = [cells[head.index(word) - 1] for word in SHOWN]
        table.append("| " + " | ".join([name.rpartition(" ")[0], *numbers]) + " |")
    want = "\n".join(table)
    assert want in PAGE.read_text(), f"docs/methods/syncos.md should have\n{want}"


# --- the picture -------------------------------------------------------------------------------------------------


def test_the_picture_shows_near_and_far_over_the_values_themselves(tmp_path: Path) -> None:
    from syncos_plots import BOTTOM, COLOURS, HEIGHT, INK, LEFT, RIGHT, WIDTH, plots, sensitivity
    from syncos_report import gathered

    made = planted(
        **{"floor_0_96": {"identity": 1.0}, "floor_0.5_96": {"identity": 1.0}, "floor_0.95_96": {"identity": 1.0}},
        **{
            "bandwidth_0.1_96": {"identity": 1.0},
            "bandwidth_10_96": {"identity": 1.0},
            "rate_0.5_96": {"identity": 1.0},
        },
    )
    for line in made:
        far, value = line["distance"] > 0, float(line["row"].split()[1])
        line["scores"]["event_prompt"] = (0.25 if far else 0.75) + 0.1 * (value == 0.5)
    charts = {chart.across: chart for chart in sensitivity(gathered(made), 96)}
    floor, bandwidth = charts["floor"], charts["bandwidth"]
    assert list(floor.curves) == ["event_prompt, near", "event_prompt, far", "identity"]
    assert [round(height, 3) for _, height in floor.curves["event_prompt, near"]] == [0.75, 0.85, 0.75]
    assert [round(height, 3) for _, height in floor.curves["event_prompt, far"]] == [0.25, 0.35, 0.25]
    assert floor.values == [0.0, 0.5, 0.95]
    assert (floor.x(0.0), floor.x(0.95)) == (LEFT, WIDTH - RIGHT)
    assert floor.x(0.5) == LEFT + round(0.5 / 0.95 * (WIDTH - LEFT - RIGHT)), "not the second of three places"
    assert bandwidth.x(1.0) == (LEFT + WIDTH - RIGHT) // 2, "in logarithms, as its values are"
    picture = plots(made, 96, [96])
    assert picture is not None
    assert picture.size == (WIDTH, 2 * HEIGHT), "a rate of one value is no curve"
    picture.save(tmp_path / "it.png")
    from PIL import Image

    read = Image.open(tmp_path / "it.png").convert("RGB")
    bottom = HEIGHT - BOTTOM
    assert all(read.getpixel((x, bottom)) == INK for x in range(LEFT, WIDTH - RIGHT + 1)), "the axis across"
    assert all(read.getpixel((LEFT, y)) == INK for y in range(floor.y(0.6), floor.y(0.4))), "the axis up"
    ticks = [x for x in range(WIDTH) if read.getpixel((x, bottom + 3)) == INK]
    assert ticks == [floor.x(value) for value in floor.values]
    for (name, points), colour in zip(floor.curves.items(), COLOURS, strict=False):
        for value, height in points:
            assert read.getpixel((floor.x(value), floor.y(height))) == colour, name
    assert plots([line for line in made if line["row"].startswith("rate")], 96, [96]) is None


def test_a_curve_has_the_same_stories_all_along() -> None:
    from syncos_plots import sensitivity
    from syncos_report import gathered

    made = planted(**{"rate_0.5_96": {"identity": 1.0}, "rate_1_96": {"identity": 1.0}})
    easy = next(line for line in made if line["row"] == "rate 1 96")
    hard = {**easy, "prompt": 99, "scores": {"identity": 0.0, "event_prompt": 0.0}}
    (chart,) = (chart for chart in sensitivity(gathered([*made, hard]), 96) if chart.curves)
    assert [height for _, height in chart.curves["identity"]] == [1.0, 1.0], "one is told at one rate alone"


def test_a_table_without_results_is_left_out() -> None:
    from syncos_report import report

    measures = {
        "identity": 0.9,
        "ground": 0.9,
        "event_prompt": 0.8,
        "event_motion": 0.8,
        "scenes": 1.0,
        "order": 1.0,
        "in_turn": 1.0,
    }
    measures |= {"identity_whole": 1.0, "ground_whole": 1.0, "whole": 1.0}
    few = report(planted(full_64=measures, **{"gen-l-video_64": measures}), "trained", 64, [64])
    for title in (
        "The paper's method",
        "What the paper's stage 2",
        "What the recipe's look",
        "What costs less",
        "What is found",
        "does not fade",
        "Length",
        "Sens",
    ):
        assert title not in few
    some = planted(full_64=measures, full_128=measures, cheap_64=measures, **{"rate_0.5_64": measures})
    more = report(some, "trained", 64, [64, 128])
    for title, rows in (("What costs less", 2), ("Length", 2), ("Sensitivity: rate", 2)):
        table = next(part for part in more.split("\n\n") if part.startswith(title)).splitlines()
        assert len(table) == 2 + rows
    assert "Sensitivity: floor" not in more


def test_the_world_tells_a_story_over_one_background() -> None:
    """Scenes of other motions have patterns that begin elsewhere."""
    from syncos import Tale, reference

    assert "pulsing" in Tale(0).motions
    found = reference("renderer 48", Tale(0))["scores"]
    assert found["ground_whole"] == 1
    assert found["background_moved"] < 1


def test_a_recipe_that_tells_frames_has_itself_by_window_beside_it() -> None:
    """Baselines are told by window, as published, and one of them as the recipe is."""
    from syncos import Tale, keys, tell
    from syncos_rows import (
        ADAMW,
        APART_BY_ADAMW,
        BASELINES,
        BY_FRAME,
        BY_WINDOW,
        DECODED,
        PAPER,
        PUBLISHED,
        TOLD,
        WHAT,
        Parts,
        rows,
        ways,
    )

    base = recipes.changed(recipes.load("sprites-story"), {"story.by": "frame", f"{COUPLED}.hold": None})
    parts = Parts(base, 96)
    assert not parts.is_flowlong, "its frames are told"
    made, plain = ways(parts), ways(Parts(recipes.changed(base, {"story.by": None}), 96))
    by = {name: tell(recipe, Tale(3), name).story.by for name, recipe in made.items()}
    published = {PUBLISHED, ADAMW, *APART_BY_ADAMW, *PAPER, *WHAT}
    assert {name for name, told in by.items() if told != "frame"} == {BY_WINDOW, *BASELINES, *published}
    first = recipes.plain(made[ADAMW])["chain"][0]["denoise"]["coupled"]
    assert (first["optimiser"], first["iterations"], first["minibatch"]) == ("adamw", 20, 4)
    words = ({"floor": 0.0}, {"timestep": "random"}, {"base": "iteration"}, {})
    for name, word in zip(APART_BY_ADAMW, words, strict=True):
        assert recipes.plain(made[name])["chain"][0]["denoise"]["coupled"] == first | word, name
    assert APART_BY_ADAMW[3].startswith("no shared text"), "which the prompt leaves out"
    assert not tell(made[APART_BY_ADAMW[3]], Tale(3), APART_BY_ADAMW[3]).prompt
    assert made[BY_WINDOW] == plain[DECODED]
    assert made[BASELINES[0]] == plain[BASELINES[0]]
    assert recipes.changed(made[BY_FRAME], {"story": None}) == made[BASELINES[0]]
    assert not set(TOLD) & plain.keys()
    assert tell(made["full"], Tale(3), "full").story.fade is None
    assert tell(made[BY_WINDOW], Tale(3), "").story.fade == "1f"
    known = keys(rows(base, 96, (96,)), (96,))
    before = keys(rows(recipes.changed(base, {"story.by": None}), 96, (96,)), (96,))
    assert known["full 96"] != before["full 96"]
    assert known["gen-l-video 96"] == before["gen-l-video 96"]


# --- backgrounds that are to change ------------------------------------------------------------------------------


def test_stories_whose_backgrounds_change_say_so_in_each_event() -> None:
    from syncos import TURNING, Tale, tell

    for number in range(TURNING, TURNING + 8):
        tale = Tale(number)
        assert len(tale.places) == len(tale.motions)
        assert all(a[0] != b[0] for a, b in pairwise(tale.places))
        assert (tale.asked.background, tale.asked.pattern) == (None, None)
        spans = tell(recipes.load("sprites-story"), tale, "full").spans()
        for span, place, event in zip(spans, tale.places, tale.events, strict=True):
            assert span.text.startswith(f"on a {' '.join(place)} background, it ")
            assert (event.background, event.pattern) == place
            assert not ask(span.text)[1], "every word is known"
    assert Tale(3).places == ()
    assert {(event.background, event.pattern) for event in Tale(3).events} == {
        (Tale(3).asked.background, Tale(3).asked.pattern)
    }


def test_the_world_itself_changes_its_backgrounds_as_asked() -> None:
    from syncos import TURNING, Tale, reference

    found = [reference("renderer 96", Tale(number))["scores"] for number in range(TURNING, TURNING + 3)]
    assert fmean(one["event_ground"] for one in found) == 1
    assert "event_ground" not in reference("renderer 96", Tale(1))["scores"]


def test_they_are_told_to_few_and_have_a_table_of_their_own() -> None:
    from syncos import TURNING, Tale, wanted
    from syncos_report import report

    names = ["full 96", "no hold 96", "full 64", "floor 0 96", "renderer 96", "gen-l-video 96"]
    told = [(tale.number, name) for tale, name in wanted([Tale(0), Tale(TURNING)], names, None, 96)]
    assert {name for number, name in told if number == 0} == {*names}
    assert {name for number, name in told if number} == {"full 96", "no hold 96", "renderer 96", "gen-l-video 96"}
    base = {"key": "k", "seed": 0, "distance": 0.0, "machine": "m", "planned": {}, "calls": {}, "first": 0.0}
    measures = "identity ground identity_whole ground_whole events event_prompt event_motion scenes order in_turn whole"
    scores = dict.fromkeys([*measures.split(), "turns", "late"], 1.0)
    lines = [{**base, "row": "full 96", "prompt": 0, "scores": scores}]
    assert "Backgrounds that are to change" not in report(lines, "trained", 96, [96])
    for number in range(8):
        for row, value in (("full 96", 0.25), ("no hold 96", 1.0)):
            told_of = {**scores, "event_ground": value}
            lines.append({**base, "row": row, "prompt": TURNING + number, "scores": told_of})
    said = report(lines, "trained", 96, [96])
    assert "Backgrounds that are to change" in said
    assert "event_ground: 0.750 [0.750, 0.750]" in said
    assert said.count("full 96   ") <= 4
