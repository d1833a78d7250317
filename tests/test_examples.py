"""Every example runs, and shows what it says it shows."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import recipe
from dovetail.sprites.oracle import judge
from dovetail.sprites.oracle.events import events
from dovetail.video import Video, read

FOLDER = Path(__file__).parents[1] / "examples"

Names = dict[str, Any]
Check = Callable[[Names], object]
CHECKS: dict[str, Check] = {}
"""What must be true once an example has run in an empty folder, given the names it leaves."""


def example(check: Check) -> Check:
    CHECKS[check.__name__] = check
    return check


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    CHECKS[path.stem](runpy.run_path(str(path)))


def test_no_check_without_an_example() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(CHECKS)


def shows(video: Video, prompt: str) -> None:
    """The oracle finds everything that the prompt asks for."""
    right = judge(torch.from_numpy(video.frames), prompt).right
    assert right
    assert all(right.values()), right


@example
def prompt_to_video(left: Names) -> None:
    shows(left["video"], "a dotted yellow ring moving left on a gray plain background")
    assert len(read("out/ring.mp4").frames) == 16


@example
def watch_a_run(left: Names) -> None:
    seen = sum(len(frames) for frames in left["pieces"])
    assert 32 <= seen < 64
    assert "settings" not in left, "it was stopped before its end"


@example
def one_expert(left: Names) -> None:
    shows(left["video"], "a green ring moving up on a black checkered background")
    assert Path("out/ring.gif").is_file()


@example
def confiner_from_parts(left: Names) -> None:
    shows(left["video"], left["prompt"])
    assert Path("out/confiner.gif").is_file()


@example
def step_by_step(left: Names) -> None:
    plain, pushed = (
        judge(torch.from_numpy(left[name].frames), "a blue ring moving right") for name in ("plain", "pushed")
    )
    assert all(plain.right.values())
    assert all(pushed.right.values())
    (before, _, _), (after, _, _) = plain.track[8], pushed.track[8]
    assert 24 < (after - before) % 64 < 40, "half a frame is 32 pixels, and the world is a torus"
    assert len(left["previews"]) == 8


@example
def your_own_denoiser(left: Names) -> None:
    frames = left["video"].frames
    assert frames[:, :8].max() == frames[:, -8:].max() == 0
    assert judge(torch.from_numpy(frames), "a ring").presence == 1


@example
def judge_a_video(left: Names) -> None:
    clean, blurred, shuffled = (left["verdicts"][name] for name in ("clean", "blurred", "shuffled"))
    assert clean.prompt == 1
    assert blurred.sharpness < 0.7 < 0.9 < clean.sharpness
    assert not shuffled.right["motion"]


@example
def refine_a_video(left: Names) -> None:
    prompt = "a dotted red circle moving right on a teal striped background"
    before = judge(torch.from_numpy(left["draft"].frames), prompt).right
    assert not before["texture"]
    assert not before["pattern"]
    assert before["motion"]
    shows(read("out/refined.mp4").resized(64, 64), prompt)


@example
def recipe_in_python(left: Names) -> None:
    assert recipe.load(left["path"]) == left["mine"]
    assert left["video"].settings["calls"] == {"control": 6, "spatial": 4, "temporal": 4}
    shows(left["video"], left["mine"].prompt)


@example
def find_boundaries(left: Names) -> None:
    found = left["found"]
    assert found.choices["budget"].cost <= 0.6 * found.case.costs[0] * found.ladder.steps
    assert left["video"].settings["calls"]["large"] == found.choices["budget"].choice.count(0)
    assert Path("out/calibration/curves.png").is_file()
    shows(left["video"].resized(64, 64), left["prompts"][0])


@example
def long_video(left: Names) -> None:
    assert left["lengths"] == [8, 16, 16, 8], "windows straddle the segments"
    frames = read("out/long.mp4").resized(64, 64).frames
    assert len(frames) == left["frames"]
    for first in range(0, left["frames"], 8):
        right = judge(torch.from_numpy(frames[first : first + 8]), left["prompt"]).right
        assert all(right[what] for what in ("colour", "shape", "background", "pattern")), (first, right)


@example
def a_story(left: Names) -> None:
    frames = torch.from_numpy(left["video"].frames)
    (_, first), (turn, second) = events(frames)
    assert (first, second) == ("right", "up")
    assert abs(turn - 32) <= 4
    assert len(frames) == 32 + 16, "the last event lasts one clip"
    right = judge(frames, left["shared"]).right
    assert right
    assert all(right.values()), right
    assert Path("out/story.gif").is_file()


@example
def coupled_events(left: Names) -> None:
    averaged, coupled = (left["found"][name] for name in ("averaged", "coupled"))
    assert averaged[0].colour != averaged[1].colour
    for what in ("colour", "texture", "background", "pattern"):
        assert getattr(coupled[0], what) == getattr(coupled[1], what) is not None
    assert [now.motion for now in coupled] == ["right", "down"]
    assert Path("out/coupled.gif").is_file()


@example
def a_pipeline(left: Names) -> None:
    shows(left["video"], left["prompt"])
    assert len(left["small"].blocks) == len(left["large"].blocks) - 1
    assert Path("out/pipeline.gif").is_file()


@example
def several_takes(left: Names) -> None:
    ranked = [left["best"], *left["others"]]
    assert [take.evidence for take in ranked] == sorted((take.evidence for take in ranked), reverse=True)
    assert (left["video"].frames[0] == left["best"].video.frames[0]).mean() > 0.5, "the same beginning, in windows"
    assert len(left["video"].frames) == 48
    assert Path("out/takes.png").is_file()


@example
def before_a_download(left: Names) -> None:
    assert left["want"].repo == "THUDM/CogVideoX-2b"
    assert left["size"] > 10
    assert max(left["memory"], key=left["memory"].get) == "text", "T5-XXL is the largest of its parts"
    assert left["plan"].passes("base") > 2 * 50 * 13 / 4, "each frame is seen in three windows or four"
