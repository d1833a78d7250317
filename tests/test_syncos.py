"""SynCoS: the paper's algorithm beside ours, closed forms, and what each switch does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

import dovetail
from dovetail import recipe as recipes
from dovetail.core.combine import Guided, Windowed
from dovetail.core.denoiser import TARGETS, Condition, Expert, Prompted, Timeline, timeline
from dovetail.core.exact import Gaussian, spoken
from dovetail.core.hold import Hold
from dovetail.core.ladders import even, shifted, trailing
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix, split
from dovetail.core.sampler import Euler, last, sample
from dovetail.core.schedules import Flow, Schedule, VarianceExploding, VariancePreserving
from dovetail.core.windows import tile
from dovetail.errors import RecipeError
from dovetail.methods.consistent import Consistent
from dovetail.methods.renoised import Renoised
from dovetail.methods.stein import couple, stein
from dovetail.methods.syncos import Coupled
from dovetail.recipe import models

NOISE = Noise(5).of("story")
SIZE, STRIDE, LENGTH = 4, 2, 10
FRAMES = timeline(LENGTH)
EMPTY = torch.zeros(1, 2, LENGTH, 3, 3, dtype=torch.float64)
START = NOISE.like(EMPTY, FRAMES, "start")
STORY = Timeline(((0, Condition("calm")), (5, Condition("storm"))))
SD = VariancePreserving.betas("scaled_linear", 0.00085, 0.012)


# --- the paper's algorithm, in its own symbols -------------------------------------------------------------------


def net(x: Tensor, time: float, words: str) -> Tensor:
    """One chunk's prediction: it mixes frames, reads the time and the words, and is neither linear nor symmetric."""
    return torch.sin(0.8 * x + 0.5 * x.roll(1, 2) + time / 300 + len(words)) + 0.1 * x


@dataclass(frozen=True)
class Form:
    """One parametrisation of the literal algorithm: alpha and sigma at a time, x0 of a prediction, and the residual."""

    name: str
    target: str
    schedule: Schedule
    times: tuple[int, ...]
    alpha: Callable[[int], float]
    sigma: Callable[[int], float]
    x0: Callable[[Tensor, Tensor, float, float], Tensor]
    residual: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]


def vp_alpha(t: int) -> float:
    return 1.0 if t < 0 else SD.alphas_cumprod[t] ** 0.5


def vp_sigma(t: int) -> float:
    return 0.0 if t < 0 else (1 - SD.alphas_cumprod[t]) ** 0.5


TIMES = (999, 899, 799, 499, 99, -1)
FORMS = {
    "eps": Form(
        "eps", "epsilon", SD, TIMES, vp_alpha, vp_sigma,
        lambda x, out, a, s: (x - s * out) / a,
        lambda out, x0, eps, a, s: out - eps,
    ),
    "v": Form(
        "v", "v_prediction", SD, TIMES, vp_alpha, vp_sigma,
        lambda x, out, a, s: a * x - s * out,
        lambda out, x0, eps, a, s: out - (a * eps - s * x0),
    ),
    "flow": Form(
        "flow", "flow_prediction", Flow(), (1000, 950, 900, 500, 100, 0), lambda t: 1 - t / 1000, lambda t: t / 1000,
        lambda x, out, a, s: x - s * out,
        lambda out, x0, eps, a, s: out - (eps - x0),
    ),
}  # fmt: skip


def levels(form: Form) -> list[float]:
    """The noise shares of the form's times: what addresses noise."""
    return [form.schedule.share(t) for t in form.times[:-1]] + [0.0]


@dataclass
class Adam:
    """AdamW with weight decay 0, written out."""

    lr: float
    m: Tensor = field(default_factory=lambda: torch.zeros_like(EMPTY))
    v: Tensor = field(default_factory=lambda: torch.zeros_like(EMPTY))
    k: int = 0

    def step(self, x: Tensor, g: Tensor) -> Tensor:
        self.k += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g * g
        m, v = self.m / (1 - 0.9**self.k), self.v / (1 - 0.999**self.k)
        return x - self.lr * m / (v.sqrt() + 1e-8)


CHUNKS = [range(i, i + SIZE) for i in range(0, LENGTH - SIZE + 1, STRIDE)]


def fuse(said: dict[int, Tensor]) -> Tensor:
    """(1 / count_f) sum over the chunks that cover f; a frame in none of these is zero."""
    total, count = torch.zeros_like(EMPTY), torch.zeros(LENGTH, 1, 1, dtype=torch.float64)
    for i, y in said.items():
        total[:, :, CHUNKS[i]] += y
        count[CHUNKS[i]] += 1
    return total / count.clamp_min(1)


def stein_gradient(views: list[Tensor], r: list[Tensor], repulsion: bool) -> list[Tensor]:
    """G_i = (1 / N) (sum_j k(x_j, x_i) r_j - 2 gamma sum_j k_ij (x_i - x_j)), gamma = ln(N + 1) / lower median of d2."""
    n = len(views)
    d2 = [[float((a - b).square().sum()) for b in views] for a in views]
    median = sorted(d for row in d2 for d in row)[(n * n - 1) // 2]
    gamma = log(n + 1) / median
    gradients = []
    for i in range(n):
        k = [exp(-gamma * d2[i][j]) for j in range(n)]
        g = sum(k[j] * r[j] for j in range(n))
        if repulsion:
            g = g - 2 * gamma * sum(k[j] * (views[i] - views[j]) for j in range(n))
        gradients.append(g / n)  # type: ignore[operator]
    return gradients  # type: ignore[return-value]


def literal(
    form: Form, t_min: int, iterations: int, lr: float, batch: int | None = None, repulsion: bool = False
) -> Tensor:
    """Stage 1, 2 and 3 at every timestep, as printed, with AdamW; the result is x'_0."""
    x = START.clone()
    words = ["calm" if chunk[SIZE // 2] < 5 else "storm" for chunk in CHUNKS]
    for t, to, share in zip(form.times[:-1], form.times[1:], levels(form)[:-1], strict=True):
        a, s, b, z = form.alpha(t), form.sigma(t), form.alpha(to), form.sigma(to)
        view = {i: x[:, :, chunk] for i, chunk in enumerate(CHUNKS)}
        x0 = fuse({i: form.x0(y, net(y, t, words[i]), a, s) for i, y in view.items()})  # stage 1
        if t > t_min:
            eps_base = NOISE.like(EMPTY, FRAMES, "base", share)
            adam = Adam(lr)
            for k in range(iterations):  # stage 2
                x_t = a * x0 + s * eps_base
                order = NOISE.order(len(CHUNKS), "windows", share, k) if batch else range(len(CHUNKS))
                chosen = sorted(order[:batch])
                views = [x_t[:, :, CHUNKS[i]] for i in chosen]
                r = [
                    form.residual(net(y, t, words[i]), x0[:, :, CHUNKS[i]], eps_base[:, :, CHUNKS[i]], a, s)
                    for i, y in zip(chosen, views, strict=True)
                ]
                gradients = stein_gradient(views, r, repulsion)
                x0 = adam.step(x0, fuse(dict(zip(chosen, gradients, strict=True))))
            x = b * x0 + z * eps_base  # stage 3
        else:
            x = b * x0 + z * (x - a * x0) / s
    return x


def expert(form: Form, prompt: Timeline = STORY) -> Prompted:
    def network(x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        rows = zip(x.split(1), conditions, strict=True)
        return torch.cat([net(row, time, condition.text) for row, condition in rows])

    return Expert(form.name, form.schedule, TARGETS[form.target], network).given(prompt)


def ours(form: Form, **options: Any) -> Tensor:
    coupled = Coupled(Windowed(expert(form), SIZE, STRIDE), NOISE, **options)
    ladder = levels(form)
    return last(sample(coupled, START / form.schedule.scale(ladder[0]), FRAMES, ladder, Euler())).seen.x0


def floor(form: Form, t_min: int) -> float:
    return form.schedule.share(t_min)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("batch", [None, 3])
def test_coupled_is_the_papers_algorithm(name: str, batch: int | None) -> None:
    form = FORMS[name]
    paper = literal(form, 800, 5, 0.3, batch)
    mine = ours(
        form, floor=floor(form, 800), iterations=5, rate=0.3, optimiser="adamw", minibatch=batch, repulsion=False
    )
    assert apart(mine, paper) <= 1e-5  # AdamW's eps weighs less in x0, whose residuals are larger


@pytest.mark.parametrize("name", ["v", "flow"])
def test_windows_are_kept_apart_as_published(name: str) -> None:
    """In the units of a velocity, which v and flow networks share."""
    form = FORMS[name]
    paper = literal(form, 800, 5, 0.3, repulsion=True)
    assert apart(ours(form, floor=floor(form, 800), iterations=5, rate=0.3, optimiser="adamw"), paper) <= 1e-5
    assert apart(literal(form, 800, 5, 0.3), paper) > 1e-4


def test_the_transcription_could_tell_readings_apart() -> None:
    form = FORMS["v"]
    paper = literal(form, 800, 5, 0.3)
    right = {"floor": floor(form, 800), "iterations": 5, "rate": 0.3, "optimiser": "adamw", "repulsion": False}
    wrong: list[dict[str, Any]] = [
        {"floor": floor(form, 600)},
        {"kernel": "mean"},
        {"kernel": "identity"},
        {"floor": floor(form, 950)},
        {"iterations": 4},
        {"base": "video"},
        {"base": "iteration"},
        {"levels": tuple(levels(form)[:-1])},
        {"optimiser": "picard"},
        {"minibatch": 3},
        {"stages": "outer"},
    ]
    assert apart(ours(form, **right), paper) <= 1e-5
    for change in wrong:
        assert apart(ours(form, **{**right, **change}), paper) > 1e-3, change


@pytest.mark.parametrize("kernel", ["identity", "mean", "stein"])
def test_picard_moves_x0_to_what_the_windows_see(kernel: str) -> None:
    """x0 <- x0 - rate FUSE(sum_j kbar_ij (x0_j - D_j)), one iteration, by hand."""
    form, rate = FORMS["flow"], 0.7
    t = 0.9
    coupled = Coupled(Windowed(expert(form), SIZE, STRIDE), NOISE, 0.5, 1, rate, kernel=kernel, repulsion=False)
    x0, eps = fuse({}) + 0.3 * START, NOISE.like(EMPTY, FRAMES, "base", t)
    x_t = (1 - t) * x0 + t * eps
    words = ["calm" if chunk[SIZE // 2] < 5 else "storm" for chunk in CHUNKS]
    views = [x_t[:, :, chunk] for chunk in CHUNKS]
    r = [x0[:, :, chunk] - (y - t * net(y, 1000 * t, w)) for chunk, y, w in zip(CHUNKS, views, words, strict=True)]
    n = len(CHUNKS)
    d2 = torch.tensor([[(a - b).square().sum() for b in views] for a in views])
    k = {"identity": torch.eye(n), "mean": torch.ones(n, n), "stein": (-log(n + 1) / d2.median() * d2).exp()}[kernel]
    told = {i: sum(k[i, j] * r[j] for j in range(n)) / k[i].sum() for i in range(n)}
    assert apart(coupled.agreed(x0, t, FRAMES).x0, x0 - rate * fuse(told)) <= 1e-6  # type: ignore[arg-type]


# --- closed forms ------------------------------------------------------------------------------------------------

LATENT = torch.zeros(1, 3, LENGTH, 4, 4)
LADDER = shifted(8, 3.0).levels


def video(denoise: Any, ladder: Sequence[float] = LADDER, length: int = LENGTH) -> Tensor:
    frames = timeline(length)
    start = ladder[0] * NOISE.like(torch.zeros(1, 3, length, 4, 4), frames, "start")
    return last(sample(denoise, start, frames, ladder, Euler())).seen.x0


@dataclass(frozen=True)
class Local(Gaussian):
    """A window's own view: what it believes in hangs on where in it a frame stands, so windows disagree."""

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        seen = super().__call__(x, t, frames)
        return split(x, seen.x0 + 0.3 * torch.linspace(-1, 1, x.shape[2])[:, None, None] * seen.x0.roll(1, 2), t)


LOCAL = Windowed(Local(0.4, 0.7), SIZE, STRIDE)


@pytest.mark.parametrize("kernel", ["identity", "stein"])
@pytest.mark.parametrize("optimiser", [{}, {"minibatch": 2}], ids=["all windows", "two windows"])
def test_picard_ends_at_the_fixed_point_of_a_linear_expert(kernel: str, optimiser: dict[str, Any]) -> None:
    """x0 = D((1 - t) x0 + t eps) with D(x) = m + g (x - (1 - t) m) has one solution: m + g t eps / (1 - g (1 - t))."""
    t, m, s = 0.8, 0.4, 0.7
    coupled = Coupled(
        Windowed(Gaussian(m, s), SIZE, STRIDE), NOISE, 0.5, 120, kernel=kernel, repulsion=False, **optimiser
    )
    eps = NOISE.like(LATENT, FRAMES, "base", t)
    g = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)
    seen = coupled(NOISE.like(LATENT, FRAMES, "start"), t, FRAMES)
    torch.testing.assert_close(seen.x0, m + g * t * eps / (1 - g * (1 - t)), rtol=1e-4, atol=1e-4)
    assert seen.eps.equal(eps)


def test_adamw_comes_to_the_same_point_but_later() -> None:
    """Its steps are as long as its rate, however small the gradient, so it overshoots first."""

    def after(iterations: int, rate: float, optimiser: str = "adamw") -> float:
        return apart(
            Coupled(LOCAL, NOISE, 0.5, iterations, rate, optimiser, "identity").agreed(LATENT, 0.8, FRAMES).x0, fixed
        )

    fixed = Coupled(LOCAL, NOISE, 0.5, 50, kernel="identity").agreed(LATENT, 0.8, FRAMES).x0
    assert after(5, 1.0, "picard") < 1e-3 < 0.5 < after(5, 1.0)
    assert after(50, 0.5) < 0.1 < after(20, 0.5)


def test_one_window_without_stage_two_is_plain_sampling() -> None:
    plain = video(Gaussian(0.4, 0.7))
    for off in ({"floor": 1.0}, {"stages": "outer", "floor": 0.0}):
        assert video(Coupled(Windowed(Gaussian(0.4, 0.7), LENGTH, LENGTH), NOISE, **off)).equal(plain)
    assert not video(Coupled(Windowed(Gaussian(0.4, 0.7), LENGTH, LENGTH), NOISE, 0.9)).allclose(plain, atol=1e-2)


def test_without_stage_two_it_is_windows_and_with_its_noise_alone_it_is_renoised() -> None:
    assert video(Coupled(LOCAL, NOISE, 1.0)).equal(video(LOCAL))
    assert video(Coupled(LOCAL, NOISE, 0.8, 0)).equal(video(Renoised(LOCAL, NOISE, 0.8)))
    assert not video(Renoised(LOCAL, NOISE, 0.8)).allclose(video(LOCAL), atol=1e-2)
    assert video(Renoised(LOCAL, NOISE, 1.0)).equal(video(LOCAL))


def test_averaging_x0_is_averaging_the_next_latents_where_windows_share_theirs() -> None:
    x, t, to = mix(LATENT + 0.4, NOISE.like(LATENT, FRAMES, "start"), 0.7), 0.7, 0.5
    spans = tile(LENGTH, SIZE, STRIDE)
    each = [LOCAL.video(x[:, :, span], t, FRAMES[:, span]).mix(to) for span in spans]
    total, count = torch.zeros_like(x), torch.zeros(LENGTH, 1, 1)
    for span, y in zip(spans, each, strict=True):
        total[:, :, span] += y
        count[span] += 1
    torch.testing.assert_close(Coupled(LOCAL, NOISE, 1.0)(x, t, FRAMES).mix(to), total / count)


@pytest.mark.parametrize("base", ["step", "video", "iteration"])
def test_stage_three_leaves_with_all_the_noise_there_is(base: str) -> None:
    """Also where windows overlap, where latents with noise of their own would average to less of it."""
    t, to, frames = 0.9, 0.8, timeline(10)
    wide = torch.zeros(1, 4, 10, 40, 40)
    coupled = Coupled(Windowed(Gaussian(0.4, 0.0), 4, 2), NOISE, 0.5, base=base)
    seen = coupled(NOISE.like(wide, frames, "start"), t, frames)
    left = seen.mix(to) - (1 - to) * seen.x0
    assert torch.allclose(left.std((0, 1, 3, 4)), torch.full((10,), to), rtol=0.04)
    own = [mix(torch.zeros(1, 4, 4, 40, 40), torch.randn(1, 4, 4, 40, 40), to) for _ in tile(10, 4, 2)]
    shrunk = (own[0][:, :, 2] + own[1][:, :, 0]) / 2
    assert float(shrunk.std()) == pytest.approx(to / 2**0.5, rel=0.04)


def test_with_one_video_nothing_but_it_is_found() -> None:
    for options in ({}, {"kernel": "mean"}, {"kernel": "identity"}, {"base": "video"}, {"base": "iteration"}):
        found = video(Coupled(Windowed(Gaussian(0.4, 0.0), SIZE, STRIDE), NOISE, 0.5, repulsion=False, **options))
        torch.testing.assert_close(found, torch.full_like(found, 0.4), rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class Shades:
    """Videos that are one gray each, of four: each window chooses one, and knows nothing of the others."""

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        shades = torch.linspace(-1, 1, 4)
        far = (x - (1 - t) * shades[:, None, None, None, None, None]).square().sum((2, 3, 4, 5))
        gray = ((-far / (2 * t**2)).softmax(0) * shades[:, None]).sum(0)
        return split(x, gray[:, None, None, None, None].expand_as(x), t)


def test_sharing_alike_makes_one_story_of_windows_that_choose_by_themselves() -> None:
    windows, frames, ladder = Windowed(Shades(), 8, 4), timeline(24), shifted(10, 3.0).levels

    def spread(kernel: str | None, seed: int) -> float:
        noise = Noise(seed).of("story")
        method = windows if kernel is None else Coupled(windows, noise, 0.8, kernel=kernel)
        x = noise.like(torch.zeros(1, 1, 24, 4, 4), frames, "start")
        grays = last(sample(method, x, frames, ladder, Euler())).seen.x0.mean((0, 1, 3, 4))
        return float(grays.max() - grays.min())

    alone, identity, mean = (
        sum(spread(kernel, seed) for seed in range(10)) / 10 for kernel in (None, "identity", "mean")
    )
    assert mean < 0.7 * alone
    assert mean < 0.7 * identity


def test_windows_that_are_held_choose_what_the_first_one_chose() -> None:
    frames, ladder = timeline(24), shifted(10, 3.0).levels

    def grays(hold: Hold | None, seed: int) -> Tensor:
        noise = Noise(seed).of("story")
        coupled = Coupled(Windowed(Shades(), 8, 4, hold=hold), noise, 0.8, iterations=0)
        x = noise.like(torch.zeros(1, 1, 24, 4, 4), frames, "start")
        return last(sample(coupled, x, frames, ladder, Euler())).seen.x0.mean((0, 1, 3, 4))

    free, held = (torch.stack([grays(hold, seed) for seed in range(10)]) for hold in (None, Hold()))
    assert (held.max(1).values - held.min(1).values).max() < 1e-5
    assert (free.max(1).values - free.min(1).values).mean() > 0.3
    assert held[:, 0].std() > 0.3, "the first window still chooses freely"


# --- the kernel --------------------------------------------------------------------------------------------------


def test_ten_noisy_windows_share_alike() -> None:
    for n in (3, 25, 26, 60):
        same, gamma = stein(torch.randn(1, 4, 8, 16, 16).expand(n, -1, -1, -1, -1))
        assert (same.equal(torch.ones(n, n)), float(gamma)) == (True, 0.0), "windows that are all the same share alike"
        near, _ = stein(torch.randn(1, 4, 8, 4, 4) + 1e-3 * torch.randn(n, 4, 8, 4, 4))
        assert near.diagonal().equal(torch.ones(n)), "nothing is apart from itself"
    k, _ = stein(torch.randn(10, 4, 8, 16, 16))
    off = k[~torch.eye(10, dtype=torch.bool)]
    assert k.diagonal().eq(1).all()
    assert torch.allclose(off, torch.full_like(off, 1 / 11), rtol=0.2)
    assert float(off.mean()) == pytest.approx(1 / 11, rel=0.02)


@pytest.mark.parametrize("length", [4, 6], ids=["one window", "two windows"])
@pytest.mark.parametrize("options", [{}, {"optimiser": "adamw"}], ids=["picard", "adamw"])
def test_few_windows_are_no_trouble(length: int, options: dict[str, Any]) -> None:
    found = video(Coupled(LOCAL, NOISE, 0.5, rate=0.1, **options), length=length)
    assert found.isfinite().all()
    assert len(tile(length, SIZE, STRIDE)) == length // 2 - 1


def test_equal_windows_are_no_trouble() -> None:
    same = torch.ones(3, 2, 4, 3, 3)
    assert couple("stein", same, same, 1.0).equal(same)


def test_repulsion_moves_windows_apart() -> None:
    views = torch.randn(3, 2, 4, 3, 3)
    step = views - 0.5 * couple("stein", views, torch.zeros_like(views), 1.0)
    distance = [float(torch.cdist(v.flatten(1), v.flatten(1)).sum()) for v in (views, step)]
    assert distance[1] > distance[0]


def test_who_shares_nothing_and_who_shares_all() -> None:
    doubts = torch.randn(3, 2, 4, 3, 3)
    assert couple("identity", doubts, doubts).equal(doubts)
    assert couple("mean", doubts, doubts).allclose(doubts.mean(0))
    common, still = couple("common", doubts, doubts), doubts.mean(2, keepdim=True)
    torch.testing.assert_close(common.mean(2, keepdim=True), still.mean(0).expand_as(still))
    torch.testing.assert_close(common - common.mean(2, keepdim=True), doubts - still)
    unnormed, normed = (couple("stein", doubts, doubts, normalised=norm) for norm in (False, True))
    k, _ = stein(doubts)
    torch.testing.assert_close(unnormed[0] * 3 / k[0].sum(), normed[0])


# --- switches ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spy:
    """Sees what a Gaussian sees, and remembers what it was shown."""

    seen: list[tuple[Tensor, float, Tensor]] = field(default_factory=list, compare=False, repr=False)
    of: Gaussian = Local(0.4, 0.7)

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        self.seen.append((x, t, frames))
        return self.of(x, t, frames)


def looked(
    x0: Tensor | None = None, t: float = 0.9, **options: Any
) -> tuple[Split, list[tuple[Tensor, float, Tensor]]]:
    """Stage 2 of one level, and what windows were shown in it."""
    spy = Spy()
    coupled = Coupled(LOCAL, NOISE, 0.5, 3, again=spy, **options)
    return coupled.agreed(LATENT if x0 is None else x0, t, FRAMES), spy.seen


def noise_of(shown: tuple[Tensor, float, Tensor], x0: Tensor) -> Tensor:
    """The noise in the first window, whose x0 is known."""
    x, t, _ = shown
    return split(x[:1], x0[:, :, :SIZE], t).eps


def test_one_noise_for_all_looks_of_a_level_and_another_for_the_next() -> None:
    end, shown = looked(rate=1e-6)
    base = NOISE.like(LATENT, FRAMES, "base", 0.9)
    for look in shown:
        torch.testing.assert_close(noise_of(look, LATENT), base[:, :, :SIZE], rtol=1e-4, atol=1e-4)
    assert end.eps.equal(base)
    assert not looked(t=0.8)[0].eps.allclose(base, atol=0.1)


def test_one_noise_for_the_video_is_the_one_it_starts_from() -> None:
    for t in (0.9, 0.8):
        assert looked(t=t, base="video")[0].eps.equal(NOISE.like(LATENT, FRAMES, "start"))


@pytest.mark.parametrize("base", ["step", "video", "iteration"])
def test_windows_that_start_from_shared_noise_look_through_shared_noise(base: str) -> None:
    """Each half of a window holds the base's frames of that half, in an order of its own; and base: video is the start."""
    start = Consistent(NOISE, length=SIZE, block=STRIDE)
    coupled = Coupled(LOCAL, NOISE, 0.5, 1, base=base, start=start)
    eps = coupled.agreed(LATENT, 0.9, FRAMES).eps
    assert eps.equal(start.eps(LATENT, FRAMES)) == (base == "video")
    assert coupled.agreed(LATENT, 0.8, FRAMES).eps.equal(eps) == (base == "video")
    for chunk in tile(LENGTH, SIZE, STRIDE)[1:]:
        assert not eps[:, :, chunk].equal(eps[:, :, :SIZE])
        sums = (part.double().sum(2) for part in (eps[:, :, chunk], eps[:, :, :SIZE]))
        torch.testing.assert_close(*sums)


def test_a_stage_that_starts_from_shared_noise_hands_it_to_its_windows() -> None:
    noise = {"chain.video.noise": {"rescheduled": {"length": 16, "block": 8}}}
    stage = dovetail.plan(recipes.changed(RECIPE, noise)).stages[0]
    assert stage.denoise.start == stage.start is not None  # type: ignore[union-attr]
    assert dovetail.plan(recipes.changed(RECIPE, {})).stages[0].denoise.start is None  # type: ignore[union-attr]


def test_fresh_noise_for_each_iteration() -> None:
    end, shown = looked(rate=1e-6, base="iteration")
    noises = [noise_of(look, LATENT) for look in shown]
    assert not noises[0].allclose(noises[1], atol=0.1)
    torch.testing.assert_close(end.eps[:, :, :SIZE], noises[2], rtol=1e-4, atol=1e-4)


def test_grounded_looks_through_t_and_else_through_other_levels() -> None:
    assert [t for _, t, _ in looked()[1]] == [0.9] * 3
    wild = [t for level in (0.9, 0.85, 0.8) for _, t, _ in looked(t=level, levels=(0.7, 0.6, 0.5, 0.4))[1]]
    assert set(wild) <= {0.7, 0.6, 0.5, 0.4}
    assert len(set(wild)) > 1


def test_a_minibatch_of_windows_leaves_the_other_frames_alone() -> None:
    end, shown = looked(minibatch=1)
    assert [len(x) for x, _, _ in shown] == [1, 1, 1]
    asked = sorted({int(frame) for _, _, frames in shown for frame in frames.flatten()})
    moved = end.x0[0].ne(0).any(0).flatten(1).any(1)
    assert moved.nonzero()[:, 0].tolist() == asked
    assert len(looked(minibatch=99)[1][0][0]) == 4


def test_stage_two_may_ask_another() -> None:
    first = Spy()
    coupled = Coupled(Windowed(first, SIZE, STRIDE), NOISE, 0.5, 3, again=Gaussian(0.0, 0.5))
    assert not coupled(LATENT + 1, 0.9, FRAMES).x0.allclose(replace(coupled, again=None)(LATENT + 1, 0.9, FRAMES).x0)
    assert [len(x) for x, _, _ in first.seen] == [4, *([4] * 4)]


def test_below_the_floor_nobody_looks_twice_and_the_floor_itself_lies_below() -> None:
    for t, looks in ((0.51, 4), (0.5, 1), (0.2, 1)):
        spy = Spy()
        Coupled(Windowed(spy, SIZE, STRIDE), NOISE, 0.5, 3)(LATENT, t, FRAMES)
        assert len(spy.seen) == looks


def test_stage_two_alone_keeps_a_video_and_never_takes_a_step() -> None:
    spy = Spy()
    coupled = Coupled(Windowed(spy, SIZE, STRIDE), NOISE, 0.5, 3, stages="inner")
    states = list(sample(coupled, LATENT + 1, FRAMES, even(4).levels, Euler()))
    assert len(spy.seen) == 3 * sum(state.t > 0.5 for state in states)
    for before, now in pairwise(states):
        torch.testing.assert_close(now.x, before.seen.x0)
    assert states[-1].seen.x0.equal(states[-1].x), "below the floor it is left alone"
    assert not states[1].x.allclose(states[0].x)


def test_stage_two_ends_early_once_windows_agree() -> None:
    def looks(tolerance: float) -> int:
        spy = Spy()
        Coupled(LOCAL, NOISE, 0.5, 50, again=spy, tolerance=tolerance, repulsion=False).agreed(LATENT + 1, 0.9, FRAMES)
        return len(spy.seen)

    assert looks(0.0) == 50
    assert 1 == looks(10.0) < looks(1e-1) < looks(1e-3) < 50


def test_weights_count_in_both_stages() -> None:
    flat, triangle = (
        Coupled(Windowed(LOCAL.video, SIZE, STRIDE, weights), NOISE, 0.5).agreed(LATENT + 1, 0.9, FRAMES).x0
        for weights in ("flat", "triangle")
    )
    assert not flat.allclose(triangle, atol=1e-3)
    first = Coupled(Windowed(LOCAL.video, SIZE, STRIDE, first=0.0), NOISE, 0.5, minibatch=1)
    assert first.agreed(LATENT + 1, 0.9, FRAMES).x0.isfinite().all()
    assert not first(LATENT + 1, 0.9, FRAMES).x0.allclose(flat, atol=1e-3)


def test_each_window_is_asked_for_what_happens_at_its_centre() -> None:
    told: list[tuple[str, ...]] = []

    def network(x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        told.append(tuple(condition.text for condition in conditions))
        return x

    asked = Expert("spy", Flow(), TARGETS["flow_prediction"], network)
    guided = Guided(asked.given(STORY), asked.given(""), 3.0, joint=True)
    Coupled(Windowed(asked.given(STORY), SIZE, STRIDE), NOISE, 0.5, 2, again=guided)(LATENT, 0.9, FRAMES)
    rows = ("calm", "calm", "storm", "storm")
    assert told == [rows, ("",) * 4 + rows, ("",) * 4 + rows]


def test_videos_of_one_batch_do_not_meet() -> None:
    both = torch.cat([LATENT + 1, LATENT - 1])
    coupled = Coupled(LOCAL, NOISE, 0.5, tolerance=0.05)
    together = coupled(both, 0.9, FRAMES.expand(2, -1))
    for i, x in enumerate(both.split(1)):
        alone = coupled(x, 0.9, FRAMES)
        torch.testing.assert_close(together.x0[i : i + 1], alone.x0)
        assert together.eps[i : i + 1].equal(alone.eps)


def test_it_is_resumed_at_any_level() -> None:
    coupled = Coupled(LOCAL, NOISE, 0.5, minibatch=2)
    states = list(sample(coupled, LADDER[0] * NOISE.like(LATENT, FRAMES, "start"), FRAMES, LADDER, Euler()))
    for k in (1, 3, 6):
        x = states[k - 1].seen.mix(LADDER[k])
        assert last(sample(coupled, x, FRAMES, LADDER[k:], Euler())).seen.x0.equal(states[-1].seen.x0)


@pytest.mark.parametrize(
    "wrong",
    [{"optimiser": "adam"}, {"kernel": "rbf"}, {"base": "fresh"}, {"stages": "1-3"}],
    ids=lambda w: next(iter(w)),
)
def test_unknown_words_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is one of"):
        Coupled(LOCAL, NOISE, **wrong)


# --- dialects ----------------------------------------------------------------------------------------------------

COMMON = trailing(SD, 6).levels
SCHEDULES: dict[str, Schedule] = {"flow": Flow(), "vp": SD, "ve": VarianceExploding(200.0)}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimiser", [{}, {"optimiser": "adamw", "rate": 0.05}], ids=["picard", "adamw"])
def test_one_expert_in_every_dialect_gives_one_video(schedule: str, kind: str, optimiser: dict[str, Any]) -> None:
    knows = Local(0.7, 0.5)
    told = spoken(knows, SCHEDULES[schedule], TARGETS[kind]).given("")
    one, other = (video(Coupled(Windowed(who, SIZE, STRIDE), NOISE, 0.7, **optimiser), COMMON) for who in (told, knows))
    assert apart(one, other) < 2e-3


# --- networks ----------------------------------------------------------------------------------------------------

SIZES: dict[str, tuple[int, int, int, int]] = {
    "text-to-video-sd": (5, 16, 16, 3), "cogvideox": (17, 48, 64, 3), "wan": (17, 32, 32, 3), "ltx": (33, 64, 64, 3),
}  # fmt: skip
"""Of each family, eps, v and two of flow, on tiny random weights: frames, height, width, latent frames in a window."""


def told_by(family: str, weights: str, size: tuple[int, int, int, int], codec: dict[str, str]) -> recipes.Recipe:
    """A story of one expert. What is said of `coupled` is the same for all but for the window's size."""
    frames, height, width, window = size
    coupled = {"of": {"expert": "it", "guidance": 2.0}, "size": window, "stride": window // 2 or 1}
    return recipes.checked(
        {
            "prompt": "a red circle",
            "story": {"events": ["it moves left", "it moves right"]},
            "video": {"frames": frames, "height": height, "width": width, "fps": 8.0},
            "experts": {"it": {"family": family, "weights": weights}},
            "codec": codec,
            "chain": [
                {
                    "stage": "video",
                    "ladder": {"own": {"of": "it", "steps": 2}},
                    "denoise": {"coupled": {**coupled, "floor": 0.6, "iterations": 1}},
                }
            ],
        }
    )


def story_of(name: str, folder: Path) -> recipes.Recipe:
    """Sprites' temporal expert (v), the shipped story over the flow pair, or a tiny checkpoint of a family."""
    if name == "sprites-story":
        short = {"video.frames": 20, "story": {"events": ["it moves left", "it moves right"]}}
        steps = {"chain.structure.ladder.shifted.steps": 2, "chain.refine.ladder.below.steps": 1}
        return recipes.changed(recipes.load(name), {**short, **steps})
    if name == "sprites temporal":
        codec = {"weights": "sprites/vae", "subfolder": ""}
        return told_by("text-to-video-sd", "sprites/temporal", (20, 64, 64, 16), codec)
    weights = str(tiny.MAKERS[name](folder))
    return told_by(name, weights, SIZES[name], {"weights": weights})


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.weights) for name in ("sprites temporal", "sprites-story")), *SIZES]
)
def test_networks_of_every_family_tell_a_story_unchanged(name: str, tmp_path: Path) -> None:
    """eps, v and flow, images' autoencoders and causal ones of videos: the method knows nothing of any."""
    recipe = story_of(name, tmp_path)
    place = f"chain.{recipe.chain[0].stage}.denoise.coupled.floor"
    made, off = (dovetail.generate(recipe=each) for each in (recipe, recipes.changed(recipe, [f"{place}=1.0"])))
    asked = recipe.video
    assert made.frames.shape == (asked.frames, asked.height, asked.width, 3)
    assert made.frames.std() > 1, "something is seen"
    counts = dovetail.plan(recipe).counts
    assert made.settings["calls"] == {expert: count.calls for expert, count in counts.items()}
    assert made.settings["calls"] != off.settings["calls"], "no second look without a level above the floor"
    assert made.latent is not None
    assert made.latent.isfinite().all()
    assert apart(made.latent, off.latent) > 1e-3, "what is above the floor is left another way"  # type: ignore[arg-type]


# --- as a recipe -------------------------------------------------------------------------------------------------

RECIPE = recipes.load("sprites-syncos-exact")
PLACE = "chain.video.denoise.coupled"


def changed(*changes: str) -> recipes.Recipe:
    return recipes.changed(RECIPE, [f"{PLACE}.{change}" for change in changes])


def planned(*changes: str) -> Any:
    """What video is asked: calls of its network, and looks at 16 frames."""
    count = dovetail.plan(changed(*changes)).counts["video"]
    return count.calls, count.frames / 16


ABOVE = sum(level > 0.9 for level in shifted(20, 10.0).levels)
"""Levels of the recipe's ladder at which stage 2 acts; it has 9 windows."""


@pytest.mark.parametrize(
    ("changes", "calls", "windows"),
    [
        ((), 20 + 4 * ABOVE, 9 * (20 + 4 * ABOVE)),
        (("iterations=0",), 20, 180),
        (("floor=1.0",), 20, 180),
        (("floor=0.0",), 20 + 4 * 20, 9 * 100),
        (("minibatch=2",), 20 + 4 * ABOVE, 9 * 20 + 2 * 4 * ABOVE),
        (("again={expert: video, guidance: 3.0}",), 20 + 4 * ABOVE, 9 * 20 + 2 * 9 * 4 * ABOVE),
        (("stages=outer",), 20, 180),
        (("stages=inner",), 4 * ABOVE, 9 * 4 * ABOVE),
        (("tolerance=0.5",), 20 + 4 * ABOVE, 9 * (20 + 4 * ABOVE)),
        (("optimiser=adamw", "rate=0.5", "iterations=20"), 20 + 20 * ABOVE, 9 * (20 + 20 * ABOVE)),
    ],
)
def test_a_plan_counts_every_look(changes: tuple[str, ...], calls: int, windows: int) -> None:
    assert planned(*changes) == (calls, windows)


def test_a_run_that_ends_early_asks_no_more_than_planned() -> None:
    small = ["video.frames=32", "experts.video.candidates=16", "chain.video.ladder.shifted.steps=6"]
    recipe = recipes.changed(changed("tolerance=0.05", "iterations=9"), small)
    most = dovetail.plan(recipe).counts["video"].calls
    used = dovetail.generate(recipe=recipe).settings["calls"]["video"]
    assert 6 + 1 <= used < most


def test_the_word_builds_what_it_says() -> None:
    built = dovetail.plan(
        changed("weights=triangle", "first=0.5", "optimiser=adamw", "kernel=identity", "repulsion=false", "minibatch=3",
                "base=video", "timestep=random", "tolerance=0.1", "rate=0.5", "iterations=7", "again={expert: video, guidance: 2}")
    ).stages[0].denoise  # fmt: skip
    assert isinstance(built, Coupled)
    assert isinstance(built.again, Guided)
    told = built.windows.video
    assert built == Coupled(
        Windowed(told, 16, 4, "triangle", 0.5), Noise(0).of("video"), 0.9, 7, 0.5, "adamw", "identity", False, 3,
        built.again, "video", shifted(20, 10.0).levels[:-1], "all", 0.1,
    )  # fmt: skip
    assert dovetail.plan(RECIPE).stages[0].denoise.levels == ()


def test_what_it_says_by_default_is_what_the_method_does_by_default() -> None:
    plain = recipes.changed(RECIPE, {"chain.video.denoise": {"coupled": {"of": "video", "size": 16, "stride": 8}}})
    built = dovetail.plan(plain).stages[0].denoise
    assert built == Coupled(Windowed(built.windows.video, 16, 8), Noise(0).of("video"))


@pytest.mark.parametrize(
    "denoise",
    [
        "{coupled: {of: video, size: 8, stride: 4}}",
        "{coupled: {of: {blended: {above 0.5: video, else: video}}, size: 8, stride: 4, again: {halved: video}}}",
        "{renoised: {of: {windowed: {of: video, size: 8, stride: 4}}, floor: 0.5}}",
        "{renoised: {of: {coupled: {of: video, size: 8, stride: 4, timestep: random, minibatch: 2}}}}",
    ],
)
def test_it_reads_back_equal_and_builds(denoise: str) -> None:
    recipe = recipes.changed(RECIPE, [f"chain.video.denoise={denoise}"])
    assert recipes.parse(recipes.dump(recipe)) == recipe
    assert isinstance(dovetail.plan(recipe).stages[0].denoise, Coupled | Renoised)


def test_what_is_renoised_shares_what_the_start_shares() -> None:
    """With all of the base's means windows leave high levels along noise of one mean, drawn anew at each."""
    start = Consistent(NOISE, length=SIZE, block=STRIDE, shared="means")
    x, frames = torch.zeros(1, 1, 4 * SIZE, 2, 2), timeline(4 * SIZE)
    shared = Renoised(LOCAL, NOISE, 0.5, start)
    blocks = [shared(x, t, frames).eps.unflatten(2, (-1, STRIDE)).mean(3) for t in (0.9, 0.8)]
    for means in blocks:
        torch.testing.assert_close(means[:, :, 2:], means[:, :, :-2], atol=1e-5, rtol=0)
        assert not torch.allclose(means[:, :, 1:], means[:, :, :-1], atol=1e-2), "of unlike blocks of the base"
    assert not torch.allclose(*blocks, atol=1e-2), "each level draws anew"
    assert shared(x, 0.4, frames).eps.equal(LOCAL(x, 0.4, frames).eps)


def test_renoised_is_its_own_word() -> None:
    asked = "chain.video.denoise={renoised: {of: {windowed: {of: video, size: 16, stride: 8}}, floor: 0.5}}"
    plan = dovetail.plan(recipes.changed(RECIPE, [asked]))
    assert plan.stages[0].denoise == Renoised(plan.stages[0].denoise.denoise, Noise(0).of("video"), 0.5)
    assert plan.counts["video"].calls == 20


def test_one_guidance_for_a_blend_reaches_its_windows() -> None:
    coupled = "{coupled: {of: video, again: video, size: 16, stride: 8}}"
    recipe = recipes.changed(
        RECIPE, [f"chain.video.denoise={{blended: {{above 0.5: {coupled}, else: video, guidance: 3}}}}"]
    )
    above = recipe.chain[0].denoise.of["above 0.5"]  # type: ignore[union-attr]
    assert above.of == above.again == models.Leaf(expert="video", guidance=3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("flor=0.9", r"coupled\.flor: unknown key; did you mean 'floor'"),
        ("kernel=stain", "unknown value 'stain'; did you mean 'stein'"),
        ("again=vidio", "again.expert: no expert is called 'vidio'; did you mean 'video'"),
        ("stride=20", "stride 20 leaves gaps between windows of 16; take 16 or less"),
        ("minibatch=0", "minibatch: 0 .a number. came; what fits is greater than or equal to 1"),
        ("tolerance=1.0", "tolerance: 1.0 .a number. came; what fits is less than 1"),
        ("rate=0.0", "rate: 0.0 .a number. came; what fits is greater than 0"),
        ("stages=13", "stages: 13 .a number. came; what fits is .*'outer'"),
    ],
)
def test_an_error_says_what_fits(change: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        changed(change)


@pytest.mark.parametrize("word", ["coupled", "renoised"])
def test_a_floor_above_the_whole_ladder_is_refused(word: str) -> None:
    """Else stage 2 were left out in silence: the betas of Stable Diffusion end at noise share .94."""
    part = "of: video, size: 16, stride: 8" if word == "coupled" else "of: {windowed: {of: video, size: 16, stride: 8}}"
    sd = {
        "experts.video": {"family": "exact", "kind": "spatial"},
        "chain.0.ladder": {"trailing": {"of": "video", "steps": 4}},
    }
    recipe = recipes.changed(RECIPE, sd)

    def at(floor: float) -> Any:
        return dovetail.plan(recipes.changed(recipe, [f"chain.video.denoise={{{word}: {{{part}, floor: {floor}}}}}"]))

    with pytest.raises(RecipeError, match=rf"{word} acts above floor 0.95, and this ladder begins at noise share 0.936; "
                                          r"take a floor below that, as 0.8, or floor: 1.0"):  # fmt: skip
        at(0.95)
    for floor in (0.8, 1.0):
        with pytest.raises(RecipeError, match="'video' sees at most 1 frames at once"):
            at(floor)
    if word == "coupled":
        low = recipes.changed(recipe, {"chain.0.ladder": {"below": {"of": "video", "timestep": 100, "steps": 4}}})
        found = recipes.changed(low, [f"chain.video.denoise={{coupled: {{{part}, floor: auto}}}}"])
        with pytest.raises(
            RecipeError, match=r"coupled acts above floor 0\.5, and this ladder begins at noise share 0.2"
        ):
            dovetail.plan(found)
