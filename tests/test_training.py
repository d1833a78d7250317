"""The trainers of the sprite experts: each learns, goes on where it stopped, and hands its work to the next."""

import doctest
import json
import random
import shlex
import sys
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
import distil
import experts
import export
import networks
import pool
import rivals
import score
import sees
import text
import vae
from optimizer import Muon, Optimizer, orthogonalised

from dovetail.core.denoiser import Condition, Expert, Network, Target, predicts_flow
from dovetail.core.path import split
from dovetail.core.schedules import Flow, Schedule
from dovetail.eval.stats import wilson
from dovetail.sprites.world import Ask, ask, backdrop, caption, forget, imagine, render


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with an untrained autoencoder and small pools of both kinds."""
    folder = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    small = vae.autoencoder()
    vae.save(small, vae.floats_of(vae.pictures(7, 4)[0]), folder / "vae", folder / "vae")
    (folder / "pools").mkdir()
    for kind in ("sharp", "degraded"):
        made = pool.piece(kind, 0, AutoencoderKL.from_pretrained(folder / "vae").eval(), scenes=6)
        torch.save(made, folder / "pools" / f"{kind}-0.pt")
    return folder


def steps(work: Path, name: str) -> int:
    return int(torch.load(work / name / "state.pt", weights_only=True)["step"])


def test_the_latents_of_a_pool_have_their_loudness_and_their_words(work: Path) -> None:
    latents, places, asks = pool.load(work / "pools", "sharp")
    assert latents.shape == (6, 16, networks.CHANNELS, networks.CELLS, networks.CELLS)
    assert float(latents.float().std()) == pytest.approx(networks.LOUDNESS, rel=0.5)
    assert places.shape == (6, 16, networks.CELLS, networks.CELLS)
    assert 0 < float(places.float().mean()) < 0.6
    assert asks == [imagine(Ask(), i + 1).ask for i in range(6)]
    with pytest.raises(FileNotFoundError, match=r"training/pool\.py blurred 0"):
        pool.load(work / "pools", "blurred")


@torch.no_grad()
def test_a_flow_expert_begins_by_looking_to_where_it_ought() -> None:
    """Each of its first heads looks at the token so far away, where there is one."""
    net, size = networks.network("flow-large"), (16, 4, 4)
    cos, sin = net.rope(torch.zeros(1, networks.CHANNELS, 16, 8, 8))
    for i, away in enumerate(networks.AWAY):
        attention, head = net.blocks[i // 6].attn1, i % 6

        def turned(linear: torch.nn.Linear, norm: torch.nn.Module, head: int = head) -> torch.Tensor:
            one, other = norm(linear.bias).view(6, 16, 2)[head].unbind(-1)
            c, s = cos[0, :, 0, 0::2], sin[0, :, 0, 1::2]
            return torch.stack([one * c - other * s, one * s + other * c], -1).flatten(1)

        query, key = turned(attention.to_q, attention.norm_q), turned(attention.to_k, attention.norm_k)
        shares = (query @ key.T / 32**0.5).softmax(1).view(*size, *size)
        middle = (8, 2, 2) if min(away) < 0 else (4, 1, 1)
        if away[0] < -8:
            middle = (13, 2, 2)
        there = tuple(m + a for m, a in zip(middle, away, strict=True))
        assert float(shares[middle][there]) == float(shares[middle].max()) > 0.2, away
        if max(map(abs, away)) == 1:  # at the border it finds itself
            border = tuple({-1: 0, 0: m, 1: n - 1}[a] for a, n, m in zip(away, size, middle, strict=True))
            assert float(shares[border][border]) == float(shares[border].max()), away


def test_the_place_of_an_object_is_where_it_differs_from_its_background() -> None:
    frames, places = vae.pictures(0, 2)
    scene = imagine(Ask(), 1)  # the second scene of seed 0, which is not degraded
    drawn = render(scene, (0, 30, 70, 110))
    torch.testing.assert_close(vae.floats_of(frames[4:]), drawn, atol=1 / 127, rtol=0)
    assert torch.equal(places[4:], (drawn - backdrop(scene)).abs().amax(1, keepdim=True) > 0.1)


def test_a_steady_decoder_is_shown_frames_without_their_object_and_with_it_too_large() -> None:
    """One scene in three, the third of these."""
    frames, places = vae.pictures(0, 3, odd=True)
    covered = places[8:].float().mean((1, 2, 3))
    assert covered[0] == 0
    assert covered[1] < min(covered[2:])
    torch.testing.assert_close(vae.floats_of(frames[8]), backdrop(imagine(Ask(), 2)), atol=1 / 127, rtol=0)
    assert torch.equal(vae.unlikely(imagine(Ask(), 2), 2), vae.unlikely(imagine(Ask(), 2), 2))


def test_what_flashes_moves_as_another_frame_of_its_scene_does() -> None:
    """By one number for each channel and frame; an object at the border of one frame is no background."""
    codes = torch.zeros(4 * vae.FRAMES, 2, 4, 4)
    codes[1 :: vae.FRAMES, 0] = 0.2  # one frame of each scene is lighter
    codes[0, :, 0, 0] = 9.0
    torch.manual_seed(0)
    moved = (vae.flashed(codes) - codes)[:, :, :2].flatten(2)
    torch.testing.assert_close(moved, moved[:, :, :1].expand_as(moved))
    assert (moved[:, :, 0] != 0).any()
    assert (moved[:, :, 0] == 0).all(1).any(), "some are left"
    torch.testing.assert_close(moved.abs().amax(), torch.tensor(0.0), atol=vae.FLASH * 0.2 + 4 * vae.STRAY, rtol=0)


def test_a_steady_decoder_begins_with_the_package_s_and_leaves_its_latent_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoder and scaling factor stay, when it goes on too; the decoder learns."""
    drawn = vae.pictures
    monkeypatch.setattr(vae, "pictures", lambda seed, scenes=8, odd=False: drawn(seed, min(scenes, 8), odd))
    theirs = AutoencoderKL.from_pretrained(networks.WEIGHTS / "vae")
    for _ in range(2):
        vae.train(tmp_path, 0.001, "vae-steady", seed=3, device="cpu", start="shipped")
    ours = AutoencoderKL.from_pretrained(tmp_path / "vae-steady")
    assert ours.config.scaling_factor == theirs.config.scaling_factor
    told = {part: value for part, value in ours.state_dict().items() if part.startswith(("encoder.", "quant_conv."))}
    assert told
    assert all(torch.equal(value, theirs.state_dict()[part].float()) for part, value in told.items())
    assert not torch.equal(ours.decoder.conv_in.weight, theirs.decoder.conv_in.weight.float())


def test_the_deep_autoencoder_grows_from_the_shallow_one() -> None:
    shallow = vae.autoencoder(shallow=True)
    deep = vae.grown(shallow).state_dict()
    theirs = shallow.state_dict()
    assert torch.equal(deep["encoder.conv_in.weight"], theirs["encoder.conv_in.weight"])
    outermost = "decoder.up_blocks.{}.resnets.0.conv1.weight"
    assert torch.equal(deep[outermost.format(3)], theirs[outermost.format(2)])


def test_captions_leave_attributes_out_at_their_rate_and_never_the_shape() -> None:
    """A sixth of 3000 draws would be five deviations off; the attributes go one by one, not together."""
    full = imagine(Ask(), 5).ask
    told = [ask(caption(forget(full, seed)))[0] for seed in range(3000)]
    assert {one.shape for one in told} == {full.shape}
    for name in ("texture", "colour", "motion", "background", "pattern"):
        kept = [getattr(one, name) for one in told]
        assert set(kept) == {getattr(full, name), None}
        assert kept.count(None) / len(kept) == pytest.approx(0.12, abs=0.03), name
    both = sum(one.colour is None and one.background is None for one in told)
    assert both / len(told) == pytest.approx(0.12**2, abs=0.012)
    assert forget(full, 1, p=0.0) == full
    assert forget(full, 1, p=1.0) == Ask(shape=full.shape)


def test_a_slice_of_a_scene_is_consecutive_frames() -> None:
    cuts = [experts.slice_of(4, 6, random.Random(i)) for i in range(40)]
    assert {tuple(cut) for cut in cuts} == {(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)}


def test_a_video_network_takes_over_the_outer_levels_of_an_image_network() -> None:
    image, video = experts.Trainee.new("spatial"), experts.Trainee.new("control")
    video.begin(image.slow.state_dict())
    ours, theirs = video.net.state_dict(), image.slow.state_dict()
    for name in ("down_blocks.1.resnets.0.conv1.weight", "conv_in.weight", "mid_block.resnets.0.conv1.weight"):
        assert torch.equal(ours[f"unet.{name}"], theirs[f"unet.{name}"])
    last = "unet.up_blocks.{}.resnets.1.conv2.weight"
    assert torch.equal(ours[last.format(2)], theirs[last.format(1)])
    assert all(torch.equal(video.slow.state_dict()[name], value) for name, value in ours.items())


def test_a_video_expert_begins_with_motions_that_sound_different() -> None:
    words, image, video = text.tokenizer(), experts.Trainee.new("spatial"), experts.Trainee.new("control")

    def apart(model: torch.nn.Module, one: str, other: str) -> float:
        said = [words(s, padding="max_length", max_length=text.LENGTH, truncation=True) for s in (one, other)]
        with torch.no_grad():
            a, b = (model(torch.tensor([ids["input_ids"]])).last_hidden_state for ids in said)
        return float((a - b).norm() / a.norm())

    video.begin(image.slow.state_dict(), of_stills=True)
    ways = ("a ring moving left", "a ring moving right")
    assert apart(video.net["text"], *ways) > 2 * apart(image.net["text"], *ways)
    # Two words of one meaning stay one.
    assert apart(video.net["text"], "it pulses", "it pulsing") < 1e-6


def test_only_control_begins_with_nothing_of_the_video() -> None:
    least = {name: float(experts.signals(name).min()) for name in ("spatial", "control", "temporal")}
    assert least["control"] == 0
    assert min(least["spatial"], least["temporal"]) > 0
    drawn = [experts.levels("control", 64, torch.Generator().manual_seed(i)) for i in range(4)]
    assert any((at.alpha == 0).any() for at in drawn)
    assert all(torch.equal(at.sigma[at.alpha == 0], torch.ones_like(at.sigma[at.alpha == 0])) for at in drawn)


def test_the_mean_of_rivals_is_the_posterior_mean() -> None:
    """Against Bayes' rule, written out for each clip; from much noise it is near the plain mean, from little the clip."""
    torch.manual_seed(0)
    clips = torch.randn(5, 2, 3, 2, 2, dtype=torch.float64)
    x = 0.6 * clips[2] + 0.8 * torch.randn(2, 3, 2, 2, dtype=torch.float64)
    likely = torch.stack([torch.exp(-(x - 0.6 * clip).square().sum() / (2 * 0.8**2)) for clip in clips])
    wanted = sum(p * clip for p, clip in zip(likely / likely.sum(), clips, strict=True))
    torch.testing.assert_close(rivals.expected(x, 0.6, 0.8, clips), wanted)
    far = rivals.expected(torch.randn(2, 3, 2, 2, dtype=torch.float64), 1e-3, 1.0, clips)
    torch.testing.assert_close(far, clips.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(rivals.expected(0.99 * clips[1], 0.99, 0.05, clips), clips[1])


def test_noisy_clips_are_shown_on_their_way_to_the_mean_of_their_rivals() -> None:
    """Where a sampler would have that mean before it: at high timesteps, and only clips that have rivals."""
    clips, others = torch.randn(3, 4, 2, 2, 2), torch.randn(5, 4, 2, 2, 2)
    batch = experts.Batch(clips, torch.zeros(3, 1, 2, 2, 2), torch.zeros(3, 1), (others, others, None))
    at = experts.levels_at("control", torch.tensor([999, 250, 999]))
    shown = experts.undecided(batch, at, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(shown[1:], clips[1:])
    share = ((shown[0] - clips[0]) / (others.mean(0) - clips[0])).flatten()
    torch.testing.assert_close(share, share[:1].expand_as(share), rtol=1e-3, atol=1e-4)
    assert 0 < float(share[0]) < 1
    assert torch.equal(experts.undecided(batch, at, 0.0, torch.Generator()), clips)


def test_a_pool_has_the_motions_that_were_asked_for(work: Path) -> None:
    made = pool.piece(
        "sharp",
        1,
        AutoencoderKL.from_pretrained(work / "vae").eval(),
        scenes=6,
        looks=2,
        motions=("pulsing", "still"),
    )
    asks = [Ask(**one) for one in made["asks"]]  # type: ignore[arg-type,attr-defined]
    assert [one.motion for one in asks] == ["pulsing", "pulsing", "still", "still", "pulsing", "pulsing"]
    assert len({(one.colour, one.shape, one.background) for one in asks}) == 2


def test_clips_of_one_look_are_rivals_where_words_do_not_part_them(work: Path, tmp_path: Path) -> None:
    small = AutoencoderKL.from_pretrained(work / "vae").eval()
    made = pool.piece("sharp", 3, small, scenes=40, looks=2)
    torch.save(made, tmp_path / "sharp-3.pt")
    asks = pool.load(tmp_path, "sharp")[2]
    families = rivals.looks(asks)
    assert sorted(len(clips) for clips in families.values()) == [20, 20]
    assert len({asked.motion for asked in asks}) == 6
    assert rivals.looks([imagine(Ask(), i).ask for i in range(40)]) == {}
    words, seen = text.tokenizer(), set()
    stream = experts.batches(networks.SPECS["control"], tmp_path, 8, 0, "cpu")
    for batch in (next(stream) for _ in range(6)):
        for ids, others in zip(batch.ids, batch.rivals, strict=True):
            told = ask(words.decode(ids, skip_special_tokens=True))[0]
            assert others is not None
            seen.add((told.motion is None, len(others) == 20))
    # Words that name the motion leave its clips alone; without them all clips of the look are possible.
    assert seen == {(True, True), (False, False)}
    # Their captions tell the look whole, unless it is asked for that they leave things out as well.
    for free, whole in ((None, {True}), (0.3, {True, False})):
        stream = experts.batches(networks.SPECS["control"], tmp_path, 8, 0, "cpu", free)
        told = [
            ask(words.decode(ids, skip_special_tokens=True))[0]
            for batch in (next(stream), next(stream))
            for ids in batch.ids
        ]
        assert {one.colour is not None for one in told if one != Ask()} == whole


def test_the_optimiser_moves_every_weight_and_remembers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 8), torch.nn.LayerNorm(8))
    net.append(torch.nn.Linear(8, 1))

    def run(optimizer: Optimizer, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            loss = (net(torch.arange(5)).squeeze(-1) - torch.arange(5.0)).square().mean()
            loss.backward()
            optimizer.step(1.0)
            losses.append(loss.item())
        return losses

    before = [p.detach().clone() for p in net.parameters()]
    optimizer = Optimizer(net)
    losses = run(optimizer, 300)
    assert losses[-1] < 0.5 * losses[0]
    assert all((a != b).any() for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.grad is None for p in net.parameters())
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    after = run(optimizer, 5)
    again, state = Optimizer(net), torch.load(tmp_path / "state.pt", weights_only=True)
    net.load_state_dict(state["net"])
    again.load_state_dict(state["optimizer"])
    assert run(again, 5) == pytest.approx(after, rel=1e-5)


def test_muon_steps_as_torch_does_and_goes_on_from_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upright, lying, square, alone and many of a shape, and a kernel; a parameter without a gradient stays put.

    In wide arithmetic: in bfloat16 small singular values hang on the order of sums.
    """
    torch.manual_seed(0)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.double)
    shapes = [(8, 24), (24, 8), (8, 24), (6, 6), (5, 2, 3, 3), (6, 6)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in (*shapes, (4, 4))]
    theirs = [torch.nn.Parameter(p.detach().flatten(1).clone()) for p in ours]
    options = {"lr": 0.01, "weight_decay": 0.1}
    known = torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")
    muon: torch.optim.Optimizer = Muon(ours, **options)
    for step in range(6):
        if step == 3:
            state = deepcopy(known.state_dict())  # else both would write into the same memory
            muon = Muon(ours, lr=1.0, weight_decay=0.0)
            muon.load_state_dict(state)
        before = [p.detach().clone() for p in theirs]
        for p, q in list(zip(ours, theirs, strict=True))[:-1]:
            q.grad = torch.randn(q.shape)
            p.grad = q.grad.reshape(p.shape)
        muon.step()
        known.step()
        for p, q, was in list(zip(ours, theirs, before, strict=True))[:-1]:
            moved = (q - was).norm()
            assert moved > 0
            assert (p.flatten(1) - q).norm() < 1e-4 * moved
    assert torch.equal(ours[-1], theirs[-1])


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    made = orthogonalised(torch.randn(3, 8, 40) * torch.tensor([1.0, 1e-3, 1e3])[:, None, None]).float()
    found = torch.linalg.svdvals(made)
    assert found.min() > 0.6
    assert found.max() < 1.3


@pytest.mark.parametrize("name", ["spatial", "control", "temporal", "flow-small"])
def test_a_training_goes_on_where_it_stopped(work: Path, name: str) -> None:
    for _ in range(2):
        before = steps(work, name) if (work / name).exists() else 0
        experts.train(name, work, 0.01, 2, None, cool=False, device="cpu", fast=False)
        assert steps(work, name) > before
    lines = [json.loads(line) for line in (work / name / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][-1] == steps(work, name)
    assert all(0 < error < 10 for line in lines for error in line["v"])
    # Of x0 next to nothing is left to guess where a flow's noise is next to nothing: rounded, that may be 0.
    assert all(0 <= error < 10 for line in lines for error in line["x0"])


def test_the_aim_of_distillation_is_reached_in_one_step() -> None:
    torch.manual_seed(0)
    x, reached = torch.randn(2, 1, 3, 4, 4), torch.randn(2, 1, 3, 4, 4)
    aimed = distil.aim(x, 0.7, reached, 0.4)
    torch.testing.assert_close(split(x, aimed, 0.7).mix(0.4), reached)
    torch.testing.assert_close(distil.aim(x, 0.7, reached, 0.0), reached)


@pytest.mark.parametrize("name", ["control", "flow-small"])
def test_the_teacher_reads_its_network_as_the_sampler_does(work: Path, name: str) -> None:
    (work / name).mkdir(exist_ok=True)
    experts.Trainee.new(name).save(work / name / "state.pt")
    teacher, one = distil.Teacher(name, work, 1.0, "cpu"), score.expert(name, work, quick=False)
    x, ids = torch.randn(1, networks.CHANNELS, 16, 8, 8), torch.tensor([text.tokenizer()("a red circle")["input_ids"]])
    level = teacher.schedule.share(500.0)
    with torch.no_grad():
        padded = torch.nn.functional.pad(ids, (0, text.LENGTH - ids.shape[1]), value=text.tokenizer().pad_token_id)
        seen = one.given("a red circle")(x, level, torch.arange(16)[None]).x0
    torch.testing.assert_close(teacher(x, level, padded), seen, rtol=1e-4, atol=1e-5)


def test_distilling_scoring_and_exporting_read_what_training_wrote(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (work / "control").exists():
        experts.train("control", work, 0.001, 1, None, cool=False, device="cpu", fast=False)
    distil.distil("control", work, 0.01, 4, 3.0, 1, "cpu")
    assert steps(work, "control-4") > 0
    small = AutoencoderKL.from_pretrained(work / "vae").eval()
    made = score.videos(score.expert("control", work, quick=False), ["a red circle"], 1, 1.0, small)
    assert 0 <= score.score("control", made, [Ask(colour="red", shape="circle")])["prompt"] <= 1
    monkeypatch.setattr(export, "WEIGHTS", tmp_path)
    export.export("control", work)
    assert {path.name for path in (tmp_path / "control").iterdir()} == {
        "unet",
        "text_encoder",
        "tokenizer",
        "scheduler",
    }


def test_a_student_learns_from_an_expert_of_another_schedule(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow's steps lead down the same path latents, whatever table the student's levels are from."""
    (work / "flow-small").mkdir(exist_ok=True)
    experts.Trainee.new("flow-small").save(work / "flow-small" / "state.pt")
    look, asked = distil.x0_of, set[tuple[str, str]]()

    def seen(net: torch.nn.ModuleDict, x: Tensor, t: float, ids: Tensor, schedule: Schedule, target: Target) -> Tensor:
        asked.add((type(net["unet"]).__name__, type(schedule).__name__))
        assert target is score.speaks("flow-small" if isinstance(schedule, Flow) else "control")
        return look(net, x, t, ids, schedule, target)

    monkeypatch.setattr(distil, "x0_of", seen)
    distil.distil("control", work, 0.01, 3, 3.0, 1, "cpu", after="flow-small", start="shipped")
    assert steps(work, "control-3") > 0
    assert asked == {("WanTransformer3DModel", "Flow"), ("UNetMotionModel", "VariancePreserving")}, "each by its own"
    teacher, x = distil.Teacher("flow-small", work, 1.0, "cpu"), torch.randn(1, networks.CHANNELS, 16, 8, 8)
    nothing = teacher.nothing
    once = split(x, teacher(x, 0.5, nothing), 0.5).mix(0.4)
    monkeypatch.setattr(distil, "SUBSTEPS", 1)
    torch.testing.assert_close(teacher.down(x, 0.5, 0.4, nothing), once)


def test_scores_come_with_intervals_and_as_a_share_of_the_ceiling() -> None:
    """Renders, every third of which is judged by a wrong colour."""
    scenes = [imagine(Ask(), 70 + i) for i in range(6)]
    asks = [one.ask if i % 3 else replace(one.ask, colour=None) for i, one in enumerate(scenes)]
    wrong = [
        one if i % 3 else replace(one, colour="red" if scene.colour != "red" else "blue")
        for i, (one, scene) in enumerate(zip(asks, scenes, strict=True))
    ]
    drawn = [render(scene, range(4)) for scene in scenes]
    best, made = score.judged(drawn, asks), score.judged(drawn, wrong)
    found = score.intervals(made)
    assert found["colour_right"] == wilson(4 / 6, 6)
    assert score.intervals(best)["colour_right"] == wilson(1.0, 4), "an attribute counts where it was asked"
    assert {name: one.value for name, one in found.items()} == pytest.approx(score.score("control", drawn, wrong))
    assert found["prompt"].low < found["prompt"].value < found["prompt"].high
    share = score.of_ceiling(made, best)
    fidelity = [sum(one.prompt for one in verdicts) / 6 for verdicts in (made, best)]
    assert share.value == pytest.approx(fidelity[0] / fidelity[1])
    assert share.low < share.value < share.high
    assert str(score.of_ceiling(best, best)) == "1.000 [1.000, 1.000]"


def test_a_score_is_printed_and_kept(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "spatial").mkdir(exist_ok=True)
    experts.Trainee.new("spatial").save(work / "spatial" / "state.pt")
    command = ["score.py", "spatial", "--work", str(work), "--steps", "1", "--guidance", "1", "--prompts", "3"]
    monkeypatch.setattr(sys, "argv", command)
    score.main()
    said = capsys.readouterr().out.splitlines()
    (kept,) = (json.loads(one) for one in (work / "spatial" / "score.jsonl").read_text().splitlines())
    settings = {"expert": "spatial", "ships": False, "steps": 1, "guidance": 1.0, "prompts": 3}
    assert {name: kept[name] for name in settings} == settings
    bounds = kept.pop("intervals")
    assert set(kept) == {*settings, *bounds}
    assert {"prompt", "colour_right", "prompt_of_ceiling"} <= set(bounds)
    for name, (low, high) in bounds.items():
        assert low <= kept[name] <= high
        assert f"{name:<18}{kept[name]:.3f} [{low:.3f}, {high:.3f}]" in said


def test_a_rate_is_a_share_of_the_full_one(work: Path, tmp_path: Path) -> None:
    moved = []
    for rate in (0.0, 1e-3):
        (tmp_path / f"{rate}").mkdir()
        (tmp_path / f"{rate}" / "pools").symlink_to(work / "pools")
        torch.manual_seed(0)
        before = experts.Trainee.new("flow-small").net.state_dict()
        torch.manual_seed(0)
        experts.train("flow-small", tmp_path / f"{rate}", 0.01, 2, rate=rate)
        after = torch.load(tmp_path / f"{rate}" / "flow-small" / "state.pt", weights_only=True)["net"]
        moved.append(max(float((after[name] - value).abs().max()) for name, value in before.items()))
    assert moved[0] == 0 < moved[1] < 1e-4


def test_what_an_expert_sees_through_noise_is_told_beside_what_is_there(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answers with the posterior mean sees what there is to be seen; one that answers nothing, nothing."""
    assert doctest.testmod(sees).failed == 0
    small = AutoencoderKL.from_pretrained(work / "vae").eval()
    (tmp_path / "pools").mkdir()
    torch.save(pool.piece("sharp", 0, small, scenes=20), tmp_path / "pools" / "sharp-0.pt")
    with pytest.raises(ValueError, match="no look has 16 clips that are pulsing"):
        next(sees.sees("flow-small", tmp_path, "pulsing", 1))
    made = pool.piece("sharp", 3, small, scenes=40, looks=2, motions=["pulsing"])
    torch.save(made, tmp_path / "pools" / "sharp-3.pt")
    latents, asks = made["latents"], [Ask(**one) for one in made["asks"]]

    def answering(network: Network) -> list[tuple[float, float, float]]:
        made_of = Expert("flow-small", Flow(), predicts_flow, network)
        monkeypatch.setattr(sees, "expert", lambda *_, **__: made_of)
        return list(sees.sees("flow-small", tmp_path, "pulsing", 2))

    def knows(x: Tensor, time: float, conditions: tuple[Condition, ...], frames: Tensor) -> Tensor:
        t = time / 1000
        alike = [i for i, one in enumerate(asks) if caption(one) == conditions[0].text]
        clips = latents[alike].float().transpose(1, 2)
        return (x - rivals.expected(x[0], 1 - t, t, clips)) / t

    rows = answering(knows)
    assert [t for t, _, _ in rows] == list(sees.LEVELS)
    assert all(seen > there for _, seen, there in rows[-6:]), "it has the clip itself among its own"
    assert rows[-1][1] == pytest.approx(1, abs=0.05)
    blind = answering(lambda x, time, conditions, frames: (x - x.mean(2, keepdim=True)) / (time / 1000))
    assert all(abs(seen) < 1e-3 for _, seen, _ in blind)


def test_lessons_are_the_mean_clips_of_what_words_say_about_motion(work: Path, tmp_path: Path) -> None:
    small, spec = AutoencoderKL.from_pretrained(work / "vae").eval(), networks.SPECS["flow-small"]
    (tmp_path / "pools").mkdir()
    torch.save(pool.piece("sharp", 0, small, scenes=20), tmp_path / "pools" / "sharp-0.pt")
    with pytest.raises(ValueError, match="--looks 8"):
        next(experts.lessons(spec, tmp_path / "pools", 2, 0, "cpu"))
    made = pool.piece("sharp", 3, small, scenes=60, looks=1)
    torch.save(made, tmp_path / "pools" / "sharp-3.pt")
    batch = next(experts.lessons(spec, tmp_path / "pools", 24, 0, "cpu"))
    seen = set()
    for clip, ids in zip(batch.latents, batch.ids, strict=True):
        told = ask(text.tokenizer().decode(ids, skip_special_tokens=True))[0]
        alike = [i for i, asked in enumerate(made["asks"]) if asked["motion"] == told.motion]
        torch.testing.assert_close(clip, made["latents"][alike].float().mean(0).transpose(0, 1))
        seen.add(told.motion)
    assert len(seen) > 3
    experts.train("flow-small", tmp_path, 0.01, 2, share=1.0)
    assert steps(tmp_path, "flow-small") > 0
    # Lessons are of the noisiest level only, so the log has nothing on others.
    lines = (tmp_path / "flow-small" / "log.jsonl").read_text().splitlines()
    assert len(json.loads(lines[-1])["v"]) == 1


def test_an_expert_learns_from_another_of_its_schedule(work: Path, tmp_path: Path) -> None:
    """From itself there is nothing to learn; another has no such answer to give."""
    (tmp_path / "pools").symlink_to(work / "pools")
    (tmp_path / "flow-small").mkdir()
    experts.Trainee.new("flow-small").save(tmp_path / "flow-small" / "state.pt")
    experts.train("flow-small", tmp_path, 0.01, 2, after="flow-small")
    lines = [json.loads(line) for line in (tmp_path / "flow-small" / "log.jsonl").read_text().splitlines()]
    assert max(lines[-1]["v"]) < 1e-3
    experts.train("flow-small", tmp_path, 0.01, 2)
    lines = [json.loads(line) for line in (tmp_path / "flow-small" / "log.jsonl").read_text().splitlines()]
    assert max(lines[-1]["v"]) > 0.01
    with pytest.raises(ValueError, match="of its own schedule alone, and control has another"):
        experts.train("flow-small", tmp_path, 0.01, 2, after="control")


README = Path(__file__).parent.parent / "training" / "README.md"
MAKERS = {module.__name__: module for module in (vae, pool, experts, distil, score, export)}


def commands() -> list[list[str]]:
    """The commands of training/README.md, from nothing to the package."""
    block = README.read_text().split("```bash")[1].split("```")[0]
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("python ")]


@pytest.mark.slow
def test_the_commands_of_the_readme_lead_from_nothing_to_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command as it stands there, given a step or two and a few scenes instead of its time."""
    shipped = {path.relative_to(export.WEIGHTS) for path in export.WEIGHTS.rglob("*") if path.is_file()}
    package = tmp_path / "package"
    for module in (export, networks, experts):
        monkeypatch.setattr(module, "WEIGHTS", package)
    drawn = vae.pictures
    monkeypatch.setattr(vae, "pictures", lambda seed, scenes=8, odd=False: drawn(seed, scenes, odd))
    monkeypatch.setattr(pool, "piece", partial(pool.piece, scenes=40))
    monkeypatch.setattr(rivals, "FEW", 3)
    monkeypatch.chdir(tmp_path)
    briefly = {"--minutes": "0.001", "--prompts": "1"}
    for script, *given in commands():
        words = ["work" if word == "$W" else word.replace("$W", "work") for word in given]
        words = [briefly.get(before, word) if word[0].isdigit() else word for before, word in pairwise(["", *words])]
        words = [word for word in words if word != "--fast"]  # minutes of compiling
        if script == "training/score.py":
            words += ["--prompts", "1"]
        monkeypatch.setattr(sys, "argv", [script, *words])
        MAKERS[Path(script).stem].main()
    made = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    assert made == shipped
