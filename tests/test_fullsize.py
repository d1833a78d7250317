"""The benchmark of real sizes: it names its need, and its code path runs with small networks."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

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
