"""Exact experts are what they claim to be, and ConFiner over them does what it should."""

import time
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from dovetail.core.chain import run
from dovetail.core.combine import Framewise, Guided, Windowed
from dovetail.core.denoiser import Denoiser, Expert, Timeline, timeline
from dovetail.core.ladders import Ladder, below, levels, trailing
from dovetail.core.noise import Noise
from dovetail.core.path import mix
from dovetail.core.sampler import Euler, last, sample
from dovetail.core.schedules import Flow, VariancePreserving
from dovetail.core.stages import Done, Stage
from dovetail.errors import PromptWarning, RecipeError
from dovetail.experts import load_codec
from dovetail.methods.bridge import SameIndex
from dovetail.methods.confiner import Coordinated
from dovetail.methods.only_temporal import only_temporal
from dovetail.methods.temporal_first import TemporalFirst
from dovetail.sprites.degrade import CONTRAST, degrade
from dovetail.sprites.exact import LOOKS, Exact, PixelCodec, Scenes, cycle, load
from dovetail.sprites.world import Dice, ask, imagine, render

PROMPT = "a dotted red circle moving right on a teal striped background"
SMALL = PixelCodec(factor=8)


def network(expert: Expert) -> Exact:
    assert isinstance(expert.network, Exact)
    return expert.network


def known(expert: Expert, text: str, length: int, side: int) -> Tensor:
    """The candidates themselves: "n c f h w"."""
    scenes = network(expert).scenes(text, length, side)
    cuts = scenes.starts[:, None] + torch.arange(length)
    return scenes.tape[cuts].unflatten(2, (3, side, side)).transpose(1, 2)


def points(values: list[list[float]]) -> Scenes:
    """Scenes of one frame each, of a latent with as many channels as values."""
    tape = torch.tensor(values)
    return Scenes(tape, tape.double().square().sum(1) / 2, torch.arange(len(tape)))


# The closed form.


@pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("kind", ["spatial", "control", "temporal"])
def test_matches_the_posterior_mean_by_brute_force(kind: str, t: float) -> None:
    expert = load(kind, kind, candidates=40, codec=SMALL, schedule=Flow())
    length = 1 if kind == "spatial" else 5
    videos = known(expert, PROMPT, length, 8).double()
    eps = torch.randn(3, 3, length, 8, 8, generator=torch.Generator().manual_seed(1))
    x = mix(videos[[3, 17, 39]].float().lerp(videos[[4, 18, 0]].float(), 0.5), eps, t)
    seen = expert.given(PROMPT)(x, t, timeline(length).expand(3, -1))
    for row in range(3):
        distance = (x[row].double() - (1 - t) * videos).square().flatten(1).sum(1)
        weight = torch.softmax(-distance / (2 * t**2), 0)
        expected = torch.einsum("n, n c f h w -> c f h w", weight, videos).float()
        torch.testing.assert_close(seen.x0[row], expected, atol=1e-5, rtol=1e-5)


def test_two_points_give_a_tanh() -> None:
    """Between -m and m, E[x0 | x] = m tanh((1 - t) m . x / t^2)."""
    m, x = torch.tensor([0.5, -1.0]), torch.tensor([[0.2, -0.1], [-0.3, 0.4], [0.0, 0.0]])
    for t in (0.2, 0.5, 0.9):
        seen = points([m.tolist(), (-m).tolist()]).expect(x[:, :, None, None, None], t)[:, :, 0, 0, 0]
        torch.testing.assert_close(seen, m * torch.tanh((1 - t) * (x @ m) / t**2)[:, None])


@pytest.mark.parametrize("t", [1e-2, 1e-4, 1e-12, 0.0])
def test_without_noise_the_nearest_candidate_is_the_answer(t: float) -> None:
    videos = known(load("c", "control", candidates=40, codec=SMALL), PROMPT, 4, 8)
    scenes = network(load("c", "control", candidates=40, codec=SMALL)).scenes(PROMPT, 4, 8)
    off = videos[[5, 31]] + 0.01 * torch.randn(2, 3, 4, 8, 8)
    assert torch.equal(scenes.expect((1 - t) * off, t), videos[[5, 31]])


def test_in_pure_noise_the_mean_of_all_is_the_answer() -> None:
    expert = load("c", "control", candidates=40, codec=SMALL, schedule=Flow())
    videos = known(expert, PROMPT, 4, 8)
    seen = expert.given(PROMPT)(torch.randn(2, 3, 4, 8, 8), 1.0, timeline(4).expand(2, -1))
    torch.testing.assert_close(seen.x0, videos.mean(0).expand(2, -1, -1, -1, -1), atol=1e-5, rtol=0)


def test_many_steps_end_on_a_candidate_and_noise_decides_on_which() -> None:
    expert = load("c", "control", candidates=64, codec=SMALL)
    videos = known(expert, PROMPT, 6, 8).flatten(1)
    ends = []
    for seed in range(6):
        ladder = trailing(expert.schedule, 50)
        x = ladder.first * Noise(seed).like(torch.zeros(1, 3, 6, 8, 8), timeline(6), "start")
        video = last(sample(expert.given(PROMPT), x, timeline(6), ladder.levels, Euler())).seen.x0.flatten(1)
        distance = (videos - video).abs().amax(1)
        assert float(distance.min()) < 1e-4
        ends.append(int(distance.argmin()))
    assert len(set(ends)) > 2


def test_one_video_in_any_schedule() -> None:
    """The same candidates, told in betas or as a flow, over the same levels: one answer."""
    betas = load("c", "control", candidates=40, codec=SMALL)
    flow = load("c", "control", candidates=40, codec=SMALL, schedule=Flow())
    ladder = trailing(betas.schedule, 12)
    x = ladder.first * torch.randn(1, 3, 6, 8, 8)
    ours, theirs = (
        last(sample(expert.given(PROMPT), x, timeline(6), ladder.levels, Euler())).seen.x0 for expert in (betas, flow)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


# What the candidates are.


def test_candidates_are_cuts_of_scenes_that_fit_the_prompt() -> None:
    """Every control clip is, pixel by pixel, a run of frames of a scene that the prompt could mean."""
    expert = load("c", "control", candidates=50, seed=2, codec=PixelCodec(factor=1))
    clips = known(expert, "a circle moving down", 3, 64)
    scene = imagine(ask("a circle moving down")[0], 200_006)
    assert scene.motion == "down"
    frames = render(scene, range(1010 + cycle(scene)))
    clip = clips[0].transpose(0, 1)
    at = (frames - clip[0]).abs().amax((1, 2, 3)).argmin()
    torch.testing.assert_close(frames[at : at + 3], clip)


def test_a_scene_is_known_at_every_phase() -> None:
    """Where a moving scene stands at any frame, far away in time too, a candidate stands within a pixel's reach."""
    expert = load("s", "spatial", candidates=256, codec=SMALL)
    scene = imagine(ask(PROMPT)[0], 0)
    faces = known(expert, PROMPT, 1, 8)[:, :, 0]
    seen = SMALL.encode(render(scene, [0, 7, 123, 599])[None])[0].transpose(0, 1)
    other = SMALL.encode(render(imagine(ask(PROMPT)[0], 999_999), [0])[None])[0].transpose(0, 1)

    def nearest(frames: Tensor) -> Tensor:
        return (faces[None] - frames[:, None]).square().mean((2, 3, 4)).sqrt().amin(1)

    assert float(nearest(seen).max()) < 0.03 < float(nearest(other).min())


def test_candidates_are_all_different_and_none_jumps_between_scenes() -> None:
    videos = known(load("c", "control", candidates=200, codec=SMALL), PROMPT, 6, 8)
    apart = torch.cdist(videos.flatten(1), videos.flatten(1)) + 99 * torch.eye(200)
    assert float(apart.min()) > 0.1
    jumps = (videos[:, :, 1:] - videos[:, :, :-1]).abs().mean((1, 3, 4)).amax(1)
    across = (videos[:, :, 0] - videos.roll(77, 0)[:, :, 0]).abs().mean((1, 2, 3))
    assert float(jumps.max()) < 0.5 * float(across.median())


def test_kinds_know_one_world_in_three_looks() -> None:
    """Sharp frames, sharp clips, blurred pale clips; contrast as `degrade` leaves it."""
    control = known(load("c", "control", codec=PixelCodec()), PROMPT, 4, 32)
    temporal = known(load("t", "temporal", codec=PixelCodec()), PROMPT, 4, 32)
    spatial = known(load("s", "spatial", codec=PixelCodec()), PROMPT, 1, 32)
    assert control.shape == temporal.shape == (256, 3, 4, 32, 32)
    assert spatial.shape == (256, 3, 1, 32, 32)
    assert sharpness(temporal) < CONTRAST * sharpness(control)
    assert sharpness(spatial) == pytest.approx(sharpness(control), rel=0.1)


def test_more_candidates_are_the_same_and_more() -> None:
    few, many = (known(load("s", "spatial", candidates=n, codec=SMALL), PROMPT, 1, 8) for n in (60, 120))
    assert torch.equal(many[:60], few)


def test_an_empty_prompt_knows_the_whole_world() -> None:
    expert = load("s", "spatial", candidates=256, codec=SMALL)
    spread = [float(known(expert, text, 1, 8).mean((2, 3, 4)).std(0).mean()) for text in ("", PROMPT)]
    assert spread[0] > 5 * spread[1]


def test_rows_may_ask_for_different_things_and_batches_do_not_matter() -> None:
    expert = load("s", "spatial", candidates=64, codec=SMALL)
    x, frames = torch.randn(7, 3, 1, 8, 8), torch.arange(7)[:, None]
    story = Timeline(((0, expert.given("a red circle").prompt.keys[0][1]), (4, Timeline.of("a white ring").keys[0][1])))
    seen = expert.given(story)(x, 0.4, frames).x0
    object.__setattr__(network(expert), "batch", 2)
    assert torch.allclose(expert.given(story)(x, 0.4, frames).x0, seen, atol=1e-6)
    for rows, text in ((slice(0, 4), "a red circle"), (slice(4, 7), "a white ring")):
        assert torch.allclose(expert.given(text)(x[rows], 0.4, frames[rows]).x0, seen[rows], atol=1e-6)


def test_it_says_what_it_is_and_refuses_what_does_not_fit() -> None:
    expert = load("eyes", "spatial", codec=SMALL)
    net = network(expert)
    assert (net.family, net.parameters, net.max_frames, net.space) == ("exact", 0, 1, SMALL.space)
    assert net.weights.startswith("none")
    assert network(load("c", "control")).max_frames is None
    with pytest.raises(RecipeError, match="framewise"):
        expert.given(PROMPT)(torch.randn(1, 3, 2, 8, 8), 0.5, timeline(2))
    with pytest.raises(RecipeError, match="3 channels, not 4x8x8"):
        expert.given(PROMPT)(torch.randn(1, 4, 1, 8, 8), 0.5, timeline(1))
    with pytest.raises(RecipeError, match="did you mean 'temporal'"):
        load("t", "temporl")
    with pytest.raises(RecipeError, match="at least 1"):
        load("t", "temporal", candidates=0)
    with pytest.warns(PromptWarning, match=r"'purple'[\s\S]*checkered"):
        expert.given("a purple circle")(torch.randn(1, 3, 1, 8, 8), 0.5, timeline(1))


def test_the_pixel_codec_averages_and_repeats() -> None:
    frames = torch.rand(2, 3, 3, 16, 16) * 2 - 1
    whole, half = PixelCodec(factor=1), PixelCodec(factor=2)
    assert torch.equal(whole.decode(whole.encode(frames)), frames)
    latent = half.encode(frames)
    torch.testing.assert_close(latent[1, 2, 0, 3, 5], frames[1, 0, 2, 6:8, 10:12].mean())
    torch.testing.assert_close(half.encode(half.decode(latent)), latent)
    torch.testing.assert_close(torch.cat(list(half.stream(latent)), 1), half.decode(latent))
    with pytest.raises(RecipeError, match="multiples of 2, not 5x4"):
        half.encode(torch.zeros(1, 1, 3, 5, 4))


def test_it_lives_in_the_latents_of_an_autoencoder(tmp_path: Path) -> None:
    """A real AutoencoderKL (tiny, untrained): candidates are its latents of renders, and so is an answer."""
    tiny.vae().save_pretrained(tmp_path)
    codec = load_codec(str(tmp_path), subfolder="")
    expert, side = load("t", "temporal", candidates=30, codec=codec), 32 // codec.factor
    scene = imagine(ask(PROMPT)[0], 0)
    first = int(Dice(list(LOOKS).index("temporal")).uniform(0, 1000))
    clip = codec.encode(degrade(render(scene, range(first, first + 4), 32))[None])
    seen = expert.given(PROMPT)(mix(clip, torch.randn_like(clip), 0.01), 0.01, timeline(4))
    assert clip.shape == (1, codec.channels, 4, side, side)
    torch.testing.assert_close(seen.x0, clip, atol=1e-4, rtol=1e-4)
    assert network(expert).space == codec.space


def test_a_call_takes_milliseconds() -> None:
    """Sixteen frames of 8x8x8 latents, 256 candidates; in processor time, so that a busy machine does not matter."""

    class Eight:
        space, factor = PixelCodec(channels=8).space, 8

        def encode(self, frames: Tensor) -> Tensor:
            return SMALL.encode(frames).repeat(1, 3, 1, 1, 1)[:, :8]

    denoise = load("t", "temporal", codec=Eight()).given(PROMPT)
    x = torch.randn(1, 8, 16, 8, 8)
    denoise(x, 0.5, timeline(16))
    start = time.process_time()
    for _ in range(10):
        denoise(x, 0.5, timeline(16))
    assert (time.process_time() - start) / 10 < 0.03


# ConFiner over exact experts.


def sharpness(video: Tensor) -> float:
    """The strongest hundredth of horizontal differences."""
    return float(torch.quantile((video[..., 1:] - video[..., :-1]).abs().flatten()[::7], 0.99))


def flicker(video: Tensor) -> float:
    """The mean second difference over time."""
    return float((video[:, :, 2:] - 2 * video[:, :, 1:-1] + video[:, :, :-2]).abs().mean())


def refined(structure: Tensor, refine: Denoiser, ladder: Ladder, seed: int) -> Tensor:
    *_, done = run([Stage("refine", refine, ladder)], Noise(seed), timeline(16), (3, 32, 32), structure)
    assert isinstance(done, Done)
    return done.video


def drafted(control: Expert, prompt: str, seed: int) -> Tensor:
    """The control stage's video, in four steps."""
    stage = Stage("control", control.given(prompt), trailing(control.schedule, 4))
    *_, done = run([stage], Noise(seed), timeline(16), (3, 32, 32))
    assert isinstance(done, Done)
    return done.video


def betas(expert: Expert) -> VariancePreserving:
    assert isinstance(expert.schedule, VariancePreserving)
    return expert.schedule


def test_confiner_end_to_end_in_two_seconds_of_processor_time() -> None:
    """Prompt to video, everything rendered anew: it keeps the control's structure, and is as sharp as the
    spatial expert's frames. The temporal expert alone loses more than its contrast."""
    start = time.process_time()
    spatial, control, temporal = (load(kind, kind) for kind in ("spatial", "control", "temporal"))
    eyes, mover = Framewise(spatial.given(PROMPT)), temporal.given(PROMPT)
    coordinated = Coordinated(eyes, mover, Noise(3).of("refine"), SameIndex(betas(spatial), betas(temporal)))
    ladder = below(spatial.schedule, 100, 5)
    structure = drafted(control, PROMPT, 3)
    video = refined(structure, coordinated, ladder, 3)
    assert time.process_time() - start < 2
    assert float((video - structure).abs().mean()) < 0.02
    assert float((drafted(control, PROMPT, 6) - structure).abs().mean()) > 0.1  # which is no small thing
    assert sharpness(video) > 0.9 * sharpness(structure)
    alone = only_temporal(mover, temporal.schedule)
    assert sharpness(refined(structure, alone.denoise, alone.ladder, 3)) < CONTRAST * sharpness(video)


def test_the_division_of_labour_of_table_5() -> None:
    """From much noise the spatial expert alone flickers, and the temporal one alone is blurred; together
    they are sharp, and nine tenths of the flicker is gone. The same goes for the cheaper order, temporal
    first."""
    prompt = "a ring moving down on a striped background"
    spatial, control, temporal = (load(kind, kind) for kind in ("spatial", "control", "temporal"))
    eyes, mover = Framewise(spatial.given(prompt)), temporal.given(prompt)
    ladder, measured = below(spatial.schedule, 700, 10), []
    for seed in range(3):
        noise, structure = Noise(seed).of("refine"), drafted(control, prompt, seed)
        joined = Coordinated(eyes, mover, noise), TemporalFirst(eyes, mover, noise, fresh=False)
        videos = [structure, *(refined(structure, how, ladder, seed) for how in (eyes, mover, *joined))]
        measured.append([(sharpness(video), flicker(video)) for video in videos])
    structure, alone, blurred, *together = torch.tensor(measured).mean(0).tolist()
    assert alone[1] > 2 * structure[1]
    assert blurred[0] < CONTRAST * structure[0]
    for how in together:
        assert how[0] == pytest.approx(structure[0], rel=0.1)
        assert how[1] - structure[1] < 0.1 * (alone[1] - structure[1])


def test_windows_and_guidance_over_exact_experts() -> None:
    """A video longer than the windows, and guidance away from anything: the prompt's object stays in view."""
    spatial, temporal = (
        load("s", "spatial", candidates=64, codec=SMALL),
        load("t", "temporal", candidates=64, codec=SMALL),
    )
    eyes = Framewise(Guided(spatial.given(PROMPT), spatial.given(""), 1.0))
    movers = Windowed(temporal.given(PROMPT), 8, 4, "triangle")
    denoise = Coordinated(eyes, movers, Noise(1).of("refine"))
    scene = imagine(ask(PROMPT)[0], 0)
    clip = SMALL.encode(render(scene, range(400, 420))[None])
    ladder = levels((0.3, 0.2, 0.1, 0.0))
    *_, done = run([Stage("refine", denoise, ladder)], Noise(1), timeline(20, start=400), (3, 8, 8), clip)
    assert isinstance(done, Done)
    elsewhere = SMALL.encode(render(scene, range(416, 436))[None])
    assert (done.video - clip).abs().mean() < 0.4 * (elsewhere - clip).abs().mean()


def test_candidates_of_the_texts_asked_for_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dovetail.sprites.exact.KEPT", 2)
    network = load("it", "spatial", candidates=4).network
    assert isinstance(network, Exact)
    texts = ["a red circle", "a blue circle", "a green circle"]
    first, second = (network.scenes(text, 1, 8) for text in texts[:2])
    assert network.scenes(texts[0], 1, 8) is first
    third = network.scenes(texts[2], 1, 8)
    assert [network.scenes(text, 1, 8) for text in (texts[0], texts[2])] == [first, third]
    again = network.scenes(texts[1], 1, 8)
    assert again is not second
    assert torch.equal(again.tape, second.tape)
