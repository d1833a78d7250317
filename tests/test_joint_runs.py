"""Runs whose steps are long, because windows of the whole video are looked at in each: kept by step, read and stopped inside."""

import io
import random
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from torch import Tensor
from typer.testing import CliRunner

from dovetail import cli
from dovetail import recipe as recipes
from dovetail.cli.progress import Bar, bar
from dovetail.core.denoiser import Condition
from dovetail.errors import DovetailError, OutputError, RecipeError, RunWarning, StoppedError
from dovetail.recipe import Recipe
from dovetail.run import Cast, Pulse, Step, continuing, folder_of, keep, load, play, resume, worth_keeping
from dovetail.run import keeping as kept_runs
from dovetail.run.folder import Folder

PLACE = "chain.video.denoise.coupled"
SMALL: dict[str, Any] = {
    "experts.video.candidates": 8,
    "chain.video.ladder.shifted.steps": 4,
    f"{PLACE}.floor": "auto",
    f"{PLACE}.stride": 8,
    f"{PLACE}.iterations": 2,
    "video.frames": 32,
    "video.height": 16,
    "video.width": 16,
}


def small(**changes: Any) -> Recipe:
    return recipes.changed(recipes.load("sprites-syncos-exact"), SMALL | changes)


@pytest.fixture(autouse=True)
def every_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_runs, "PAUSE", 0.0)
    monkeypatch.setattr("dovetail.video.frames.SHOWN", 32)


@pytest.fixture(scope="module")
def cast() -> Cast:
    return load(small())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cast: Cast) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dovetail.video.frames.SHOWN", 32)
        out = tmp_path_factory.mktemp("whole") / "a.mp4"
        for _ in keep(small(), out, cast=cast):
            pass
    return out


def same(out: Path, whole: Path) -> None:
    assert out.read_bytes() == whole.read_bytes()
    for name in ("video.mp4", "recipe.yaml", "manifest.json", "latents/00000.safetensors"):
        assert (folder_of(out) / name).read_bytes() == (folder_of(whole) / name).read_bytes(), name
    assert not (folder_of(out) / "step.safetensors").exists(), "the piece has taken its place"


def left(out: Path, cast: Cast, steps: int) -> None:
    """A run that is left after so many steps."""
    events = keep(small(), out, cast=cast)
    for _ in range(steps):
        assert isinstance(next(events), Step)
    events.close()


def steps(events: Any) -> list[int]:
    return [event.step for event in events if isinstance(event, Step)]


# --- kept by step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_run_that_is_left_after_any_step_goes_on_from_there_to_the_same_bytes(
    tmp_path: Path, whole: Path, cast: Cast, stop: int
) -> None:
    out = tmp_path / "a.mp4"
    left(out, cast, stop)
    assert steps(resume(folder_of(out), cast)) == list(range(min(stop, 3) + 1, 5))
    same(out, whole)


def test_it_may_be_left_again_and_again(tmp_path: Path, whole: Path, cast: Cast) -> None:
    out = tmp_path / "a.mp4"
    for _ in range(3):
        left(out, cast, 1)
    assert steps(resume(folder_of(out), cast)) == [4]
    same(out, whole)


@pytest.mark.parametrize("damage", ["a byte", "cut", "another run's", "removed"])
def test_a_step_that_is_damaged_is_taken_again(tmp_path: Path, whole: Path, cast: Cast, damage: str) -> None:
    out = tmp_path / "a.mp4"
    left(out, cast, 2)
    step = Folder(folder_of(out)).step
    data = step.read_bytes()
    if damage == "another run's":
        other = tmp_path / "b.mp4"
        events = keep(small(**{"video.seed": 1}), other, cast=cast)
        next(events), next(events)
        events.close()
        shutil.copy(Folder(folder_of(other)).step, step)
    elif damage == "removed":
        step.unlink()
    else:
        step.write_bytes(data[:-9] if damage == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    told = (
        nullcontext() if damage == "removed" else pytest.warns(RunWarning, match="step.safetensors.*it is made again")
    )
    with told:
        assert steps(resume(folder_of(out), cast)) == [1, 2, 3, 4]
    same(out, whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tmp_path: Path, whole: Path, cast: Cast) -> None:
    """kill -9 at 30 moments; steps were kept at many of them, and the run went on from there."""

    def work(out: Path) -> None:
        list(keep(small(), out, cast=cast))

    def begun(out: Path) -> Any:
        process = get_context("fork").Process(target=work, args=(out,))
        process.start()
        return process

    start = time.perf_counter()
    begun(tmp_path / "quiet.mp4").join()
    seconds, drawn, kills, kept, rounds = time.perf_counter() - start, random.Random(0), 0, 0, 0
    while kills < 30:
        out, rounds = tmp_path / f"{rounds}.mp4", rounds + 1
        for _ in range(4):
            process = begun(out)
            process.join(drawn.uniform(0, 0.8 * seconds))
            if not process.is_alive():
                seconds *= 0.8
                break
            process.kill()
            process.join()
            kills, kept = kills + 1, kept + Folder(folder_of(out)).step.exists()
        process = begun(out)
        process.join()
        assert process.exitcode == 0
        assert out.read_bytes() == whole.read_bytes()
        assert (folder_of(out) / "video.mp4").read_bytes() == (folder_of(whole) / "video.mp4").read_bytes()
    assert kept >= 5


def test_a_run_of_the_whole_video_is_not_continued(whole: Path) -> None:
    with pytest.raises(RecipeError, match=r"its stage video works on the whole video at once.* anew, with --frames"):
        continuing(folder_of(whole), frames=16)


def test_who_wants_it_longer_is_not_sent_to_what_it_cannot_do(whole: Path, cast: Cast) -> None:
    with pytest.raises(OutputError, match=r"video\.frames is 32 there, 48 here.* or remove that folder$"):
        list(keep(small(**{"video.frames": 48}), whole, cast=cast))


def test_short_steps_are_quicker_taken_than_written(
    tmp_path: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_runs, "PAUSE", 60.0)
    left(tmp_path / "a.mp4", cast, 3)
    assert not Folder(folder_of(tmp_path / "a.mp4")).step.exists()


def test_what_is_worth_a_folder(cast: Cast) -> None:
    assert worth_keeping(small(), cast)
    assert not worth_keeping(small(**{"video.frames": 16}), cast), "one window is no long step"
    plain = recipes.changed(small(), {"chain.video.denoise": "video"})
    assert not worth_keeping(plain, cast)
    assert worth_keeping(recipes.changed(plain, {"chain.video.window": 16}), cast)


def test_the_command_keeps_such_a_run(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(recipes.dump(small()))
    done = CliRunner().invoke(cli.app, ["generate", "-r", str(recipe), "-o", str(tmp_path / "a.mp4")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.run" / "manifest.json").is_file()


# --- inside of a step --------------------------------------------------------------------------------------------


def pulsed(cast: Cast, network: Any) -> Cast:
    expert = cast.experts["video"]
    return replace(cast, experts={"video": replace(expert, network=network)})


class Rows:
    """An exact network that answers row by row, and says so; `act` is done before each."""

    def __init__(self, network: Any, act: Any) -> None:
        self.network, self.act = network, act

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        return torch.cat(list(self.answers(x, time, conditions, frames)))

    def answers(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Any:
        for i in range(len(x)):
            self.act()
            yield self.network(x[i : i + 1], time, conditions[i : i + 1], frames[i : i + 1])


def test_what_is_done_inside_of_a_step_can_be_read(cast: Cast) -> None:
    """Three windows of 16 frames, looked at three times: a beat for each, as a share of what is planned."""
    pulse, shares = Pulse(), []
    rows = pulsed(cast, Rows(cast.experts["video"].network, lambda: shares.append(pulse.share)))
    events = play(small(), rows, pulse)
    first = next(events)
    assert isinstance(first, Step)
    assert pulse.of == 4 * 3 * 3 * 16
    assert shares == [i * 16 / pulse.of for i in range(9)]
    assert first.share == 9 * 16 / pulse.of
    assert pulse.share == 0
    next(events)
    assert shares[9:] == shares[:9]


def test_a_run_is_stopped_inside_of_a_step_and_goes_on(tmp_path: Path, whole: Path, cast: Cast) -> None:
    pulse, looks = Pulse(), []

    def look() -> None:
        looks.append(1)
        if len(looks) == 14:  # the fifth of the second step's nine
            threading.Thread(target=pulse.stop).start()
            while not pulse.stopped:
                pass

    rows = pulsed(cast, Rows(cast.experts["video"].network, look))
    taken: list[Any] = []
    with pytest.raises(StoppedError, match="stopped in the middle of a step") as raised:
        taken.extend(keep(small(), tmp_path / "a.mp4", cast=rows, pulse=pulse))
    assert isinstance(raised.value, DovetailError)
    assert steps(taken) == [1]
    assert len(looks) == 14
    assert steps(resume(folder_of(tmp_path / "a.mp4"), cast)) == [2, 3, 4]
    same(tmp_path / "a.mp4", whole)


def test_a_bar_moves_inside_of_steps() -> None:
    progress = Progress(console=Console(quiet=True))
    shown = Bar(progress, progress.add_task("", total=2.0), pulse=Pulse())
    shown.show(0, Step("video", 1, 4, 0.25))
    shown.pulse.of, shown.pulse.frames = 400, 50
    shown.move()
    assert progress.tasks[0].completed == 0.25 + 0.125
    shown.pulse.frames = 0
    shown.show(1, Step("video", 1, 4, 0.25))
    assert progress.tasks[0].completed == 0.5


def test_without_a_terminal_lines_say_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `nohup` writes to a file: where the run is, and, once that is known, how long it takes."""
    monkeypatch.setattr("dovetail.cli.progress.SELDOM", 0.02)
    out, pulse = io.StringIO(), Pulse(of=400)
    with bar(Console(file=out), 1, pulse) as shown:
        threading.Event().wait(0.1)
        assert not out.getvalue(), "nothing before there is anything to say"
        shown.show(0, Step("video", 5, 10, 0.5))
        pulse.frames = 40
        for _ in range(100):
            if "left" in out.getvalue():
                break
            threading.Event().wait(0.05)
    assert "60% video 5/10, 1 min left" in out.getvalue().splitlines()


def test_on_a_terminal_it_moves_by_itself() -> None:
    pulse = Pulse(of=100)
    with bar(Console(force_terminal=True, file=io.StringIO()), 1, pulse) as shown:
        before = threading.active_count()
        pulse.frames = 50
        for _ in range(100):
            if shown.progress.tasks[TaskID(0)].completed:
                break
            threading.Event().wait(0.05)
        assert shown.progress.tasks[TaskID(0)].completed == 0.5
    assert threading.active_count() < before, "and no more once it is over"
