"""Runs that fit: who is where under a budget, what is given up first, and what happens when memory runs out anyway."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from test_residency import EXACT, Log, Traveller, moves
from torch import Tensor
from typer.testing import CliRunner

import dovetail
from dovetail import cli, experts
from dovetail import recipe as recipes
from dovetail.core.denoiser import Condition
from dovetail.errors import RecipeError, RoomError, RoomWarning
from dovetail.experts import footprint
from dovetail.experts.checkpoint import Location
from dovetail.experts.outline import outline
from dovetail.experts.residency import CODEC, Platform, turns, within
from dovetail.recipe import Recipe, models
from dovetail.run import Cast, Look, Piece, Step, decode, finished, keep, load, play
from dovetail.run.budget import Fit, budget_of, fit, fitted, foreseen
from dovetail.run.lessening import advising, less, lighter
from dovetail.run.sizes import decoders, outlines
from dovetail.video import Video, settings_of

# --- who is where -----------------------------------------------------------------------------------------------------


def test_a_finished_piece_is_a_turn_of_the_codec() -> None:
    asked = [frozenset(name) for name in "LLS"]
    told = ["".join(sorted(names)) for names in turns(asked, [2, 3])]
    assert told == ["L", "L", CODEC, "S", CODEC]
    assert ["".join(names) for names in turns(asked, [2, 3], done=1)] == ["S", CODEC]


@pytest.mark.parametrize(
    ("room", "here"),
    [(10, ["L", "LS", "LS", "L"]), (8, ["L", "L", "S", "L"]), (6, ["L", "L", "S", "L"])],
    ids=["both fit", "one fits", "the largest just fits"],
)
def test_within_a_budget_the_next_one_comes_early_where_it_fits(room: int, here: list[str]) -> None:
    found = within([frozenset(name) for name in "LLSL"], {"L": 6, "S": 3}, [room] * 4)
    assert ["".join(sorted(names)) for names in found] == here


def test_who_is_asked_sooner_stays() -> None:
    asked = [frozenset(name) for name in ["AB", "C", "A", "B"]]
    assert within(asked, {"A": 4, "B": 4, "C": 4}, [12, 8, 8, 8])[1] == {"C", "A"}
    assert within(asked, {"A": 4, "B": 4, "C": 4}, [12, 12, 8, 8])[1] == {"A", "B", "C"}


@pytest.mark.parametrize(
    ("given", "came"),
    [
        ("8", r"'8' \(text\)"),
        (8, r"8 \(a number\)"),
        ("8 gigs", "'8 gigs'"),
        ("-1GB", "'-1GB'"),
        ("GB", "'GB'"),
        ("", "''"),
    ],
)
def test_memory_is_a_number_and_a_unit(given: object, came: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"^vram: {came}.* came; what fits is a number and a unit, as in 8GB, 500MB or 7\.5GiB$"
    ):
        recipes.changed(EXACT, {"vram": given})


def test_memory_is_said_in_any_case_and_without_its_b() -> None:
    for text in ("8G", "8gb", "8 GB", "8000m", "8000000k"):
        assert budget_of(recipes.changed(EXACT, {"vram": text})) == 7_500_000_000
    assert budget_of(recipes.changed(EXACT, {"vram": "8gi"})) == budget_of(recipes.changed(EXACT, {"vram": "8GiB"}))
    said = CliRunner().invoke(cli.app, ["plan", "sprites-exact", "--vram", "8"])
    assert said.stderr.startswith("error: vram: '8' (text) came; what fits is a number and a unit, as in 8GB")


# --- a pretended device -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A large and a small tiny Wan, large, small and large again, 5 steps."""
    folder = tmp_path_factory.mktemp("pair")
    large, small = tiny.MAKERS["wan"](folder / "large", layers=3), tiny.MAKERS["wan"](folder / "small")
    return recipes.changed(
        EXACT,
        {
            "experts": {
                "large": {"family": "wan", "weights": str(large)},
                "small": {"family": "wan", "weights": str(small)},
            },
            "codec": {"weights": str(large)},
            "chain.video.ladder": {"own": {"of": "large", "steps": 5}},
            "video.height": 32,
            "video.width": 48,
            "video.frames": 5,
        },
    )


def fit_in(recipe: Recipe, budget: int | None) -> Fit:
    return fit(foreseen(recipe, []), outlines(recipe, []), budget)


def vram(recipe: Recipe, budget: int) -> Recipe:
    """The recipe on a pretended device of which so many bytes may be filled."""
    return recipes.changed(recipe, {"vram": f"{(budget * 16 // 15 + 16) / 1000:.3f}kB"})


@dataclass(frozen=True, eq=False)
class TravellingCodec:
    """A codec that writes down when it comes, is asked and goes, and fails if it is asked elsewhere."""

    codec: Any
    log: Log
    here: set[str] = field(default_factory=set)

    def come(self) -> None:
        self.log.append(("come", CODEC))
        self.here.add(CODEC)

    def go(self) -> None:
        self.log.append(("go", CODEC))
        self.here.discard(CODEC)

    def stream(self, latent: Tensor) -> Iterator[Tensor]:
        assert CODEC in self.here, "the codec is asked while it is away"
        self.log.append(("ask", CODEC))
        yield from self.codec.stream(latent)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)


def travelling(recipe: Recipe) -> tuple[Cast, Log]:
    cast, log = load(recipe), list[tuple[str, str]]()
    here: set[str] = set()
    travellers = {
        name: replace(expert, network=Traveller(name, expert.network, log, here))
        for name, expert in cast.experts.items()
    }
    return replace(cast, experts=travellers, codec=TravellingCodec(cast.codec, log)), log


def test_what_fits_stays_and_nothing_moves(pair: Recipe) -> None:
    everything = max(part.total for part in fit_in(pair, None).parts)
    assert fit_in(pair, everything).here is None
    assert fit_in(pair, everything - 1).here is not None


def test_experts_and_codec_move_by_their_order_of_use(pair: Recipe) -> None:
    """The large one alone fits, then one of the two and the codec, then both; sizes are pretended."""
    tight = vram(pair, max(part.total for part in fit_in(pair, None).parts) - 100)
    cast, _ = travelling(tight)
    assert cast.fit is not None
    alone = finished(play(pair))
    large, small, codec = ("come", "large"), ("come", "small"), ("come", CODEC)
    for room, first in (
        (10, [large, ("go", "large"), small, ("go", "small"), large, ("go", "large"), codec]),
        (12, [large, ("go", "large"), small, ("go", "small"), large, codec]),
        (15, [large, small, ("go", "small"), codec]),
    ):
        cast, log = travelling(tight)
        rooms = dict.fromkeys(cast.fit.rooms, room)
        fit_ = replace(cast.fit, sizes={"large": 10, "small": 5, CODEC: 2}, rooms=rooms)
        video = finished(play(tight, replace(cast, fit=fit_)))
        assert moves(log)[: len(first)] == first, room
        assert log.index(("ask", CODEC)) > log.index(codec)
        assert {name for what, name in moves(log) if what == "come"} == {"large", "small", CODEC}
        assert sum(what == "come" for what, _ in log) == sum(what == "go" for what, _ in log), "nobody is left"
        assert (video.frames == alone.frames).all(), "who is where changes no byte"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Two tiny Stable Diffusions, one stage after the other in each of four segments."""
    folder = tmp_path_factory.mktemp("long")
    draft, polish = (str(tiny.MAKERS["stable-diffusion"](folder / name)) for name in ("draft", "polish"))
    spec = {"family": "stable-diffusion", "weights": draft}
    own = {"own": {"of": "draft", "steps": 2}}
    chain = [
        {"stage": "structure", "ladder": own, "window": 4, "denoise": {"framewise": "draft"}},
        {"stage": "refine", "ladder": own, "window": 4, "denoise": {"framewise": "polish"}},
    ]
    return recipes.changed(
        recipes.load("sprites-only-spatial"),
        {
            "experts": {"draft": spec, "polish": {**spec, "weights": polish}},
            "codec": {"weights": draft},
            "chain": chain,
            "video.frames": 16,
            "video.height": 16,
            "video.width": 16,
            "residency": "ahead",
        },
    )


def moved(found: Fit) -> int:
    """Bytes of weights that come to the device in a run."""
    assert found.here is not None
    before = [frozenset[str](), *found.here]
    return sum(found.sizes[name] for was, now in zip(before, found.here, strict=False) for name in now - was)


def test_a_long_run_brings_everyone_once_where_there_is_room(long: Recipe) -> None:
    """And at each segment where there is not; in turns, at each segment whatever there is."""
    in_turns = recipes.changed(long, {"residency": "turns"})
    least = max(part.total for part in fit_in(in_turns, None).parts[1:])
    everyone = sum(fit_in(long, None).sizes.values())
    assert moved(fit_in(long, least + everyone)) == everyone
    tight = fit_in(long, least)
    assert not tight.batches
    assert not tight.grouped
    assert 3 * everyone < moved(tight) <= 4 * everyone
    assert moved(fit_in(in_turns, least + everyone)) == 4 * everyone
    for budget, times in ((least + everyone, 1), (least, 4)):
        recipe = vram(long, budget)
        cast, log = travelling(recipe)
        finished(play(recipe, cast))
        came = [name for what, name in log if what == "come"]
        assert (came.count("draft"), came.count("polish")) == (times, times)


def test_what_is_given_up_comes_in_order(pair: Recipe) -> None:
    """Turns, then less at once, then blocks; at last it is refused, and says why."""
    joint = {"chain.video.denoise": {"expert": "large", "guidance": 3.0, "joint": True}, "experts.large.batch": 2}
    recipe, seen = recipes.changed(pair, joint), []
    budget = max(part.total for part in fit_in(recipe, None).parts)
    while (found := fit_in(recipe, budget)).short is None:
        now = (found.here is not None, bool(found.batches or found.tiles), bool(found.grouped))
        if now not in seen:
            seen.append(now)
        budget = budget * 9 // 10
    assert seen == sorted(seen)
    assert seen[0] == (False, False, False)
    assert (True, True, True) in seen
    with pytest.raises(
        RoomError, match=r"part '(video|decode)' of the run: at least .* fit, added to the same command: `"
    ):
        load(vram(recipe, budget))


def test_what_is_advised_where_memory_is_short_makes_it_fit(pair: Recipe) -> None:
    """Each alone, of what the run does not do by itself; then together, and then nothing."""
    most = max(part.total for part in fit_in(pair, None).parts)
    least = next(size for n in range(40) if fit_in(pair, size := most * 9**n // 10**n * 9 // 10).short is not None)
    seen = set()
    for budget in (least, least * 2 // 3, least // 3, 200):
        tight = vram(pair, budget)
        said = less(tight, budget)
        seen.add(said.partition(" ")[0])
        advised = re.findall("`(.*?)`", said)
        for words in advised:
            paths = re.findall(r"--set (\S+)", words) + [
                f"video.frames={n}" for n in re.findall(r"--frames (\d+)", words)
            ]
            assert paths
            assert fit_in(recipes.changed(pair, paths), budget).short is None, words
            assert not re.search("residency|offload|tiles|chunk", words)
        assert bool(advised) != ("a device with more memory" in said)
        with pytest.raises(RoomError) as refused:
            fitted(tight)
        assert str(refused.value).endswith(said)
        assert str(refused.value.at("video", 2)).endswith(said)
    assert {"What", "Experts"} <= seen


def test_what_is_done_already_is_not_advised(pair: Recipe) -> None:
    done = {f"experts.{name}": {**spec.model_dump(), "store": "float8"} for name, spec in pair.experts.items()}
    said = less(recipes.changed(pair, {**done, "codec.store": "float8", "codec.dtype": "bfloat16"}), 60_000)
    assert "store" not in said
    assert "codec.dtype" not in said


@pytest.mark.slow
def test_the_published_pair_on_four_gigabytes() -> None:
    recipe = recipes.changed(recipes.load("confiner-sd15-modelscope"), {"vram": "4GB"})
    with pytest.raises(RoomError, match="part 'refine' of the run") as refused:
        fitted(recipe)
    assert "`--set experts.spatial.store=float8`, `--set experts.temporal.store=float8`" in str(refused.value)
    assert not re.search("residency|offload|tiles|dtype|dovetail plan", str(refused.value))


def test_an_expert_that_is_too_large_alone_comes_in_blocks(pair: Recipe) -> None:
    """Its blocks are hooked, it is nobody's passenger, and the video is the same."""
    alone = recipes.changed(pair, {"chain.video.denoise": "large"})
    whole = fit_in(recipes.changed(alone, {"residency": "turns"}), None)
    video = next(part for part in whole.parts if part.name == "video")
    tight = vram(alone, video.total - 100)
    found = fitted(tight)
    assert found is not None
    assert found.grouped == {"large"}
    from dovetail.experts.moving import in_groups
    from dovetail.experts.residency import passengers

    cast = load(tight)
    assert in_groups(cast.experts["large"].network.module)  # type: ignore[attr-defined]
    assert set(passengers(cast.experts, cast.codec)) == {CODEC}
    ours, theirs = finished(play(tight, cast)), finished(play(alone))
    assert ours.latent is not None
    assert theirs.latent is not None
    assert torch.equal(ours.latent, theirs.latent)
    with pytest.raises(RecipeError, match="leave out offload, or skip and reuse"):
        finished(play(recipes.changed(alone, {"experts.large.offload": True, "chain.video.denoise.skip": [1]})))


@pytest.mark.parametrize("how", [{"skip": [1]}, {"reuse": [1]}])
def test_blocks_that_are_left_out_or_reused_do_not_come_in_turns(pair: Recipe, how: dict[str, Any]) -> None:
    """Such an expert would not run, so it is refused before it is loaded."""
    alone = recipes.changed(pair, {"chain.video.denoise": {"expert": "large", **how}, "residency": "turns"})
    video = next(part for part in fit_in(alone, None).parts if part.name == "video")
    found = fit_in(alone, video.total - 100)
    assert not found.grouped
    assert found.short is not None
    assert found.short.name == "video"


def test_weights_of_bitsandbytes_stay_where_they_are(pair: Recipe) -> None:
    """They are on the device while others take their turn, and their blocks cannot come in turns."""
    recipe = recipes.changed(pair, {"experts.small.quantize": "bitsandbytes-int8", "residency": "turns"})
    free, kept = (fit_in(one, None) for one in (recipes.changed(recipe, {"experts.small.quantize": None}), recipe))
    small = free.sizes["small"] // 4
    assert kept.sizes.keys() == {"large", CODEC}
    (text, video, decode), (text_, video_, decode_) = free.parts, kept.parts
    assert [text_.weights - text.weights, decode_.weights - decode.weights] == [small, small]
    assert video_.weights == video.weights + small
    budget = max(part.total for part in kept.parts)
    within_ = fit_in(recipe, budget)
    assert within_.short is None
    assert within_.during([frozenset({"large"})], "all") == (frozenset({"large"}),)
    assert "small" not in fit_in(recipe, budget // 4).grouped


def test_what_is_on_another_device_is_not_counted(pair: Recipe) -> None:
    recipe = recipes.changed(pair, {"experts.large.device": "cpu", "experts.small.device": "meta"})
    found = fit_in(recipe, None)
    assert found.sizes.keys() == {"large", CODEC}
    codec = recipes.changed(pair, {"codec.device": "meta"})
    assert fit_in(codec, None).sizes.keys() == {"large", "small"}
    assert not decoders(foreseen(codec, []))


def test_what_torch_has_kept_of_freed_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the second run in a process would be given less than the first, and make other bytes."""
    pretended = {"is_available": True, "device_count": 1, "mem_get_info": (6000, 24000)}
    for name, value in (pretended | {"memory_reserved": 9000, "memory_allocated": 1000}).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    assert budget_of(recipes.load("flowblending-wan21")) == 14000 - 14000 // 16
    assert budget_of(recipes.changed(EXACT, {"vram": "8GB"})) == 7_500_000_000
    assert budget_of(EXACT) is None


def test_stages_may_be_called_like_other_parts(pair: Recipe) -> None:
    recipe = recipes.changed(pair, {"chain.0.stage": "text"})
    assert [part.name for part in fit_in(recipe, None).parts] == ["text", "text", "decode"]
    with pytest.raises(RoomError, match="part 'text' of the run"):
        load(recipes.changed(recipe, {"vram": "1kB"}))


def test_a_turn_that_was_not_foreseen_keeps_whom_it_asks(pair: Recipe) -> None:
    found = fit_in(pair, max(part.total for part in fit_in(pair, None).parts) - 100)
    both = frozenset({"large", "small"})
    assert both not in found.rooms
    assert found.during([both, frozenset({"large"})], "all")[0] == both


def test_rows_are_not_halved_where_weights_alone_are_too_much() -> None:
    """Blocks in turns change no byte, and without them it cannot fit."""
    joint = {"expert": "large", "guidance": 5.0, "joint": True}
    plan = dovetail.plan("flowblending-wan21", overrides={"chain.video.denoise": joint, "experts.large.batch": 2})
    found = fit(plan, outlines(plan.recipe, []), 24 * 10**9)
    assert found.short is None
    assert found.grouped == {"large"}
    assert not found.batches


def test_a_video_to_start_from_is_encoded_whole(pair: Recipe, tmp_path: Path) -> None:
    recipe = recipes.changed(pair, {"start": {"video": str(tmp_path / "it.mp4")}, "codec.tiles": 4})
    plain = recipes.changed(recipe, {"start": None})
    started, not_ = (decoders(foreseen(one, []))[CODEC] for one in (recipe, plain))
    assert not_.encoded is None
    assert started.encoded == started.shape
    assert started.work > not_.work


def test_plan_prints_memory_and_refuses(pair: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(recipes.dump(pair))
    plain = CliRunner().invoke(cli.app, ["plan", str(file)])
    assert plain.exit_code == 0, plain.output
    assert "on the device at most, residency all" in plain.stdout
    roomy = CliRunner().invoke(cli.app, ["plan", str(file), "--vram", "8GB"])
    assert "in 7.50 GB that may be filled it fits: as it is asked" in roomy.stdout
    tight = CliRunner().invoke(cli.app, ["plan", str(file), "--vram", "1kB"])
    assert tight.exit_code == 1
    assert "on the device at most" in tight.stdout, "the table comes before the refusal"
    assert "take smaller experts (--set experts.NAME.weights=..) or a device with more memory" in tight.stderr
    refused = CliRunner().invoke(cli.app, ["generate", "-r", str(file), "--vram", "1kB", "-o", str(tmp_path / "a.mp4")])
    assert refused.exit_code == 1
    assert not (tmp_path / "a.mp4").exists()


def test_the_papers_pair_on_small_cards() -> None:
    """14B beside 1.3B, from published configurations."""
    plan = dovetail.plan("flowblending-wan21")
    known = outlines(plan.recipe, [])
    in_24, in_12 = (fit(plan, known, size * 10**9) for size in (24, 12))
    assert in_24.short is in_12.short is None
    assert in_24.grouped == in_12.grouped == {"large"}
    assert not in_12.reads_at_home
    assert fit(plan, known, 8 * 10**9).reads_at_home, "UMT5-XXL alone is 11 GB"
    roomy = fit(plan, known, 40 * 10**9)
    assert not roomy.grouped
    assert roomy.here is not None
    assert {"large", "small"} in roomy.here, "the small one comes ahead where there is room"
    assert not any({"large", "small"} <= here for here in fit(plan, known, 32 * 10**9).here or ())


# --- what networks work in --------------------------------------------------------------------------------------------


def allocated(call: Callable[[], object]) -> int:
    """The most bytes that torch has at once during a call, by its own profiler."""
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as seen:
        call()
    now = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("family", tiny.MAKERS)
def test_what_a_network_works_in_is_what_torch_allocates(family: str, tmp_path: Path) -> None:
    """Counted from its config alone, and measured on one that runs."""
    usual = {"wan": (4, 3, 8, 12), "ltx": (4, 3, 8, 12), "cogvideox": (4, 3, 8, 12), "open-sora-plan": (4, 6, 16, 24)}
    shape = usual.get(family, (4, 1, 16, 16))
    network: Any = experts.load("it", family, str(tiny.MAKERS[family](tmp_path))).network
    network.read(["a"])
    x, told = torch.randn(2, *shape), [Condition("a")] * 2
    ours = footprint.activations(outline("it", family, Location(str(tmp_path))), shape, 2)
    assert ours == pytest.approx(allocated(lambda: network._piece(x, 500.0, told)), rel=0.1)


def test_what_an_image_autoencoder_works_in_is_what_torch_allocates() -> None:
    module, size = tiny.vae(), (4, 3, 8, 12)
    config = {key: value for key, value in module.config.items() if not key.startswith("_")}
    ours = footprint.decoding("AutoencoderKL", config, size, 4, 16, None)
    assert ours == pytest.approx(allocated(lambda: module.decode(torch.randn(3, 4, 8, 12))), rel=0.1)


def test_later_frames_of_wan_add_what_is_kept_of_them() -> None:
    """Decoded frame by frame: a formula stands for those that are not followed."""
    module = tiny.wan_vae()
    config = {key: value for key, value in module.config.items() if not key.startswith("_")}
    kind = "AutoencoderKLWan"
    for frames in (4, 6):
        whole = footprint._decoded(kind, footprint.written(config), 4, frames, 4)
        assert footprint.decoding(kind, config, (4, frames, 8, 8), 4, 16, None) == pytest.approx(whole, rel=0.02)


def test_two_blocks_work_in_what_a_whole_stack_works_in() -> None:
    it = outline("it", "wan", Location("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"), dtype="bfloat16")
    few, more = (replace(it, config={**it.config, "num_layers": n}) for n in (2, 4))
    shape, text = (16, 3, 8, 8), (512, 4096, False)
    whole = footprint._looked(more.family, more.kind, footprint.written(more.config), text, shape, 2)
    assert footprint.activations(few, shape, 1) == footprint.activations(it, shape, 1) == whole
    assert footprint.activations(it, shape, 3) == 3 * whole
    assert footprint.blockwise(it) < it.bytes / 5


# --- running out ------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Narrow:
    """A module's forward, which runs out of memory above so many rows."""

    rows: int
    forward: Any
    tried: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, *args: Any, **named: Any) -> Any:
        self.tried.append(len(x))
        if len(x) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. (pretended)")
        return self.forward(x, *args, **named)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny Stable Diffusion frame by frame, 8 rows at once."""
    folder = tiny.MAKERS["stable-diffusion"](tmp_path_factory.mktemp("single") / "it")
    return recipes.changed(
        recipes.load("sprites-only-spatial"),
        {
            "experts": {"it": {"family": "stable-diffusion", "weights": str(folder), "batch": 8}},
            "codec": {"weights": str(folder)},
            "chain": [
                {"stage": "video", "ladder": {"own": {"of": "it", "steps": 2}}, "denoise": {"framewise": "it"}},
            ],
            "video.frames": 8,
            "video.height": 16,
            "video.width": 16,
        },
    )


def narrow(cast: Cast, rows: int, name: str = "it") -> Narrow:
    module: Any = cast.experts[name].network.module  # type: ignore[attr-defined]
    found = Narrow(rows, module.forward)
    module.forward = found
    return found


def test_rows_halve_until_they_fit_and_the_run_says_so(single: Recipe, tmp_path: Path) -> None:
    cast = load(single)
    tried = narrow(cast, 3).tried
    with pytest.warns(RoomWarning) as aloud:
        video = finished(play(single, cast))
    assert ["8 rows at once did not fit in memory; 4 from then on" in str(one.message) for one in aloud] == [
        True,
        False,
    ]
    assert tried == [8, 4, *[2] * 8], "the step is tried again, and the next one begins with what fits"
    undisturbed = finished(play(single))
    assert "less_at_once" not in undisturbed.settings
    said = video.settings["less_at_once"]
    assert said["what"] == [
        "video, step 1: expert 'it': 8 rows at once did not fit in memory; 4 from then on",
        "video, step 1: expert 'it': 4 rows at once did not fit in memory; 2 from then on",
    ]
    assert "need not be those of an undisturbed run" in said["why"]
    assert video.settings["recipe"]["experts"]["it"]["batch"] == 8
    assert abs(video.frames.astype(int) - undisturbed.frames).max() <= 1
    again = finished(play(single, cast))
    assert again.settings["less_at_once"]["what"][0].startswith("before this run: expert 'it'")


SHORT = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "driver": getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
    "Apple": RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB, max allowed: 9.07 GB)"),
}
"""How devices and their libraries say that memory ran short."""


def failing(error: Exception, times: int, answer: Any = None) -> Any:
    """Raises an error so many times, then answers as `answer` would."""
    left = [error] * times

    def called(*args: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return None if answer is None else answer(*args, **named)

    return called


@pytest.mark.parametrize("who", SHORT)
@pytest.mark.filterwarnings("ignore::dovetail.errors.RoomWarning")
def test_whoever_runs_out_of_memory_is_asked_for_less(
    single: Recipe, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network, a decoder, weights that come, a text model."""
    error, cast = SHORT[who], load(single)
    network: Any = cast.experts["it"].network.module  # type: ignore[attr-defined]
    network.forward = failing(error, 1, network.forward)
    said = finished(play(single, cast)).settings["less_at_once"]["what"]
    assert said == ["video, step 1: expert 'it': 8 rows at once did not fit in memory; 4 from then on"]
    codec: Any = cast.codec
    codec.module.decode = failing(error, 2, codec.module.decode)
    codec.decode(torch.randn(1, 4, 2, 8, 8))
    assert [(one.unit, one.now) for one in codec.shortages] == [("frames", 1), ("cells a side", 4)]
    late = SimpleNamespace(come=failing(error, 1), go=lambda: None)
    there = SimpleNamespace(come=lambda: None, go=lambda: None)
    assert len(list(Platform({"L": there, "S": late}).during("LS", "ahead"))) == 2
    full = SimpleNamespace(come=failing(error, 2), go=lambda: None)
    with pytest.raises(RoomError, match="expert 'L': its weights do not fit"):
        list(Platform({"L": full}).during("L", "turns"))
    monkeypatch.setattr("dovetail.experts.residency.visiting", failing(error, 1))
    (said,) = finished(play(single)).settings["less_at_once"]["what"]
    assert "its text model did not fit in the memory of cpu and reads on the CPU" in said


def test_an_error_that_is_no_shortage_is_what_it_was(single: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    error, cast = RuntimeError("CUDA error: an illegal memory access was encountered"), load(single)
    network, codec = cast.experts["it"].network.module, cast.codec  # type: ignore[attr-defined]
    network.forward = failing(error, 1, network.forward)
    codec.module.decode = failing(error, 1, codec.module.decode)  # type: ignore[attr-defined]
    broken = SimpleNamespace(come=failing(error, 1), go=lambda: None)
    there = SimpleNamespace(come=lambda: None, go=lambda: None)
    calls: list[Callable[[], Any]] = [
        lambda: finished(play(single, cast)),
        lambda: codec.decode(torch.randn(1, 4, 2, 8, 8)),  # type: ignore[union-attr]
        lambda: list(Platform({"L": SimpleNamespace(come=failing(error, 1), go=lambda: None)}).during("L", "turns")),
        lambda: list(Platform({"L": there, "S": broken}).during("LS", "ahead")),
        lambda: finished(play(single)),
    ]
    for i, call in enumerate(calls):
        if i == len(calls) - 1:
            monkeypatch.setattr("dovetail.experts.residency.visiting", failing(error, 1))
        with pytest.raises(RuntimeError, match="illegal memory access"):
            call()


def test_where_one_row_does_not_fit_the_error_teaches(single: Recipe) -> None:
    cast = load(single)
    narrow(cast, 0)
    with pytest.warns(RoomWarning), pytest.raises(RoomError) as caught:
        finished(play(single, cast))
    said = str(caught.value)
    assert "expert 'it': latents of 1 frames of 8x8 cells, 1 at once, do not fit" in said
    assert "in stage 'video', step 1" in said
    assert re.search(r"added to the same command: `--vram \d+KB.*`$", said)
    assert lighter(single, None, "video") is not None


@pytest.mark.parametrize("kept", [False, True])
def test_where_one_row_does_not_fit_what_the_plan_can_do_is_named(pair: Recipe, tmp_path: Path, kept: bool) -> None:
    """In a stage, of a run that was let pass: with each of the options the plan needs three quarters of that at most."""
    cast = load(pair)
    narrow(cast, 0, "large")
    with pytest.raises(RoomError) as caught:
        list(keep(pair, tmp_path / "it.mp4", cast=cast) if kept else play(pair, cast))
    said = str(caught.value)
    assert "1 at once, do not fit in the memory of cpu in stage 'video', step 1. The plan counts " in said
    assert "dovetail plan" not in said
    need = next(part.total for part in fit_in(pair, None).parts if part.name == "video")
    advised = re.findall("`(.*?)`", said)
    assert advised
    for words in advised:
        (vram,) = re.findall(r"^--vram (\S+)", words)
        lessened = recipes.changed(pair, [f"vram={vram}", *re.findall(r"--set (\S+)", words)])
        assert (budget_of(lessened) or 0) <= need * 3 // 4
        assert fitted(lessened) is not None, "it fits, as is said"


def test_where_no_plan_tells_advice_in_a_run_is_general() -> None:
    assert lighter(EXACT, None, "video") is None, "exact experts take no memory that is counted"
    error = RoomError("it", "its weights", "cpu")
    with pytest.raises(RoomError, match="What needs less: fewer frames"), advising(EXACT, None):
        raise error
    told = error.advised("Wait.")
    with pytest.raises(RoomError, match=r"cpu\. Wait\.$"), advising(EXACT, None):
        raise told


def test_a_run_in_a_folder_remembers_what_a_killed_process_did_with_less(single: Recipe, tmp_path: Path) -> None:
    """A shortage in the first piece; the process ends; another one, with room, finishes the run."""
    recipe = recipes.changed(single, {"chain.video.window": 4})
    cast = load(recipe)
    narrow(cast, 2)
    out, folder = tmp_path / "it.mp4", tmp_path / "it.run"
    events = keep(recipe, out, folder, cast)
    with pytest.warns(RoomWarning):
        assert isinstance(next(events), Step)
    while isinstance(next(events), Step):
        pass
    events.close()  # type: ignore[attr-defined]
    assert not out.exists()
    pieces = [event.latent for event in keep(recipe, out, folder, load(recipe)) if isinstance(event, Piece)]
    (what,) = settings_of(out)["less_at_once"]["what"]
    assert what == "video, step 1: expert 'it': 4 rows at once did not fit in memory; 2 from then on"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines if line["event"] == "less at once"] == [what]
    again, codec = list(decode(folder, tmp_path / "b.npz", Look(tiles=4))), load(recipe).codec
    (latent,) = pieces
    asked, plain = (Video.of(it.decode(latent), 1.0).frames for it in (replace(codec, tiles=4), codec))  # type: ignore[type-var]
    assert (again[-1] == asked).all()
    assert (again[-1] != plain).any()


def test_an_expert_without_some_blocks_says_it_too(pair: Recipe) -> None:
    """It is the same network: what either finds out is known of both, and to the run."""
    skipping = {"expert": "large", "guidance": 3.0, "skip": [1]}
    recipe = recipes.changed(pair, {"chain.video.denoise": skipping, "experts.large.batch": 2})
    cast = load(recipe)
    module: Any = cast.experts["large"].network.module  # type: ignore[attr-defined]
    module.forward = Narrow(1, module.forward)
    with pytest.warns(RoomWarning):
        video = finished(play(recipe, cast))
    (what,) = video.settings["less_at_once"]["what"]
    assert what == "video, step 1: expert 'large': 2 rows at once did not fit in memory; 1 from then on"


def test_a_text_model_that_finds_no_room_reads_on_the_cpu_and_the_run_says_so(
    single: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(_: Any) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory. (pretended)")
        yield

    monkeypatch.setattr("dovetail.experts.residency.visiting", full)
    with pytest.warns(RoomWarning, match="its text model did not fit"):
        video = finished(play(single))
    (what,) = video.settings["less_at_once"]["what"]
    assert what == (
        "before the first step: expert 'it': its text model did not fit in the memory of cpu and reads on the CPU"
    )


@dataclass(eq=False)
class Cramped:
    """A decoder that runs out of memory above so many cells in a row of pictures."""

    cells: int
    decode: Any
    tried: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, code: Tensor, *args: Any, **named: Any) -> Any:
        self.tried.append((len(code), *code.shape[-2:]))
        if code[:, 0].numel() > self.cells:
            raise torch.OutOfMemoryError("CUDA out of memory. (pretended)")
        return self.decode(code, *args, **named)


def test_the_codec_takes_fewer_frames_then_smaller_tiles(single: Recipe) -> None:
    codec: Any = load(single).codec
    latent = torch.randn(1, 4, 6, 8, 8)
    whole = codec.decode(latent)
    cramped = codec.module.decode = Cramped(2 * 64, codec.module.decode)
    with pytest.warns(RoomWarning):
        fewer = codec.decode(latent)
    torch.testing.assert_close(fewer, whole, atol=1e-5, rtol=0)
    assert [one.now for one in codec.shortages] == [3, 1]
    cramped.cells = 16
    with pytest.warns(RoomWarning):
        tiled = codec.decode(latent)
    assert str(codec.shortages[-1]).endswith("8 cells a side at once did not fit in memory; 4 from then on")
    torch.testing.assert_close(tiled, replace(load(single).codec, tiles=4).decode(latent), atol=1e-5, rtol=0)  # type: ignore[type-var]
    cramped.cells = 8
    with pytest.raises(RoomError, match="4x4 cells"):
        codec.decode(latent)


def test_what_one_piece_found_out_holds_for_the_next(single: Recipe) -> None:
    """Of decoding and of encoding, where pieces stand in a row before the first is tried."""
    codec: Any = replace(load(single).codec, chunk=4)  # type: ignore[type-var]
    frames = codec.decode(torch.randn(1, 4, 12, 8, 8))
    for name, given in (("decode", torch.randn(1, 4, 12, 8, 8)), ("encode", frames)):
        codec.shortages.clear()
        # What encodes is given pixels, four for each cell.
        cramped = Cramped(given.shape[-1] ** 2 * 2, getattr(codec.module, name))
        setattr(codec.module, name, cramped)
        with pytest.warns(RoomWarning):
            getattr(codec, name)(given)
        assert [one.now for one in codec.shortages] == [2]
        assert [rows for rows, *_ in cramped.tried] == [4, *[2] * 6]


def test_what_was_handed_out_before_memory_ran_short_is_not_handed_out_again(tmp_path: Path) -> None:
    from dovetail.experts import load_codec

    tiny.cogvideox_vae().save_pretrained(tmp_path / "vae")
    codec: Any = load_codec(str(tmp_path))
    latent = torch.randn(1, 4, 5, 8, 8)
    calm = codec.decode(latent)
    decoder, calls = codec.module.decoder.forward, []

    def forward(code: Tensor, **named: Any) -> Any:
        calls.append(code.shape)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. (pretended)")
        return decoder(code, **named)

    codec.module.decoder.forward = forward
    with pytest.warns(RoomWarning, match="8 cells a side"):
        pieces = list(codec.stream(latent))
    assert sum(piece.shape[1] for piece in pieces) == calm.shape[1]
    assert torch.equal(pieces[0], calm[:, : pieces[0].shape[1]])


def test_weights_that_find_no_room_are_an_error_that_teaches() -> None:
    class Full:
        def come(self) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. (pretended)")

        def go(self) -> None: ...

    with pytest.raises(RoomError, match="expert 'L': its weights do not fit in the memory of cpu"):
        list(Platform({"L": Full()}).during("L", "turns"))


def test_who_finds_no_room_ahead_comes_when_it_is_asked() -> None:
    class Late:
        tries = 0

        def come(self) -> None:
            self.tries += 1
            if self.tries == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. (pretended)")

        def go(self) -> None: ...

    class There:
        def come(self) -> None: ...
        def go(self) -> None: ...

    late = Late()
    assert len(list(Platform({"L": There(), "S": late}).during("LS", "ahead"))) == 2
    assert late.tries == 2


def test_a_network_whose_blocks_are_reused_says_what_to_do(pair: Recipe) -> None:
    """What one try has noted would be read with the next."""
    from dovetail.experts.blocks import Notes, parted

    whole, _ = parted(load(pair).experts["large"].network, (1,), Notes())
    module: Any = whole.module  # type: ignore[attr-defined]
    module.forward = Narrow(0, module.forward)
    with pytest.raises(RoomError, match="1 at once, do not fit"):
        whole(torch.zeros(1, 4, 2, 4, 6), 500.0, [Condition("a")], torch.arange(2)[None])


def test_options_are_checked_where_they_are_said(pair: Recipe) -> None:
    for options in ({"store": "float8"}, {"compile": True, "channels_last": False}, {"attention": "native"}):
        assert isinstance(recipes.changed(pair, {f"experts.large.{k}": v for k, v in options.items()}), models.Recipe)
    with pytest.raises(RecipeError, match="float8"):
        recipes.changed(pair, {"experts.large.store": "float7"})


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As written; the experts that make a video are exact ones."""
    page = (Path(__file__).parents[1] / "docs" / "memory.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line)[1:] for line in block.splitlines()]
    assert [words[0] for words in lines] == ["plan", "plan", "generate"]
    for words in lines:
        exact = ["-r", "sprites-exact", "--frames", "3"] if words[0] == "generate" else []
        result = CliRunner().invoke(cli.app, [*words, *exact])
        assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "circle.mp4").is_file()


def test_every_option_of_the_page_is_one() -> None:
    page = (Path(__file__).parents[1] / "docs" / "memory.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+): ([\w-]+)` \|", page, re.MULTILINE))
    assert told.keys() == {"dtype", "store", "quantize", "offload", "batch", "attention", "channels_last", "compile"}
    base = recipes.load("flowblending-wan21")
    for key, value in told.items():
        recipes.changed(base, [f"experts.large.{key}={value}"])
