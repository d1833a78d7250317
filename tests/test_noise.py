"""Addressed noise: the same address gives the same numbers, whoever asks, when and where."""

import subprocess
import sys

import pytest
import torch

from dovetail.core.denoiser import timeline
from dovetail.core.noise import Noise

X = torch.empty(1, 4, 12, 6, 6)
FRAMES = timeline(12)
NOISE = Noise(7, "structure")


def test_windows_see_what_the_whole_sees():
    whole = NOISE.like(X, FRAMES, "start")
    for window in (slice(0, 5), slice(5, 12), slice(7, 8)):
        assert torch.equal(NOISE.like(X[:, :, window], FRAMES[:, window], "start"), whole[:, :, window])


def test_rows_on_the_batch_axis_see_what_the_whole_sees():
    whole = NOISE.like(X, FRAMES, "start")
    rows = torch.cat([FRAMES[:, 0:8], FRAMES[:, 4:12]])
    seen = NOISE.like(torch.empty(2, 4, 8, 6, 6), rows, "start")
    assert torch.equal(seen[0], whole[0, :, 0:8])
    assert torch.equal(seen[1], whole[0, :, 4:12])


def test_frames_in_any_order_keep_their_noise():
    order = torch.randperm(12)
    assert torch.equal(NOISE.like(X, FRAMES[:, order], "start"), NOISE.like(X, FRAMES, "start")[:, :, order])


def test_calls_before_change_nothing_and_the_global_stream_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one = NOISE.like(X, FRAMES, "start")
    NOISE.like(X, FRAMES, "other", 0.25)
    assert torch.equal(NOISE.like(X, FRAMES, "start"), one)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    "other",
    [
        lambda: Noise(8, "structure").like(X, FRAMES, "start"),
        lambda: Noise(7, "refine").like(X, FRAMES, "start"),
        lambda: NOISE.of("refine").like(X, FRAMES, "start"),
        lambda: NOISE.like(X, FRAMES, "back"),
        lambda: NOISE.like(X, FRAMES, "start", 0.5),
        lambda: NOISE.like(X, FRAMES + 1, "start"),
    ],
    ids=["seed", "stage", "of", "key", "level", "frames"],
)
def test_every_part_of_the_address_counts(other):
    one, two = NOISE.like(X, FRAMES, "start"), other()
    assert float((one - two).abs().min()) > 0
    assert abs(float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1])) < 0.1


def test_frames_are_independent_and_standard_normal():
    noise = Noise(1).like(torch.empty(1, 4, 200, 16, 16), timeline(200), "start")
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    between = torch.corrcoef(noise[0].transpose(0, 1).flatten(1)) - torch.eye(200)
    assert float(between.abs().max()) < 6 / 1024**0.5


def test_type_and_place_follow_the_latent():
    assert NOISE.like(X.double(), FRAMES, "start").dtype == torch.float64
    low = NOISE.like(X.bfloat16(), FRAMES, "start")
    assert torch.equal(low, NOISE.like(X, FRAMES, "start").bfloat16())
    assert NOISE.like(X.to("meta"), FRAMES, "start").device.type == "meta"


@pytest.mark.gpu
def test_noise_is_the_same_on_a_gpu():
    there = NOISE.like(X.to("cuda"), FRAMES.to("cuda"), "start")
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), NOISE.like(X, FRAMES, "start"))


def test_another_process_draws_the_same():
    """No part of the address hangs on Python's hash seed."""
    code = (
        "import torch; from dovetail.core.noise import Noise; from dovetail.core.denoiser import timeline;"
        "print(Noise(7, 'structure').like(torch.empty(1, 4, 12, 6, 6), timeline(12), 'start', 0.3).double().sum().item())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(said) == NOISE.like(X, FRAMES, "start", 0.3).double().sum().item()
