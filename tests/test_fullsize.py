"""The benchmark of real sizes: it names its need, and its code path runs with small networks."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail.errors import RoomError, RoomWarning
from dovetail.experts.outline import parameters_of


@pytest.fixture
def fullsize(benchmarks: None) -> Any:
    return importlib.import_module("fullsize")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is at hand")
@pytest.mark.parametrize("what", ["confiner", "flowblending"])
def test_without_a_gpu_it_says_what_it_needs(fullsize: Any, what: str) -> None:
    with pytest.raises(SystemExit, match=r"needs a CUDA GPU .* and this machine has none; --tiny does not"):
        fullsize.main([what])


def test_the_configurations_are_the_published_ones(fullsize: Any) -> None:
    """Parameters as the repositories' files have them: 859.5 M, 1.41 B; and 14B, 1.3B."""
    sizes = {name: parameters_of(kind.network, kind.config) for name, kind in fullsize.KINDS.items()}
    assert sizes["spatial"] == 859_520_964
    assert {name: round(size / 1e9, 2) for name, size in sizes.items()} == {
        "spatial": 0.86,
        "control": 1.31,
        "temporal": 1.41,
        "large": 14.29,
        "small": 1.42,
    }


@pytest.mark.parametrize("what", [pytest.param("confiner", marks=pytest.mark.slow), "flowblending"])
def test_small_networks_take_the_same_way(fullsize: Any, what: str, tmp_path: Path) -> None:
    fullsize.main([what, "--tiny", "--results", str(tmp_path)])
    head, rate, *rows = (tmp_path / f"fullsize-{what}.txt").read_text().splitlines()
    assert "the numbers mean nothing" in head
    assert "TFLOP/s" in rate
    assert len(rows) == {"confiner": 4, "flowblending": 2}[what]
    for row in rows:
        for said in (" ms", "of the time in networks and codec, target >= 97 %", "of the matrix rate"):
            assert said in row
    last = rows[-1]
    assert re.search(r"x as fast as .*, target >= [\d.]+, [\d.]+ x fewer operations than ", last)
    assert "fewer" not in rows[0], "it is compared to nothing"
    if what == "confiner":
        assert "control 4 x" in rows[2]
        assert "spatial 10 x" in rows[2]
        assert "temporal 5 x" in rows[2]
        assert "spatial 5 x" in last
    else:
        assert "small" in last
        assert "large" in last


TINY = ("flowblending", "--tiny")


def line(row: Any, *_: Any) -> tuple[str, float]:
    return f"{row.name}: measured", 1.0


@pytest.fixture
def quick(fullsize: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing is measured."""
    monkeypatch.setattr(fullsize, "measured", line)
    monkeypatch.setattr(fullsize, "random_cast", lambda *_: None)
    monkeypatch.setattr(fullsize, "operations", lambda *_: 1)
    return fullsize


def failing(name: str, error: Exception) -> Any:
    def measured(row: Any, *rest: Any) -> tuple[str, float]:
        if row.name == name:
            raise error
        return line(row, *rest)

    return measured


ROOM = RoomError("expert 'large'", "latents of 21 frames, 1 at once,", "cuda (80.0 GB, 1.0 GB of it free)", "video", 1)
SHORT = {
    "expert 'large': latents of 21 frames, 1 at once, do not fit in the memory of cuda (80.0 GB, 1.0 GB of it free) in "
    "stage 'video', step 1": ROOM,
    "CUDA out of memory. Tried to allocate 2.00 GiB": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"
    ),
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
}


@pytest.mark.parametrize("reason", SHORT)
def test_a_row_that_does_not_fit_says_so_and_the_others_are_measured(
    quick: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(quick, "measured", failing("LLL", SHORT[reason]))
    monkeypatch.setattr(quick, "random_cast", lambda what, row, *_: made.append(row.name))
    quick.main([*TINY, "--results", str(tmp_path)])
    rows = (tmp_path / "fullsize-flowblending.txt").read_text().splitlines()[2:]
    assert rows == [f"LLL: did not fit: {reason}", "LSL: measured"], "and it is compared to nothing"
    assert made == ["LLL", "LSL"], "what is left of a try is let go"


def test_rows_are_written_as_they_come(quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "measured", failing("LSL", ValueError("a mistake")))
    with pytest.raises(ValueError, match="a mistake"):
        quick.main([*TINY, "--results", str(tmp_path)])
    rows = (tmp_path / "fullsize-flowblending.txt").read_text().splitlines()[2:]
    assert rows == ["LLL: measured"]


def test_rows_that_are_not_measured_again_stay(quick: Any, tmp_path: Path) -> None:
    file = tmp_path / "fullsize-flowblending.txt"

    def played(*more: str) -> list[str]:
        quick.main([*TINY, "--results", str(tmp_path), *more])
        return [row.partition(";")[0] for row in file.read_text().splitlines()[2:]]

    assert played("--only", "LSL") == ["LSL: measured"]
    assert played("--only", "LLL") == ["LLL: measured", "LSL: measured"], "in their order"
    head, rate, first, second = file.read_text().splitlines()
    file.write_text("\n".join([head, rate, f"{first} before", f"{second} before", ""]))
    assert played("--only", "LSL") == ["LLL: measured before", "LSL: measured"]
    assert played("--only", "LLL, compiled")[2:] == ["LLL, compiled: measured"]
    # Of another machine or setting none can stay, and some alone would be a part of a file.
    before = file.read_text()
    with pytest.raises(SystemExit, match=r"rows of another machine or setting .*; --results takes another folder"):
        played("--steps", "20", "--only", "LLL")
    assert file.read_text() == before
    assert played("--steps", "20") == ["LLL: measured", "LSL: measured"]


@pytest.mark.parametrize("how", ["--tiny", "--count"])
def test_an_unknown_row_is_refused(fullsize: Any, how: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"unknown row 'LSLL'; did you mean 'LSL'\? Known: .*LLL"):
        fullsize.main(["flowblending", how, "--only", "LLL", "LSLL", "--results", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_row_says_that_less_was_done_at_once(fullsize: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fullsize.random_cast

    def cramped(*args: Any) -> Any:
        cast = whole(*args)
        decode = cast.codec.module.decoder.forward

        def forward(x: torch.Tensor, *more: Any, **named: Any) -> Any:
            if x.shape[-1] > 4:
                raise torch.OutOfMemoryError("CUDA out of memory. (pretended)")
            return decode(x, *more, **named)

        cast.codec.module.decoder.forward = forward
        return cast

    monkeypatch.setattr(fullsize, "random_cast", cramped)
    with pytest.warns(RoomWarning):
        fullsize.main([*TINY, "--only", "LLL", "--results", str(tmp_path)])
    row = (tmp_path / "fullsize-flowblending.txt").read_text().splitlines()[2]
    assert "; less at once: " in row
    assert "6 cells a side at once did not fit in memory; 4 from then on" in row


SLOW = pytest.param("confiner", {"8": 7.767, "10": 10.21}, marks=pytest.mark.slow)


@pytest.mark.parametrize(("what", "counted"), [SLOW, ("flowblending", {"1.5": 1.498})])
def test_what_counting_alone_allows_stands_beside_each_target(
    fullsize: Any, what: str, counted: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """At real sizes, on any machine; and docs/memory.md says so."""
    fullsize.main([what, "--count"])
    said = [float(found) for found in re.findall(r"([\d.]+) x fewer operations", capsys.readouterr().out)]
    assert said == list(counted.values())
    page = (Path(__file__).parents[1] / "docs" / "memory.md").read_text(encoding="utf-8")
    for target, times in counted.items():
        assert re.search(rf"\| {re.escape(target)} \| {times} \|", page)
