"""The command line: its options (frozen here), its outputs, its exit codes."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
import typer.main
from PIL import Image
from typer.testing import CliRunner, Result

from dovetail import cli, run
from dovetail import recipe as recipes
from dovetail import video as dovetail_video
from dovetail.video import Video, read, settings_of, writing
from dovetail.video.growing import Growing

QUICK = [part for name in ("control", "spatial", "temporal") for part in ("--set", f"experts.{name}.candidates=32")]
EXACT = ["-r", "sprites-exact", "--frames", "3", *QUICK]


def dovetail(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def refused(*words: object, code: int = 1) -> str:
    """What a command that must fail says, on stderr alone."""
    result = dovetail(*words)
    assert result.exit_code == code, result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


def surface(command: Any, above: str = "") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, sub in command.commands.items():
        inner = surface(sub, f"{above}{name} ") if hasattr(sub, "commands") else {}
        found |= inner or {above + name: sorted(opt for p in sub.params for opt in p.opts)}
    return found


def test_the_options_are_these_and_no_more() -> None:
    """A new option is a decision: most wishes are a recipe's value, and --set reaches all of them."""
    assert surface(typer.main.get_command(cli.app)) == {
        "generate": [
            *[
                "--by",
                "--continue",
                "--count",
                "--event",
                "--fade",
                "--frames",
                "--from",
                "--out",
                "--preview",
                "--prompts",
                "--recipe",
                "--run",
                "--seconds",
                "--seed",
                "--set",
                "--shared",
                "--size",
                "--story",
                "--takes",
                "--vram",
            ],
            *["-o", "-r", "prompt"],
        ],
        "takes": [
            *["--by", "--event", "--fade", "--frames", "--of", "--out", "--recipe", "--seconds", "--seed", "--set"],
            *["--shared", "--size", "--story", "--vram", "-o", "-r", "prompt"],
        ],
        "refine": [
            *[
                "--event",
                "--fade",
                "--frames",
                "--out",
                "--preview",
                "--recipe",
                "--run",
                "--seed",
                "--set",
                "--shared",
                "--size",
            ],
            *["--story", "--strength", "--vram", "-o", "-r", "prompt", "video"],
        ],
        "resume": ["--preview", "run"],
        "decode": ["--crf", "--fps", "--out", "--size", "--still", "--tiles", "-o", "run"],
        "plan": [
            *["--event", "--fade", "--frames", "--seconds", "--set", "--shared", "--size", "--story", "--vram"],
            "recipe",
        ],
        "calibrate": [
            *["--also", "--budget", "--by", "--compare", "--error", "--follow", "--out", "--prompts", "--set", "-o"],
            "recipe",
        ],
        "recipes": ["name"],
        "words": ["word"],
        "experts": [],
        "models list": [],
        "models size": ["--offline", "--revision", "--variant", "what"],
        "models pull": ["--offline", "--revision", "--variant", "what"],
        "models verify": ["--revision", "--variant", "what"],
        "doctor": [],
        "compare": ["--out", "-o", "left", "right"],
        "eval": ["--out", "--segments", "-o", "videos"],
    }


@pytest.mark.parametrize("words", [(), ("generate",), ("refine",), ("plan",), ("compare",), ("models", "pull")])
def test_every_command_has_help(words: Sequence[str]) -> None:
    result = dovetail(*words, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


# --- what commands do --------------------------------------------------------------------------------------------


def test_generate_writes_a_video_and_says_one_line(tmp_path: Path) -> None:
    out = tmp_path / "new" / "clip.mp4"
    result = dovetail("generate", "a red circle", *EXACT, "-o", out, "--seed", 4)
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    assert line.startswith("calls: control 4, spatial 10, temporal 5 · ")
    assert line.endswith(f"MB at most · {out}")
    assert not result.stderr, "quiet where stderr is no terminal"
    assert read(out).size == (384, 384)
    manifest = json.loads((tmp_path / "new" / "clip.mp4.json").read_text())
    assert manifest == settings_of(out)
    assert manifest["recipe"]["prompt"] == "a red circle"
    assert manifest["recipe"]["video"]["seed"] == 4


def test_from_makes_the_same_frames_again(tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("a.mp4", "b.mp4", "c.npz"))
    assert dovetail("generate", *EXACT, "--seed", 2, "-o", first).exit_code == 0
    assert dovetail("generate", "--from", first, "-o", again).exit_code == 0
    assert (read(first).frames == read(again).frames).all()
    assert dovetail("generate", "--from", first, "--seed", 3, "-o", other).exit_code == 0
    assert settings_of(other)["recipe"]["video"]["seed"] == 3


def test_count_makes_seeds_and_a_sheet(tmp_path: Path) -> None:
    result = dovetail("generate", *EXACT, "--seed", 5, "--count", 2, "-o", tmp_path / "a.npz")
    assert result.exit_code == 0, result.output
    names = ["a-5.npz", "a-5.npz.json", "a-6.npz", "a-6.npz.json", "a-sheet.png"]
    assert sorted(f.name for f in tmp_path.iterdir()) == names
    five, six = read(tmp_path / "a-5.npz"), read(tmp_path / "a-6.npz")
    assert (five.frames != six.frames).any()
    picture = np.asarray(Image.open(tmp_path / "a-sheet.png"))
    assert (picture[1:65, 1:65] == five.frames[0]).all()
    assert (picture[67:131, 1:65] == six.frames[0]).all()
    single = tmp_path / "single.npz"
    assert dovetail("generate", *EXACT, "--seed", 6, "-o", single).exit_code == 0
    assert (read(single).frames == six.frames).all(), "a seed means the same alone and among others"


def test_a_file_of_prompts_makes_a_video_of_each(tmp_path: Path) -> None:
    """Of all seeds, by the prompt's number; empty lines are none."""
    file, options = tmp_path / "prompts.txt", ("-r", "sprites-exact", *QUICK)
    file.write_text("a red circle\n\na blue ring moving up\n")
    result = dovetail("generate", "--prompts", file, *options, "-o", tmp_path / "out/a.npz")
    assert result.exit_code == 0, result.output
    names = ["a-1.npz", "a-1.npz.json", "a-2.npz", "a-2.npz.json", "a-sheet.png"]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == names
    told = [settings_of(tmp_path / f"out/a-{i}.npz")["recipe"]["prompt"] for i in (1, 2)]
    assert told == ["a red circle", "a blue ring moving up"]
    alone = tmp_path / "alone.npz"
    assert dovetail("generate", "a blue ring moving up", *options, "-o", alone).exit_code == 0
    assert (read(alone).frames == read(tmp_path / "out/a-2.npz").frames).all(), "the same alone and among others"
    assert dovetail("generate", "--prompts", file, *options, "--count", 2, "-o", tmp_path / "b.npz").exit_code == 0
    assert sorted(f.stem for f in tmp_path.glob("b-*.npz")) == ["b-1-0", "b-1-1", "b-2-0", "b-2-1"]


def test_prompts_that_are_none_are_told(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    assert "holds no prompts; one a line" in refused("generate", "--prompts", empty, "-o", tmp_path / "a.npz")
    assert "no list of prompts" in refused("generate", "--prompts", tmp_path / "none.txt", "-o", tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_of_many_videos_one_is_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder holds some twenty megabytes, and --count may be a thousand."""
    alive, most = WeakSet[Growing](), 0

    @contextmanager
    def watched(*args: Any) -> Iterator[Growing]:
        nonlocal most
        with writing(*args) as growing:
            alive.add(growing)
            most = max(most, len(alive))
            yield growing

    monkeypatch.setattr(dovetail_video, "writing", watched)
    result = dovetail("generate", *EXACT, "--count", 4, "-o", tmp_path / "a.mp4")
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.glob("a-*.mp4"))) == 4
    assert most == 1


def test_a_size_is_said_as_width_and_height(tmp_path: Path) -> None:
    sized = [*EXACT[2:], "--set", "video.height=48", "--size", "32x32"]
    made = dovetail("generate", "a red circle", "-r", "sprites-exact", *sized, "-o", tmp_path / "a.npz")
    assert made.exit_code == 0, made.output
    assert read(tmp_path / "a.npz").frames.shape[1:3] == (32, 32)
    assert "of 32x32 at" in dovetail("plan", "sprites-exact", *sized).stdout
    wide = dovetail("plan", "sprites", "--size", "96x64")
    assert "of 96x64 at" in wide.stdout, "width comes first"


def test_refine_takes_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dovetail("generate", *EXACT, "-o", tmp_path / "draft.mp4").exit_code == 0
    monkeypatch.chdir(tmp_path)
    words = ["refine", "draft.mp4", "a red circle", "-r", "sprites-exact", "--strength", 200, *QUICK]
    result = dovetail(*words, "-o", tmp_path / "fine.npz")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("calls: spatial 10, temporal 5 · ")
    recipe = settings_of(tmp_path / "fine.npz")["recipe"]
    assert recipe["chain"][0]["ladder"] == {"below": {"of": "spatial", "timestep": 200, "steps": 5}}
    monkeypatch.chdir("/")
    again = dovetail("generate", "--from", tmp_path / "fine.npz", "-o", tmp_path / "again.npz")
    assert again.exit_code == 0, again.output
    assert (read(tmp_path / "fine.npz").frames == read(tmp_path / "again.npz").frames).all()


def test_plan_prints_stages_tree_and_calls() -> None:
    result = dovetail("plan", "sprites", "--set", "chain.refine.ladder.below.steps=10")
    assert result.exit_code == 0
    said = result.stdout
    assert "16 frames of 64x64 at 8 fps, seed 0" in said
    assert "stage structure: 4 steps by Euler, noise shares 1 0." in said
    tree = "  coordinated\n    spatial: framewise\n      spatial, guidance 3.0\n    temporal: temporal, guidance 3.0\n"
    assert tree in said
    table = [line.split() for line in said.splitlines()[-3:]]
    assert table == [["control", "4", "4"], ["spatial", "20", "40"], ["temporal", "10", "20"]]


def test_plan_speaks_in_the_words_of_the_recipe() -> None:
    def tree(recipe: str, *changes: str) -> str:
        words = [word for change in changes for word in ("--set", change)]
        return dovetail("plan", recipe, *words).stdout

    long = tree("sprites-long-paper", "chain.structure.noise.consistent.strength=0.5")
    assert (
        "side by side; starts from noise that is consistent, strength 0.5\n  coherent, strength 0.3\n    control"
        in long
    )
    blended = tree("sprites-flowblending", "chain.video.denoise.blended.history=dropped")
    assert re.search(r"\n  blended, history dropped\n    above 0\.\d+: large, guidance 3\.0\n", blended)
    coupled = tree("sprites-story", "chain.structure.denoise.coupled.again=small")
    assert re.search(r"\n  coupled, size 16, .*hold \{within: 2\.0, .*wide 12\n    blended\n", coupled)
    assert "\n    again: small\n" in coupled


def test_recipes_and_experts_are_listed() -> None:
    listed = dovetail("recipes").stdout
    assert [line for line in listed.splitlines() if line[:2] != "  "] == list(recipes.names())
    assert max(map(len, listed.splitlines())) <= 80
    experts = dovetail("experts").stdout
    for word in ("stable-diffusion", "animatediff", "text-to-video-sd", "exact"):
        assert f"\n{word}  " in f"\n{experts}"
    (control,) = [line for line in experts.splitlines() if line.startswith("sprites/control (animatediff): ")]
    assert "missing" in control or "MB, packaged, Apache-2.0" in control
    assert "used by sprites, sprites-18" in control


def test_compare_puts_two_videos_side_by_side(tmp_path: Path) -> None:
    for name, shade in (("a", 10), ("b", 200)):
        Video(np.full((3, 64, 64, 3), shade, np.uint8), 8.0).save(tmp_path / f"{name}.npz")
    result = dovetail("compare", tmp_path / "a.npz", tmp_path / "b.npz", "-o", tmp_path / "both.npz")
    assert result.exit_code == 0, result.output
    both = read(tmp_path / "both.npz")
    assert (both.frames[:, 0, 0] == 10).all()
    assert (both.frames[:, 0, -1] == 200).all()
    assert (tmp_path / "both-sheet.png").is_file()


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "-r", "sprits"), "unknown recipe 'sprits'; did you mean 'sprites'?"),
        (("generate", "--frames", 600), "at most 16. Use --frames 16 or fewer"),
        (("generate", "--frames", 0), "video.frames: 0 (a number) came"),
        (("generate", "--seed", -1), "video.seed: -1 (a number) came"),
        (("generate", "--set", "video.heigth=64"), "video.heigth: unknown key; did you mean 'height'?"),
        (("generate", "-r", "sprites-exact", "--set", "video.height=63"), "multiples of 2"),
        (
            ("generate", "--set", "chain.structure.denoise=contrl"),
            "no expert is called 'contrl'; did you mean 'control'?",
        ),
        (("generate", "--set", "experts.spatial.weights=sprites/none"), "sprites/"),
        (("generate", "--from", "none.mp4"), "no video at none.mp4"),
        (("refine", "none.mp4", "a red circle"), "no video at none.mp4"),
        (("compare", "none.mp4", "none.mp4"), "no video at none.mp4"),
        (("plan", "none.yaml"), "no recipe file none.yaml"),
        (("generate", "-o", "clip.avi"), "'.avi' is no known format"),
        (("generate", "-o", "."), "cannot write .: it needs a name"),
        (("generate", "--count", 2, "-o", "."), "cannot write .: it needs a name"),
        (("generate", "--set", "video.fps=60.0", "-o", "clip.gif"), "use .mp4"),
        (("generate", "-r", "sprites-exact", "--seed", 2**63 - 1, "--count", 2), "video.seed: 9223372036854775808"),
    ],
)
def test_user_errors_are_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Sequence[object], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(*words)
    assert message.startswith("error: ")
    assert said in message
    assert not [f for f in tmp_path.rglob("*") if f.is_file()], "an error leaves no files"


def test_an_output_that_cannot_be_written_stops_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "load", lambda recipe: pytest.fail("work started"))
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("generate", *EXACT, "-o", tmp_path / "file" / "a.mp4")
    (tmp_path / "a-1.mp4").mkdir()
    assert "a folder has this name" in refused("generate", *EXACT, "--count", 2, "-o", tmp_path / "a.mp4")


def test_what_a_run_reads_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`out.mp4` is the default for all commands, so the second one would write over the first one's video."""
    monkeypatch.chdir(tmp_path)
    settings = {"recipe": recipes.plain(recipes.load("sprites-exact"))}
    before = Video(np.zeros((2, 64, 64, 3), np.uint8), 8.0, settings).save("out.mp4").read_bytes()
    for words in (
        ["refine", "out.mp4", "-r", "sprites-exact"],
        ["generate", "--from", tmp_path / "out.mp4", "--seed", 3],
        ["compare", "other.mp4", "out.mp4", "-o", "out.mp4"],
        ["generate", "-r", "sprites-exact", "--frames", 2, "--set", "start={video: out.mp4}"],
    ):
        assert "out.mp4: it is what this run reads" in refused(*words)
    assert Path("out.mp4").read_bytes() == before


@pytest.mark.parametrize(
    "words", [("generate", "--sead", 3), ("genrate",), ("refine",), ("generate", "--from", "a.mp4", "-r", "sprites")]
)
def test_wrong_usage_exits_with_2(words: Sequence[object]) -> None:
    assert refused(*words, code=2)


def test_strange_words_get_one_note_with_the_grammar(tmp_path: Path) -> None:
    result = dovetail("generate", "a purple circle", *EXACT, "-o", tmp_path / "a.npz")
    assert result.exit_code == 0
    assert result.stderr.count("note: ") == 1
    assert "'purple'" in result.stderr
    assert "circle|ring" in result.stderr


ANNOUNCED = """
import signal

from dovetail import cli, run

# Whoever runs these tests may have told its children to ignore Ctrl-C; a terminal does not.
signal.signal(signal.SIGINT, signal.default_int_handler)

whole = run.together


def together(*told, **more):
    for event in whole(*told, **more):
        print("step", flush=True)
        yield event


run.together = together
cli.main()
"""
"""The command, saying when it has taken a step."""


def test_ctrl_c_exits_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    """A run of many steps, broken in its middle by the signal that a terminal sends."""
    steps = [
        "chain.structure.ladder.trailing.steps=1000",
        "chain.refine.ladder.below={of: spatial, timestep: 1000, steps: 1000}",
    ]
    words = ["generate", *EXACT, "-o", str(tmp_path / "a.mp4"), *(part for step in steps for part in ("--set", step))]
    process = subprocess.Popen(
        [sys.executable, "-c", ANNOUNCED, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


# --- the command itself ------------------------------------------------------------------------------------------


def test_it_says_its_version() -> None:
    from importlib.metadata import version

    assert dovetail("--version").stdout == f"dovetail {version('dovetail-video')}\n"


def test_it_runs_as_a_module() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "dovetail", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("dovetail ")


def test_a_recipe_is_printed_as_it_is_written() -> None:
    for name in recipes.names():
        said = dovetail("recipes", name)
        assert said.exit_code == 0
        assert recipes.parse(said.stdout) == recipes.load(name)
    assert said.stdout.startswith("# Run: dovetail generate")
    assert "did you mean 'sprites'" in refused("recipes", "sprits")
