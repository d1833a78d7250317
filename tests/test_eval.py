"""Statistics against closed forms and simulations; stand-ins against known damage."""

import pytest
import torch
from torch import Tensor

from dovetail.eval.pixel import colours, consistency, matched, measure, thumbnails
from dovetail.eval.stats import Cells, holm, sign_flip, wilson
from dovetail.sprites.degrade import degrade
from dovetail.sprites.world import Ask, imagine, render


def cells(values: Tensor) -> Cells:
    """From "method prompt seed"."""
    return Cells.of(
        {
            f"m{i}": {(p, s): float(v) for p, row in enumerate(one) for s, v in enumerate(row)}
            for i, one in enumerate(values)
        }
    )


# --- statistics --------------------------------------------------------------------------------------------------


def test_wilson_is_the_textbook_interval():
    found = wilson(0.8, 50)
    assert (found.low, found.high) == pytest.approx((0.669631, 0.887562), abs=1e-5)
    assert wilson(1.0, 10).high == 1.0
    with pytest.raises(ValueError, match="share"):
        wilson(1.2, 10)


def test_holm_orders_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_sign_flip_counts_sign_patterns():
    assert sign_flip([1.0] * 5) == 2 / 32
    assert sign_flip([1.0, -1.0]) == 1.0
    assert sign_flip([0.0] * 4) == 1.0
    assert sign_flip([1.0] * 30) < 0.001


def test_a_prompt_counts_once_however_many_seeds_it_has():
    found = Cells.of({"a": {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 10.0}})
    assert float(found.means[0]) == 6.0
    # Resampled means of two prompts: (2|1|3 or 10 each) / 2; a seed that is not there is never drawn.
    drawn = found.resampled(500)[:, 0]
    assert drawn.min() >= 1.0
    assert drawn.max() == 10.0


def test_only_cells_that_all_methods_have_are_compared():
    rows = {"a": {(0, 0): 1.0, (1, 0): 2.0, (2, 0): 99.0}, "b": {(0, 0): 0.0, (1, 0): 0.5}}
    assert Cells.of(rows).differences("a", "b") == [1.0, 1.5]
    with pytest.raises(ValueError, match="a, b"):
        Cells.of({"a": {(0, 0): 1.0}, "b": {(1, 0): 1.0}})


def test_pairing_removes_what_prompts_have_in_common():
    generator = torch.Generator().manual_seed(1)
    prompts = 5 * torch.randn(20, 2, generator=generator)
    noise = 0.1 * torch.randn(2, 20, 2, generator=generator)
    found = cells(torch.stack([prompts + 0.3, prompts]) + noise)
    paired = found.difference("m0", "m1")
    assert 0.2 < paired.low < 0.3 < paired.high < 0.4
    assert found.mean("m0").high - found.mean("m0").low > 10 * (paired.high - paired.low)


def test_the_cluster_bootstrap_covers_the_truth():
    """40 prompts x 5 seeds, equal deviations: 95 % intervals hold the truth about that often; pooling all videos
    as independent does not."""
    generator = torch.Generator().manual_seed(2)
    hit, pooled = 0, 0
    for _ in range(150):
        values = torch.randn(1, 40, 1, generator=generator) + torch.randn(1, 40, 5, generator=generator)
        found = cells(values).interval(lambda means: means[..., 0], draws=400)
        hit += found.low <= 0 <= found.high
        pooled += bool(values.mean().abs() <= 1.96 * values.std() / 200**0.5)
    assert hit / 150 > 0.89
    assert pooled / 150 < hit / 150 - 0.05


# --- stand-ins ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip() -> Tensor:
    return render(imagine(Ask(motion="right", pattern="plain", texture="dotted"), 3), range(9))


def test_consistency_is_vbenchs_aggregation():
    a, b, c = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0])
    # (max(0, cos(prev)) + max(0, cos(first))) / 2 for b: 0; for a after b: (0 + 1) / 2; for c after a: 0.
    assert consistency(torch.stack([a, b, a, c])) == pytest.approx(0.5 / 3)


def test_a_shift_is_found_and_predicted():
    """Something textured that moves two pixels per frame lies half way between its neighbours."""
    field = torch.rand(3, 48, 80, generator=torch.Generator().manual_seed(4)) * 2 - 1
    video = torch.stack([field[:, :, 20 - 2 * f : 68 - 2 * f] for f in range(5)])
    flow, between = matched(video)
    inner = (..., slice(8, -8), slice(8, -8))
    assert bool((flow[:, 0][inner] == 2).all())
    assert bool((flow[:, 1][inner] == 0).all())
    torch.testing.assert_close(between[inner], video[1:-1:2][inner])
    found = measure(video)
    assert found.motion == pytest.approx(2.0, abs=0.1)
    assert found.dynamic_degree == 1.0
    assert found.motion_smoothness > found.motion_smoothness_blend + 0.1


def test_a_still_video_scores_one_and_does_not_move(clip):
    found = measure(clip[:1].expand(9, -1, -1, -1))
    assert found.subject_consistency == pytest.approx(1.0, abs=1e-5)
    assert (found.motion_smoothness, found.steadiness, found.smoothness_of_motion) == (1.0, 1.0, 1.0)
    assert (found.motion, found.dynamic_degree) == (0.0, 0.0)


def test_damage_moves_the_stand_ins(clip):
    """The signs that make these numbers readable: which damage each sees, and which flatters it."""
    clean, blurred = measure(clip), measure(degrade(clip))
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(5))
    noisy = measure((clip + 0.1 * noise).clamp(-1, 1))
    shuffled = measure(clip[[0, 4, 2, 7, 1, 8, 3, 6, 5]])
    gray = measure(clip.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert clean.dynamic_degree == 1.0
    assert shuffled.smoothness_of_motion < 0.5 < clean.smoothness_of_motion
    assert shuffled.motion_smoothness < clean.motion_smoothness
    assert shuffled.subject_consistency < clean.subject_consistency
    assert noisy.smoothness_of_motion < clean.smoothness_of_motion
    assert noisy.steadiness < clean.steadiness
    assert blurred.imaging_quality < 0.8 * clean.imaging_quality
    assert blurred.aesthetic_quality < clean.aesthetic_quality
    assert gray.aesthetic_quality == pytest.approx(0.0, abs=1e-6)
    # Blur flatters what counts pixel differences.
    assert blurred.steadiness > clean.steadiness


def test_what_descriptors_are_blind_to(clip):
    assert thumbnails(clip + 0.1) == pytest.approx(thumbnails(clip), abs=1e-5)
    flipped = clip.flip(3)
    torch.testing.assert_close(colours(flipped), colours(clip))


def test_measure_says_what_it_takes():
    with pytest.raises(ValueError, match="three frames"):
        measure(torch.zeros(2, 3, 8, 8))
