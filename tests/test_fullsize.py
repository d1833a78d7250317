"""The benchmark of real sizes: it names its need, and its code path runs with small networks."""

import importlib
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


@pytest.mark.parametrize("what", ["confiner", "flowblending"])
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
    assert "x as fast as" in last
    if what == "confiner":
        assert "control 4 x" in rows[2]
        assert "spatial 10 x" in rows[2]
        assert "temporal 5 x" in rows[2]
        assert "spatial 5 x" in last
    else:
        assert "small" in last
        assert "large" in last
