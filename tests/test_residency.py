"""Which expert is on the device when: timetables, movements of stand-ins, and videos that do not change."""

import gc
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import dovetail
from dovetail import cli
from dovetail import recipe as recipes
from dovetail.core.denoiser import Condition, Network
from dovetail.errors import RecipeError
from dovetail.experts.residency import Platform, Weights, borrowed, interleaved, switches, timetable
from dovetail.recipe import Recipe
from dovetail.run import Cast, End, Step, finished, keep, load, play, together
from dovetail.video import read

QUICK = {
    "experts.large.candidates": 16,
    "experts.small.candidates": 4,
    "video.frames": 3,
    "chain.video.ladder": {"shifted": {"steps": 10, "shift": 3.0}},
}
EXACT = recipes.changed(recipes.load("sprites-flowblending-exact"), QUICK)
"""Large, small and large again, 10 steps."""

Log = list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Traveller:
    """A network that writes down when it comes, is asked and goes, and fails if it is asked elsewhere."""

    name: str
    network: Network
    log: Log
    here: set[str] = field(default_factory=set)

    def come(self) -> None:
        assert self.name not in self.here, "it is there already"
        self.log.append(("come", self.name))
        self.here.add(self.name)

    def go(self) -> None:
        assert self.name in self.here, "it is not there"
        self.log.append(("go", self.name))
        self.here.discard(self.name)

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        assert self.name in self.here, f"{self.name} is asked while it is away"
        self.log.append(("ask", self.name))
        return self.network(x, time, conditions, frames)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def travelling(recipe: Recipe) -> tuple[Cast, Log]:
    """The recipe's cast, its experts travellers."""
    cast, log = load(recipe), []
    here: set[str] = set()
    experts = {
        name: replace(expert, network=Traveller(name, expert.network, log, here))
        for name, expert in cast.experts.items()
    }
    return Cast(experts, cast.codec), log


def moves(log: Log) -> Log:
    return [entry for entry in log if entry[0] != "ask"]


def videos(asked: Sequence[Recipe], cast: Cast) -> list[Tensor]:
    events: list[list[Any]] = [[] for _ in asked]
    for run, event in together(asked, cast):
        events[run].append(event)
    found = [finished(mine).latent for mine in events]
    assert all(latent is not None for latent in found)
    return [latent for latent in found if latent is not None]


def resident(how: str, recipe: Recipe = EXACT) -> Recipe:
    return recipes.changed(recipe, {"residency": how})


# --- timetables -------------------------------------------------------------------------------------------------------


def test_all_are_there_always() -> None:
    assert timetable(["L", "S"], "all") == (frozenset("LS"),) * 2


def test_in_turns_only_those_asked_are_there() -> None:
    assert timetable(["L", "LS", "S"], "turns") == (frozenset("L"), frozenset("LS"), frozenset("S"))


def test_ahead_the_next_one_comes_during_the_last_step_before_a_change() -> None:
    here = ["".join(sorted(names)) for names in timetable("LLLSSL", "ahead")]
    assert here == ["L", "L", "LS", "S", "LS", "L"]


@pytest.mark.parametrize("asked", ["", "L", "LLSSL", "LSLSLS", ["LS", "S", "LT"]])
@pytest.mark.parametrize("residency", ["all", "turns", "ahead"])
def test_whoever_is_asked_is_there(asked: Sequence[str], residency: str) -> None:
    here = timetable(asked, residency)
    assert len(here) == len(asked)
    assert all(set(names) <= there for names, there in zip(asked, here, strict=True))


@pytest.mark.parametrize(("asked", "count"), [("LLSSL", 2), ("LLL", 0), ("LSLSL", 4), ("", 0)])
def test_switches_are_counted(asked: str, count: int) -> None:
    assert switches(asked) == count


# --- movements --------------------------------------------------------------------------------------------------------


def test_a_video_of_large_small_large_changes_experts_twice() -> None:
    recipe = resident("turns")
    cast, log = travelling(recipe)
    asked = dovetail.plan(recipe).asked
    assert switches(asked) == 2
    finished(play(recipe, cast))
    large, small = ("come", "large"), ("come", "small")
    assert moves(log) == [large, ("go", "large"), small, ("go", "small"), large, ("go", "large")]


def test_ahead_brings_the_next_one_before_its_step_and_at_the_last_one_before() -> None:
    recipe = resident("ahead")
    cast, log = travelling(recipe)
    finished(play(recipe, cast))
    large, small = ("come", "large"), ("come", "small")
    assert moves(log) == [large, small, ("go", "large"), large, ("go", "small"), ("go", "large")]
    # The small one comes during the last step of the large one: exactly that one step is asked after it at most.
    first = log.index(small)
    assert log[first - 1 : first + 2].count(("ask", "large")) >= 1
    early = log[: log.index(("go", "large"))].count(("ask", "large"))
    assert log[:first].count(("ask", "large")) >= early - 1


def test_all_never_moves() -> None:
    cast, log = travelling(EXACT)
    with pytest.raises(AssertionError, match="asked while it is away"):
        finished(play(EXACT, cast))
    assert moves(log) == []


@pytest.mark.parametrize("residency", ["turns", "ahead"])
def test_a_video_does_not_depend_on_who_is_where(residency: str) -> None:
    cast, _ = travelling(resident(residency))
    ours, theirs = finished(play(resident(residency), cast)).latent, finished(play(EXACT)).latent
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours, theirs)


def test_both_experts_of_one_step_stay_for_its_length() -> None:
    """A walk asks by what it saw, so all whom it may ask are there; nobody moves between steps."""
    probing = {"chain.video.denoise": {"probing": {"large": "large", "small": "small", "enter": 0.5, "leave": 0.6}}}
    recipe = recipes.changed(resident("turns"), probing)
    cast, log = travelling(recipe)
    finished(play(recipe, cast))
    assert moves(log) == [("come", "large"), ("come", "small"), ("go", "large"), ("go", "small")]
    assert ("ask", "small") in log


def test_a_run_that_is_stopped_sends_everyone_home() -> None:
    cast, log = travelling(resident("ahead"))
    events = play(resident("ahead"), cast)
    assert isinstance(next(events), Step)
    events.close()  # type: ignore[attr-defined]
    assert moves(log)[-1] == ("go", "large")
    assert moves(log).count(("come", "large")) == 1


def test_who_comes_ahead_comes_while_the_step_is_taken() -> None:
    """The step before the change does not wait for the one who comes; the step after it does."""
    let, log = threading.Event(), []

    class Slow:
        def come(self) -> None:
            assert let.wait(10)
            log.append("small has come")

        def go(self) -> None:
            log.append("small goes")

    class Quick:
        def come(self) -> None:
            log.append("large has come")

        def go(self) -> None:
            log.append("large goes")

    steps = Platform({"L": Quick(), "S": Slow()}).during("LS", "ahead")
    next(steps)
    log.append("step of the large one")
    let.set()
    next(steps)
    log.append("step of the small one")
    assert next(steps, "end") == "end"
    first, second = log.index("step of the large one"), log.index("step of the small one")
    assert log.index("large has come") < first
    assert first < log.index("small has come") < second
    assert log[-1] == "small goes"


def test_a_passenger_that_cannot_come_is_no_silent_loss() -> None:
    class Lost:
        def come(self) -> None:
            raise RuntimeError("the device is lost")

        def go(self) -> None: ...

    with pytest.raises(RuntimeError, match="the device is lost"):
        list(Platform({"L": Lost()}).during("L", "turns"))


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_come_and_go_without_a_copy_back() -> None:
    """On the meta device, which stands for any other."""
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    before = {name: value.clone() for name, value in module.state_dict().items()}
    places = [value.data_ptr() for value in module.state_dict().values()]
    weights = Weights.of(module, torch.device("meta"))
    weights.come()
    assert {value.device.type for value in module.state_dict().values()} == {"meta"}
    assert module[2].weight is module[0].weight, "what is shared stays shared"
    weights.go()
    assert [value.data_ptr() for value in module.state_dict().values()] == places, "the very same memory"
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_who_is_asked_where_nobody_brought_it_comes_by_itself(tmp_path: Path) -> None:
    """On the meta device, which stands for any other: a look there has no values, and leaves nothing behind."""
    from dovetail.experts import load as loaded

    folder = tiny.MAKERS["stable-diffusion"](tmp_path)
    expert: Any = loaded("it", "stable-diffusion", str(folder), waiting=True)
    away = replace(expert.network, device=torch.device("meta"))
    away.read(["a"])
    seen = []
    handle = away.module.register_forward_pre_hook(lambda module, _: seen.append(next(module.parameters()).device.type))
    with pytest.raises(NotImplementedError, match="meta tensor"):
        away(torch.zeros(1, 4, 1, 8, 8), 500.0, [Condition("a")], torch.zeros(1, 1))
    handle.remove()
    assert seen == ["meta"]
    assert {weight.device.type for weight in away.module.parameters()} == {"cpu"}


def test_a_text_model_is_on_the_device_while_it_reads_each_text_once(tmp_path: Path) -> None:
    from dovetail.experts import load as loaded
    from dovetail.experts.residency import read as show

    expert: Any = loaded("it", "stable-diffusion", str(tiny.MAKERS["stable-diffusion"](tmp_path)), words_wait=True)
    away = {"it": replace(expert, network=replace(expert.network, device=torch.device("meta")))}
    encoder, seen = expert.network.text.borrowed.network, []
    encoder.register_forward_pre_hook(lambda module, _: seen.append(next(module.parameters()).device.type))
    for _ in range(2):
        assert show(away, {"it": ["a cat", "a dog", "a cat"]}) == ()
    assert seen == ["meta", "meta"]
    assert {weight.device.type for weight in encoder.parameters()} == {"cpu"}


@pytest.fixture
def as_large_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text models of tests are small."""
    monkeypatch.setattr("dovetail.experts.text.STAYS", 0)


@pytest.mark.usefixtures("as_large_as_any")
@pytest.mark.parametrize("family", ["stable-diffusion", "wan"])
def test_a_text_model_is_let_go_when_it_has_read_and_comes_back_for_another_text(family: str, tmp_path: Path) -> None:
    from dovetail.experts import load as loaded
    from dovetail.experts.residency import read as show

    folder = str(tiny.MAKERS[family](tmp_path))
    expert: Any = loaded("it", family, folder, words_wait=True)
    plain: Any = loaded("it", family, folder)
    gone = [weakref.ref(weight) for weight in expert.network.text.borrowed.network.parameters()]
    show({"it": expert}, {"it": ["a cat"]})
    gc.collect()
    assert not any(weight() is not None for weight in gone), "its memory is free"
    show({"it": expert}, {"it": ["a cat"]})
    assert not expert.network.text.borrowed.there, "what was read is not read again"
    show({"it": expert}, {"it": ["a cat", "a dog"]})
    assert not expert.network.text.borrowed.there
    for text in ("a cat", "a dog", "an owl, which nobody foresaw"):
        ours, theirs = (one.network._embedding(text) for one in (expert, plain))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.usefixtures("as_large_as_any")
def test_a_text_model_that_comes_back_has_its_lora_weights(tmp_path: Path) -> None:
    from dovetail.experts import Lora
    from dovetail.experts import load as loaded

    folder = str(tiny.MAKERS["stable-diffusion"](tmp_path / "it"))
    plain: Any = loaded("it", "stable-diffusion", folder)
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    names = {
        name: part for name, part in plain.network.text.borrowed.network.named_modules() if hasattr(part, "weight")
    }
    stem = next(name for name in names if name.endswith(layer.removeprefix("text_model.")))
    size = names[stem].weight.shape
    halves = {"up": torch.randn(size[0], 2), "down": torch.randn(2, size[1])}
    kohya = f"lora_te_{layer.replace('.', '_')}"
    save_file({f"{kohya}.lora_{half}.weight": values for half, values in halves.items()}, tmp_path / "it.safetensors")
    expert: Any = loaded("it", "stable-diffusion", folder, loras=[Lora(str(tmp_path / "it.safetensors"), 0.5)])
    lent = expert.network.text.borrowed
    before = {name: value.clone() for name, value in lent.network.state_dict().items()}
    lent.give_back()
    after = lent.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not torch.equal(after[f"{stem}.weight"], names[stem].weight)


@pytest.mark.usefixtures("as_large_as_any")
def test_runs_of_one_cast_load_a_text_model_again_only_for_other_texts(tmp_path: Path) -> None:
    """And in a folder too, though a run there is told by the weights of its text models."""
    folder = str(tiny.MAKERS["wan"](tmp_path / "it"))
    recipe = recipes.changed(
        EXACT,
        {
            "experts": {name: {"family": "wan", "weights": folder} for name in ("large", "small")},
            "codec": {"weights": folder},
            "chain.video.ladder": {"own": {"of": "large", "steps": 2}},
            "video.height": 32,
            "video.width": 48,
            "video.frames": 5,
        },
    )
    cast = load(recipe)
    lent = cast.experts["large"].network.text.borrowed  # type: ignore[attr-defined]
    again, loads = lent.again, []
    lent.again = lambda: loads.append(1) or again()
    first = finished(play(recipe, cast))
    for seed in (1, 2):
        finished(play(recipes.changed(recipe, {"video.seed": seed}), cast))
        list(
            keep(
                recipes.changed(recipe, {"video.seed": seed}), tmp_path / f"{seed}.mp4", tmp_path / f"{seed}.run", cast
            )
        )
    assert len(loads) == 1, "for its fingerprint"
    list(play(recipes.changed(recipe, {"prompt": "a blue ring"}), cast))
    assert len(loads) == 2
    assert not lent.there
    several = [recipes.changed(recipe, {"prompt": f"ring number {i}"}) for i in range(5)]
    made = {run: event.settings["recipe"]["prompt"] for run, event in together(several, cast) if isinstance(event, End)}
    assert made == {i: f"ring number {i}" for i in range(5)}
    assert len(loads) == 3, "once for the texts of all"
    assert all(one.leaves for one in borrowed(cast.experts))
    assert (finished(play(recipe, cast)).frames == first.frames).all()


def test_runs_whose_text_models_stay_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from dovetail.run import playing

    cast, prepared, ready = load(EXACT), [], playing.ready
    monkeypatch.setattr(playing, "ready", lambda *args, **more: prepared.append(1) or ready(*args, **more))
    several = [recipes.changed(EXACT, {"video.seed": seed}) for seed in range(3)]
    assert sum(isinstance(event, End) for _, event in together(several, cast)) == len(prepared) == 3


def test_texts_of_long_ago_are_let_go(tmp_path: Path) -> None:
    """Those of a run stay, however many it has, and some of those before."""
    from dovetail.experts import load as loaded
    from dovetail.experts.adapter import STAY

    network: Any = loaded("it", "stable-diffusion", str(tiny.MAKERS["stable-diffusion"](tmp_path))).network
    texts = [f"text {i}" for i in range(STAY + 10)]
    network.read(texts)
    assert network.unread(texts) == ()
    network.read(["another"])
    assert network.unread([*texts, "another"]) == tuple(texts[:10])


def test_texts_of_a_run_stay_whatever_else_was_read(tmp_path: Path) -> None:
    """One event of many is another: the others are not read again, and not let go."""
    from dovetail.experts import load as loaded
    from dovetail.experts.residency import read as show

    expert: Any = loaded("it", "stable-diffusion", str(tiny.MAKERS["stable-diffusion"](tmp_path)))
    texts = ["", *(f"event {i}" for i in range(100))]
    for i in (0, 7, 0):
        told = [*texts[:i], "another", *texts[i + 1 :]]
        show({"it": expert}, {"it": told})
        assert expert.network.unread(told) == ()
    for i in range(100):
        show({"it": expert}, {"it": ["", f"prompt {i}"]})
        assert expert.network.unread(["", f"prompt {i}"]) == ()


def test_a_pretrained_expert_waits_and_gives_the_same_video(tmp_path: Path) -> None:
    folder = tiny.MAKERS["wan"](tmp_path / "large", layers=2)
    small = tiny.MAKERS["wan"](tmp_path / "small")
    recipe = recipes.changed(
        EXACT,
        {
            "experts": {
                "large": {"family": "wan", "weights": str(folder)},
                "small": {"family": "wan", "weights": str(small)},
            },
            "codec": {"weights": str(folder)},
            "chain.video.ladder": {"own": {"of": "large", "steps": 5}},
            "video.height": 32,
            "video.width": 48,
            "video.frames": 5,
        },
    )
    ours, theirs = (finished(play(resident(how, recipe))).latent for how in ("turns", "all"))
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours, theirs)


# --- many runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("asked", ["LLSSL", "LSLS", "LL"])
def test_runs_walk_each_stretch_together(asked: str, runs: int) -> None:
    names = [frozenset(letter) for letter in asked]
    order = list(interleaved(names, runs))
    assert sorted(order) == [(run, step) for run in range(runs) for step in range(len(asked))]
    for run in range(runs):
        assert [step for mine, step in order if mine == run] == list(range(len(asked))), "each run in its own order"
    assert switches([asked[step] for _, step in order]) == switches(asked)


@pytest.mark.parametrize("residency", ["turns", "ahead"])
def test_many_runs_change_experts_as_often_as_one_and_are_bit_for_bit_those_of_one_by_one(residency: str) -> None:
    prompts = ["a red circle moving left", "a blue circle moving up", "a green ring"]
    asked = [
        recipes.changed(resident(residency), {"video.seed": seed, "prompt": prompt})
        for seed, prompt in enumerate(prompts)
    ]
    cast, log = travelling(asked[0])
    ours = videos(asked, cast)
    assert [entry for entry in moves(log) if entry[0] == "come"] == [
        ("come", name) for name in ("large", "small", "large")
    ]
    alone = [finished(play(resident("all", recipe))).latent for recipe in asked]
    assert len(ours) == 3
    for mine, theirs in zip(ours, alone, strict=True):
        assert theirs is not None
        assert torch.equal(mine, theirs)
    assert not torch.equal(ours[0], ours[1])


def test_runs_of_one_cast_without_turns_come_one_after_another() -> None:
    asked = [recipes.changed(EXACT, {"video.seed": seed}) for seed in (0, 1)]
    order = [run for run, _ in together(asked)]
    assert order == sorted(order)
    assert set(order) == {0, 1}


def test_runs_that_ask_differently_do_not_walk_together() -> None:
    other = recipes.changed(resident("turns"), {"chain.video.denoise": "large"})
    with pytest.raises(RecipeError, match="ask different experts at the same step"):
        list(together([resident("turns"), other], travelling(EXACT)[0]))


def test_many_groups_are_walked_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dovetail.run.playing.TOGETHER", 2)
    asked = [recipes.changed(resident("turns"), {"video.seed": seed}) for seed in range(3)]
    cast, log = travelling(asked[0])
    ends = [run for run, event in together(asked, cast) if isinstance(event, End)]
    assert ends == [0, 1, 2]
    assert moves(log).count(("come", "small")) == 2


def test_count_gives_the_same_files_with_and_without_turns(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for how in ("all", "turns"):
        file.write_text(recipes.dump(resident(how)))
        result = CliRunner().invoke(
            cli.app, ["generate", "-r", str(file), "--count", "2", "-o", str(tmp_path / f"{how}.npz")]
        )
        assert result.exit_code == 0, result.output
    for seed in (0, 1):
        one, two = (read(tmp_path / f"{how}-{seed}.npz") for how in ("all", "turns"))
        assert (one.frames == two.frames).all()


def test_prompts_of_a_file_are_walked_stretch_by_stretch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts change no more often than for one video."""
    file, prompts = tmp_path / "mine.yaml", tmp_path / "prompts.txt"
    file.write_text(recipes.dump(resident("turns")))
    prompts.write_text("a red circle\na blue ring\n")
    cast, log = travelling(resident("turns"))
    monkeypatch.setattr("dovetail.run.load", lambda recipe: cast)
    words = ["generate", "-r", str(file), "--prompts", str(prompts), "-o", str(tmp_path / "a.npz")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert moves(log).count(("come", "small")) == 1


def test_stand_ins_would_show_a_mistake() -> None:
    """A timetable that forgets the small one is found out."""
    cast, _ = travelling(resident("turns"))
    large: Mapping[str, Any] = {"large": cast.experts["large"].network}
    steps = Platform(large).during([["large"]], "turns")
    next(steps)
    with pytest.raises(AssertionError, match="small is asked while it is away"):
        cast.experts["small"].network(torch.zeros(1, 3, 1, 4, 4), 1.0, [Condition("")], torch.zeros(1, 1))
