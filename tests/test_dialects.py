"""One exact expert, spoken in every family's dialect, gives one video."""

import pytest
import torch

from dovetail.core.denoiser import TARGETS, timeline
from dovetail.core.exact import Gaussian, spoken
from dovetail.core.ladders import trailing
from dovetail.core.noise import Noise
from dovetail.core.path import mix
from dovetail.core.sampler import Ancestral, DPMSolver2M, Euler, UniPC, last, sample
from dovetail.core.schedules import Flow, VarianceExploding, VariancePreserving

FRAMES = timeline(6)
EPS = Noise(2).like(torch.empty(1, 4, 6, 5, 5), FRAMES, "start")
KNOWS = Gaussian(0.7, 0.5)
SD = VariancePreserving.betas("scaled_linear", 0.00085, 0.012)
COG = VariancePreserving.betas("scaled_linear", 0.00085, 0.012, snr_shift_scale=3.0)
# Levels that all schedules have in common: whole timesteps of SD.
LADDER = trailing(SD, 12).levels
START = mix(torch.full_like(EPS, 0.7), EPS, LADDER[0])

SOLVERS = [Euler(), DPMSolver2M(), UniPC(), Ancestral(Noise(3))]
DIALECTS = [
    pytest.param(schedule, target, id=f"{name}-{kind}")
    for name, schedule in [("flow", Flow()), ("vp", SD), ("ve", VarianceExploding(200.0))]
    for kind, target in TARGETS.items()
]


def video(denoise, ladder=LADDER, solver=None):
    return last(sample(denoise, START, FRAMES, ladder, solver or Euler())).seen.x0


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize(("schedule", "target"), DIALECTS)
def test_one_expert_in_every_dialect_gives_one_video(schedule, target, solver):
    expert = spoken(KNOWS, schedule, target).given("")
    torch.testing.assert_close(video(expert, solver=solver), video(KNOWS, solver=solver), rtol=2e-4, atol=2e-4)


def test_dialects_matter():
    """An expert heard in the wrong dialect gives another video; so the law above can fail."""
    expert = spoken(KNOWS, SD, TARGETS["v_prediction"])
    heard = type(expert)("wrong", SD, TARGETS["epsilon"], expert.network).given("")
    assert float((video(heard) - video(KNOWS)).abs().max()) > 0.1


def test_schedules_differ_only_in_their_levels():
    """CogVideoX's shifted table names the same shares by other timesteps."""
    ladder = trailing(COG, 12).levels
    assert ladder != LADDER
    assert COG.native(ladder[3]) == SD.native(LADDER[3])
    expert = spoken(KNOWS, COG, TARGETS["v_prediction"]).given("")
    torch.testing.assert_close(video(expert, ladder), video(KNOWS, ladder), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("target", ["v_prediction", "sample", "flow_prediction"])
def test_zero_terminal_snr_starts_from_pure_noise(target):
    zero = VariancePreserving.betas("scaled_linear", 0.00085, 0.012, zero_terminal_snr=True)
    ladder = trailing(zero, 12)
    assert ladder.levels[0] == ladder.first == 1.0
    expert = spoken(KNOWS, zero, TARGETS[target]).given("")
    torch.testing.assert_close(video(expert, ladder.levels), video(KNOWS, ladder.levels), rtol=2e-4, atol=2e-4)


def test_experts_of_two_dialects_share_a_latent():
    """Half a run by a flow expert, half by a noise-predicting one: the hand-over needs no conversion."""
    flow = spoken(KNOWS, Flow(), TARGETS["flow_prediction"]).given("")
    vp = spoken(KNOWS, SD, TARGETS["epsilon"]).given("")
    half = len(LADDER) // 2
    *_, middle = sample(flow, START, FRAMES, LADDER[: half + 1], Euler())
    end = last(sample(vp, middle.seen.mix(LADDER[half]), FRAMES, LADDER[half:], Euler())).seen.x0
    torch.testing.assert_close(end, video(KNOWS), rtol=2e-4, atol=2e-4)
