"""The harness of long video, at its smallest."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dovetail import recipe as recipes

pytestmark = pytest.mark.usefixtures("benchmarks")


def harness(folder: Path, verb: str, *more: str) -> None:
    import long

    long.main([verb, "--experts", "exact", "--long", "20", "--short", "18", "--results", str(folder), *more])


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "long-exact.jsonl").read_text().splitlines()]


def test_each_way_is_the_recipe_that_ships():
    from harness import told
    from long_rows import rows

    made, control = (rows(recipes.load(name)) for name in ("sprites-long", "sprites-long-control"))
    assert made["as decoded 128"] == recipes.changed(recipes.load("sprites-long"), {"video.still": None})
    assert control["plain 600"].chain == recipes.load("sprites-long-plain").chain
    assert control["freenoise 600"].chain == recipes.load("sprites-freenoise").chain
    assert (made["control 600"], made["control, held 600"]) == (control["as decoded 600"], control["full 600"])
    assert "consistent" not in told(made["no init 128"])
    assert not any("renoised" in told(made[way]) for way in ("plain 600", "no renoising 128", "one noise 600"))
    assert "means" not in told(made["one noise 600"]), "nor do its windows share less than all of it"
    assert len({recipes.dump(recipe) for recipe in made.values()}) == len(made)
    full = made["as decoded 128"].chain
    assert made["paper 128"].chain == recipes.load("sprites-long-paper").chain
    for way, same in (("no init", 1), ("no overlap", 1), ("staggered", 0)):
        lacking = made[f"{way} 128"].chain
        assert lacking[same] == full[same]
        assert lacking[1 - same] != full[1 - same]
    guided, free, beside = (made[f"{way} 128"].chain for way in ("paper", "no guidance", "no staggering"))
    assert guided[1] == free[1] == made["staggered 128"].chain[1]
    assert guided[0] == beside[0]
    assert beside[1] == made["plain 600"].chain[1]
    assert recipes.changed(made["paper 128"], {"chain.structure.denoise": "control"}).chain[0] == free[0]


def test_rows_are_as_decoded_but_for_the_recipe_that_holds_its_frames():
    from long_rows import BESIDE, CLIPS, DECODED, FINISHED, rows

    bare = recipes.changed(recipes.load("sprites-long"), {"video.still": None})
    held = recipes.changed(bare, {"video.still": 3.0})
    made, before = rows(held), rows(bare)
    assert made["full 600"] == recipes.changed(held, {"video.frames": 600})
    own = {f"{way}{FINISHED} 600" for way in BESIDE}
    assert {name for name, recipe in made.items() if recipe.video.still} == {"full 600", f"{CLIPS} 600", *own}
    for name in own:
        assert made[name.replace(", held", "")] == recipes.changed(made[name], {"video.still": None})
    same = {name.replace(DECODED, "full"): recipe for name, recipe in made.items() if not recipe.video.still}
    assert same == {name: recipe for name, recipe in before.items() if name not in own}
    assert recipes.changed(made[f"{CLIPS} 600"], {"video.still": None}) == before["plain 600"]


def test_clips_are_held_each_on_its_own():
    import numpy as np
    from long import SEGMENT, segments_held

    from dovetail.core.still import Still
    from dovetail.run.decoding import Holding

    rng = np.random.default_rng(0)
    scenes = rng.integers(40, 200, (2, 1, 8, 8, 3))
    frames = (np.repeat(scenes, SEGMENT, 1) + rng.integers(-2, 3, (2, SEGMENT, 8, 8, 3))).astype(np.uint8)
    still = Still()
    held = segments_held(np.concatenate(frames), still)
    alone = [next(Holding(still).add(iter([(clip, None)]), last=True))[0] for clip in frames]
    assert (held == np.concatenate(alone)).all()
    assert held[SEGMENT:].std(0).mean() < frames[1].std(0).mean() / 2, "the second one to its own still picture"


def test_prompts_leave_something_of_the_look_free():
    from long import Cell

    asks = [Cell(prompt).asked for prompt in range(20)]
    assert all(None in (ask.texture, ask.colour, ask.background, ask.pattern) for ask in asks)
    assert all(ask.shape is not None for ask in asks)
    assert Cell(3).asked == asks[3]
    assert len(set(asks)) > 15


def test_the_harness_resumes_and_reports(tmp_path, capsys):
    pytest.importorskip("cv2")
    asked = ("--prompts", "1", "--threads", "1", "--only", "renderer 20", "full 18", "paper 18")
    harness(tmp_path, "run", *asked)
    made = lines(tmp_path)
    assert [line["row"] for line in made] == ["renderer 20", "full 18", "paper 18"]
    file = tmp_path / "long-exact.jsonl"
    text = file.read_text()
    file.write_text(text[: -len(text.splitlines()[-1]) // 2])
    harness(tmp_path, "run", *asked)
    kept = [line for line in file.read_text().splitlines() if line.endswith("}")]
    assert kept[:-1] == text.splitlines()[:-1]
    assert json.loads(kept[-1])["scores"] == made[-1]["scores"]
    world = made[0]["scores"]
    assert (world["whole"], world["presence"], world["seams"]) == (1, 1, 0)
    assert "What keeps, by the oracle" in (tmp_path / "long-exact.txt").read_text()
    assert "renderer 20" in capsys.readouterr().out
    harness(tmp_path, "run", "--prompts", "3", "--budget", "0", "--only", "full 20")
    assert "budget spent: 0 of 3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        harness(tmp_path, "run", "--only", "full 20", "ful 20")
    assert "--only: no rows 'ful 20'; rows: 'renderer 20', 'full 20'" in capsys.readouterr().err


Row = Mapping[tuple[int, int], Mapping[str, Any]]


def row(**scores: float) -> Row:
    return {(p, 0): {"scores": {name: value + 0.001 * (p % 3) for name, value in scores.items()}} for p in range(12)}


def exactly(row: Row, **scores: float) -> Row:
    return {cell: {"scores": {**line["scores"], **scores}} for cell, line in row.items()}


def test_guidance_is_asked_again_of_prompts_on_which_its_measure_was_not_chosen():
    from long_report import CHOSEN, answers

    rows = {"paper 128": row(leap=1.0), "no guidance 128": row(leap=2.0)}
    assert "And guidance over prompts" not in answers(rows, 600, 128), "there are none"
    later = {name: {(p + CHOSEN, 0): {"scores": {"leap": 1.0}} for p in range(9)} for name in rows}
    said = answers({name: {**rows[name], **later[name]} for name in rows}, 600, 128).splitlines()
    at = next(i for i, words in enumerate(said) if words.startswith(f"And guidance over prompts {CHOSEN} and up alone"))
    assert "with / without 1.000 [1.000, 1.000], 0 prompts better" in said[at + 1], "the earlier ones say nothing of it"


def test_answers_follow_from_the_numbers():
    """Planted: all is kept and nothing jumps, drift is a third of plain's but more than FreeNoise's, motion is lost; init
    and staggering do what they are for, guidance does the contrary, overlap keeps motion alone."""
    from long_report import answers

    shared = {"colour_drift": 1.0, "background_moved": 1.0, "dynamic_degree": 0.5}
    kept = {"whole": 1.0, "identity_whole": 1.0, "ground_whole": 1.0, "no_rhythm": 1.0, "seams": 0.01, "jumps": 0.01}
    rows = {
        "full 600": exactly(row(drift_end=0.3, motion=4, motion_right=0.2, **shared), **kept),
        "plain 600": exactly(row(drift_end=0.9, motion=5, motion_right=0.9, **shared), whole=0.0, no_rhythm=0.0),
        "one noise 600": exactly(row(motion_right=0.05, **shared), **kept),
        "freenoise 600": row(drift_end=0.2),
        "full 128": row(identity=0.9, ground=0.9, lurch=1.0, border=1.0, rhythm=1.0, seams=0.0),
        "no init 128": row(identity=0.7, ground=0.7, lurch=1.0, border=1.0),
        "no overlap 128": row(identity=0.9, ground=0.9, lurch=2.0, border=1.0),
        "paper 128": row(identity=0.9, ground=0.9, lurch=1.0, border=1.0, leap=1.0),
        "no guidance 128": row(identity=0.9, ground=0.9, lurch=0.5, border=1.0, leap=2.0),
        "control 600": exactly(row(motion_right=0.88, lurch=1.0), whole=1.0, no_rhythm=0.5),
        "no staggering 128": row(identity=0.9, ground=0.9, lurch=1.0, border=3.0),
        "staggered 128": row(rhythm=9.0, seams=0.3),
    }
    said = answers(rows, 600, 128).splitlines()

    def verdict(question: str, line: str = "") -> str:
        at = next(i for i, words in enumerate(said) if question in words)
        return next(words for words in said[at + 1 :] if words.strip().startswith(line)).rpartition(": ")[2]

    assert verdict("identity and background kept", "both, full") == "undecided, though the share is reached"
    assert verdict("identity and background kept", "both, plain") == "beside it"
    assert verdict("rhythm").startswith("undecided")
    assert verdict("rhythm", "no rhythm, plain") == "beside it"
    assert verdict("Are borders seen") == "yes"
    assert verdict("at most half of plain", "drift_end:") == "yes"
    assert verdict("at most half of plain", "colour_drift") == "no"
    assert verdict("at most FreeNoise's") == "no"
    assert verdict("move no less", "dynamic_degree") == "yes"
    assert verdict("move no less", "motion") == "no, lower"
    assert verdict("go the way that was asked for", "full 600 motion_right") == "no, lower"
    assert verdict("go the way that was asked for", "control 600 motion_right") == "yes"
    assert verdict("'one noise'", "motion_right") == "yes"
    assert verdict("rhythm", "no rhythm, control") == "beside it"
    assert verdict("'no init'") == "yes"
    assert verdict("'no overlap'", "lurch") == "yes"
    assert verdict("'no overlap'", "identity") == "no difference seen"
    assert verdict("'staggered'", "rhythm") == "yes"
    assert verdict("'no guidance'", "lurch") == "no, it is better without"
    assert verdict("'no guidance'", "leap") == "yes"
    assert verdict("'no guidance'", "leap: with / without 0.500 [0.500, 0.500]") == "yes"
    at = next(i for i, words in enumerate(said) if "'control'" in words)
    asked = [words.strip().partition(":")[0] for words in said[at + 1 : at + 4]]
    assert asked[:2] == ["whole", "motion_right"], "what one of the two has no numbers of is not asked"
    assert not said[at + 3].startswith("  ")
    assert verdict("'no staggering'") == "yes"
    few = {name: {cell: line for cell, line in of.items() if cell[0] < 4} for name, of in rows.items()}
    assert "too few prompts" in answers(few, 600, 128)


def test_a_recipe_that_holds_its_frames_is_compared_as_decoded():
    """Planted: held frames keep the background and lose the flicker's flow, beside held clips nothing."""
    from long_report import answers

    kept = {"identity_whole": 1.0, "no_rhythm": 1.0, "seams": 0.01, "jumps": 0.01}
    rows = {
        "full 600": exactly(row(motion=2.0, background_moved=0.5), whole=1.0, ground_whole=1.0, **kept),
        "as decoded 600": exactly(row(motion=5.0, background_moved=1.5), whole=0.0, ground_whole=0.0),
        "plain 600": row(motion=5.0),
        "plain, clips held 600": row(motion=2.0),
        "as decoded 128": row(identity=0.9),
        "no init 128": row(identity=0.7),
    }
    for name in ("as decoded 600", "plain 600"):
        rows[name] = exactly(rows[name], drift_end=0.1, colour_drift=0.1, background_moved=1.5, dynamic_degree=0.5)
    rows["plain 600"] = exactly(rows["plain 600"], whole=0.0, no_rhythm=0.0)
    for name in ("full 600", "plain, clips held 600"):
        rows[name] = exactly(rows[name], dynamic_degree=0.2)
    said = answers(rows, 600, 128)
    assert "both, full 600: 1.000" in said
    assert "both, as decoded 600: 0.000" in said
    assert "margin 0.500" in said, "a tenth of what clips as decoded move"
    assert "margin 0.200" in said, "a tenth of what held clips move"
    assert "Does 'full' need what 'as decoded' lacks, over 600 frames?" in said
    assert "Does 'as decoded' need what 'no init' lacks, over 128 frames?" in said


@pytest.mark.parametrize(("motion", "verdict"), [(4.9, "yes"), (5.5, "yes"), (4.0, "no, lower")])
def test_a_tenth_of_the_motion_may_be_lost(motion: float, verdict: str):
    from long_report import atleast

    claim = atleast({"full": row(motion=motion), "plain": row(motion=5.0)}, "full", "plain", "motion")
    assert claim.verdict == verdict
    wide = {cell: {"scores": {"motion": 5.0 + (3 if cell[0] % 2 else -3.2)}} for cell in row(motion=0)}
    assert atleast({"full": wide, "plain": row(motion=5.0)}, "full", "plain", "motion").verdict == "undecided"


def test_costs_at_lengths_are_held_against_their_targets():
    from long_costs import table

    def length(frames: int, each: float, peak: float, networks: float = 0.97) -> dict[str, Any]:
        seconds = frames * each
        inside = {"seconds_in_networks": networks * seconds, "seconds_in_encoder": 0.01 * seconds}
        clocks = {"seconds": seconds, "seconds_in_all": seconds + 10}
        return {**clocks, "peak_megabytes": peak, "machine": "this one", **inside}

    good = {32: length(32, 1, 400), 64: length(64, 1, 410), 600: length(600, 0.9, 450), 6000: length(6000, 0.9, 460)}
    said = table("sprites-long", good)
    assert said.count(": yes") == 5
    assert ": no" not in said
    assert "for each further 100 frames, from 32 to 6000: 1.0 MB" in said
    assert "fewer windows: large 1.128, small 1.128, spatial 1.067, temporal 1.067" in said
    assert "from the start of the process: 0.793, target <= 1: yes" in said
    bad = {**good, 600: length(600, 1.2, 600, networks=0.9), 6000: length(6000, 1.2, 700)}
    said = table("sprites-long", bad)
    assert said.count(": no") == 5
    slower = table("sprites-long", {**good, 600: length(600, 1.1, 450)})
    assert "from the start of the process: 0.966, target <= 1: yes" in slower
    assert "with experts loaded: 1.100, target <= 1: no" in slower


@pytest.mark.slow
def test_costs_are_measured_in_processes_of_their_own(tmp_path, capsys):
    import long_costs

    asked = [
        "lengths",
        "--recipe",
        "sprites-long-exact",
        "--frames",
        "16",
        "24",
        "--threads",
        "1",
        "--results",
        str(tmp_path),
    ]
    long_costs.main(asked)
    said = capsys.readouterr().out
    kept = (tmp_path / "long-lengths.jsonl").read_text()
    assert len(kept.splitlines()) == 2
    long_costs.main(asked)
    assert capsys.readouterr().out == said
    assert (tmp_path / "long-lengths.jsonl").read_text() == kept


@pytest.mark.slow
@pytest.mark.weights
def test_beside_diffusers_freenoise(capsys, recwarn):
    import long_costs

    long_costs.main(["against", "--frames", "20", "--rounds", "1", "--threads", "1"])
    assert "80 looks each: ours" in capsys.readouterr().out
