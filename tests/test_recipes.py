"""Recipes: text in, text out, errors that name the place, and what a plan counts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import dovetail
from dovetail import recipe as recipes
from dovetail.core.combine import Framewise, Guided, Windowed
from dovetail.core.denoiser import Prompted
from dovetail.core.ladders import karras, shifted
from dovetail.core.sampler import Ancestral, DPMSolver2M, UniPC
from dovetail.errors import RecipeError
from dovetail.experts import FAMILIES
from dovetail.methods.alternating import Alternating
from dovetail.methods.averaged import Averaged
from dovetail.methods.bridge import SameIndex, SameSNR
from dovetail.methods.confiner import Coordinated
from dovetail.methods.fused import Fused
from dovetail.methods.relayed import Relayed
from dovetail.methods.skipping import Skipping
from dovetail.methods.temporal_first import TemporalFirst
from dovetail.recipe import models
from dovetail.recipe.reading import SHIPPED
from dovetail.run import plan
from dovetail.run.verbs import said
from dovetail.sprites.exact import SCHEDULES

EXACT = recipes.load("sprites-exact")


def refused(*changes: str) -> str:
    """What the error says about these changes of a good recipe."""
    with pytest.raises(RecipeError) as caught:
        recipes.changed(EXACT, changes)
    return str(caught.value)


def planned(*changes: str) -> Any:
    return dovetail.plan(EXACT, overrides=changes)


# --- text in, text out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_reads_back_equal_and_plans(name: str) -> None:
    recipe = recipes.load(name)
    assert recipes.parse(recipes.dump(recipe)) == recipe
    assert recipe.about
    assert recipe.prompt
    plan = dovetail.plan(recipe)
    assert set(plan.counts) == set(recipe.experts)
    assert plan.steps[-1][2] == sum(count.frames for count in plan.counts.values())


@pytest.mark.parametrize(
    "denoise",
    [
        "{expert: control, guidance: 2.5, joint: false}",
        "{framewise: spatial}",
        "{framewise: {windowed: {of: spatial, size: 1, stride: 1}}}",
        "{windowed: {of: {expert: temporal, guidance: 3}, size: 8, stride: 4, weights: sine}}",
        "{coordinated: {spatial: {framewise: spatial}, temporal: temporal, steps: [1, 3], noise: fixed}}",
        "{fused: {spatial: {framewise: spatial}, temporal: {averaged: {spatial: control, temporal: temporal}}}}",
    ],
)
@pytest.mark.parametrize("ladder", ["{levels: [1.0, 0.5, 0.0]}", "{timesteps: {of: control, times: [999, 499]}}"])
def test_any_nesting_reads_back_equal(denoise: str, ladder: str) -> None:
    recipe = recipes.changed(EXACT, [f"chain.0.denoise={denoise}", f"chain.0.ladder={ladder}", "start.video=a.mp4"])
    assert recipes.parse(recipes.dump(recipe)) == recipe
    assert recipe.chain[0].denoise != EXACT.chain[0].denoise
    assert recipe.chain[0].ladder != EXACT.chain[0].ladder


def test_a_name_stands_for_an_expert_without_guidance() -> None:
    assert EXACT.chain[0].denoise == models.Leaf(expert="control", guidance=1.0)


def test_a_file_is_a_recipe_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(recipes.dump(EXACT))
    assert recipes.load(file) == recipes.load(str(file)) == EXACT


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EXACT.video.frames = 3  # type: ignore[misc]


def test_reading_a_recipe_does_not_wait_for_torch() -> None:
    code = "import sys, dovetail.cli; dovetail.cli.recipes.load('sprites'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_plan_does_not_wait_for_diffusers() -> None:
    code = "import sys, dovetail; dovetail.plan('sprites'); assert not {'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_families_of_recipes_are_those_of_the_library() -> None:
    assert set(models.FAMILIES) == {*FAMILIES, "exact"}


# --- overrides ---------------------------------------------------------------------------------------------------


def test_stages_go_by_name_or_by_place() -> None:
    by_name = recipes.changed(EXACT, ["chain.refine.ladder.below.steps=7", "chain.structure.solver=unipc"])
    assert by_name == recipes.changed(EXACT, {"chain.1.ladder.below.steps": 7, "chain.0.solver": "unipc"})
    assert by_name.chain[1].ladder.steps == 7  # type: ignore[union-attr]


def test_what_is_put_into_a_value_is_not_put_into_the_caller_s() -> None:
    size: dict[str, Any] = {"video": {"frames": 40, "height": 32, "width": 32}}
    assert recipes.changed(EXACT, size | {"video.seed": 7}).video.seed == 7
    assert size == {"video": {"frames": 40, "height": 32, "width": 32}}


def test_values_are_yaml_and_may_contain_equals_signs() -> None:
    recipe = recipes.changed(EXACT, ["prompt='a = b'", "chain.0.window=null", "chain.0.ladder={even: {steps: 3}}"])
    assert recipe.prompt == "a = b"
    assert recipe.chain[0].ladder == models.Even(steps=3)


@pytest.mark.parametrize("commit", ["1234567", "0123456", "1.5", "2026-01-01", "on", "'1234567'"])
def test_a_revision_is_text_whatever_it_looks_like(commit: str) -> None:
    """YAML would read 0123456 as 42798."""
    spec = {"family": "wan", "weights": "some/wan"}
    base = recipes.changed(EXACT, {"codec": {"weights": "some/wan"}, "experts.temporal": spec})
    asked = recipes.changed(
        base, [f"experts.temporal.revision={commit}", f"codec={{weights: some/wan, revision: {commit}}}"]
    )
    text = commit.strip("'")
    assert asked.experts["temporal"].revision == text  # type: ignore[union-attr]
    assert asked.codec.revision == text  # type: ignore[union-attr]
    assert recipes.parse(recipes.dump(asked)) == asked
    written = recipes.dump(base).replace("revision: null", f"revision: {commit}")
    assert recipes.parse(written) == asked
    assert recipes.changed(asked, ["experts.temporal.revision=null", "codec.revision="]) == base


def test_a_key_that_holds_a_dot_stands_in_quotes() -> None:
    blended = recipes.load("sprites-flowblending-exact")
    place = "chain.video.denoise.blended"
    asked = recipes.changed(blended, [f'{place}."above 0.833"=small', f'{place}."above 0.464".guidance=2.5'])
    parts = asked.chain[0].denoise.of  # type: ignore[union-attr]
    assert parts["above 0.833"] == models.Leaf(expert="small")
    assert parts["above 0.464"] == models.Leaf(expert="small", guidance=2.5)
    assert parts["else"] == models.Leaf(expert="large")
    assert recipes.changed(blended, {f'{place}."above 0.833"': "small"}).chain[0].denoise.of == parts | {  # type: ignore[union-attr]
        "above 0.464": models.Leaf(expert="small")
    }


@pytest.mark.parametrize("change", ["=3", "video.=3", "video..seed=3", 'chain."above 0.8=3', '"".seed=3', "prompt"])
def test_a_change_that_is_no_path_and_value_is_told_how(change: str) -> None:
    with pytest.raises(RecipeError, match=r'path=value, as in video\.frames=16, .*"above 0\.8"=small'):
        recipes.changed(EXACT, [change])


def test_a_key_with_a_dot_is_named_in_quotes_where_it_is_wrong() -> None:
    blended = recipes.load("sprites-flowblending-exact")
    place = "chain.video.denoise.blended"
    with pytest.raises(RecipeError, match=r"above 0: unknown key; .*'\"above 0\.833\"'"):
        recipes.changed(blended, [f"{place}.above 0.833.guidance=2"])
    with pytest.raises(RecipeError, match=rf'{place}\."above 0\.833".*smal'):
        recipes.changed(blended, [f'{place}."above 0.833"=smal'])
    with pytest.raises(RecipeError, match=r'"above 0\.833"\.guidance'):
        recipes.changed(blended, [f'{place}."above 0.833".guidance=-1'])


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path", "hint"),
    [
        ("video.frmes=3", "video.frmes: unknown key", "did you mean 'frames'?"),
        ("vidio.seed=3", "vidio: unknown key", "did you mean 'video'?"),
        ("experts.spatial.kid=spatial", "experts.spatial.kid: unknown key", "did you mean 'kind'?"),
        ("start.vide=a.mp4", "start.vide: unknown key", "did you mean 'video'?"),
        ("chain.refin.solver=euler", "chain.refin: nothing is called 'refin'", "did you mean 'refine'?"),
        ("chain.refine.solver=eular", "chain.refine.solver: unknown value 'eular'", "did you mean 'euler'?"),
        ("experts.spatial.family=exat", "experts.spatial.family: unknown family", "did you mean 'exact'?"),
        ("chain.0.ladder={trailng: {steps: 3}}", "chain.structure.ladder.trailng: unknown ladder", "'trailing'"),
        ("chain.0.denoise={framwise: spatial}", "chain.structure.denoise.framwise: unknown method", "'framewise'"),
        ("chain.0.denoise=controll", "chain.structure.denoise.expert: no expert", "did you mean 'control'?"),
        ("chain.1.ladder.below.of=spacial", "chain.refine.ladder.below.of: no expert", "did you mean 'spatial'?"),
        ("video.frames=many", "video.frames: 'many' (text) came", "a whole number"),
        ("video.frames=0", "video.frames: 0 (a number) came", "greater than or equal to 1"),
        ("video.frames=true", "video.frames: true or false came", "a whole number"),
        ("video.seed=-1", "video.seed: -1 (a number) came", "greater than or equal to 0"),
        ("video.height=1000000", "video.height: 1000000 (a number) came", "less than or equal to 4096"),
        ("chain.0.ladder.trailing.steps=[1]", "chain.structure.ladder.trailing.steps: a list came", "a whole number"),
        ("chain.0.denoise.guidance=x", "chain.structure.denoise.guidance: 'x' (text) came", "a valid number"),
        ("chain.0.denoise={framewise: {expert: spatial, guidance: -1}}", "denoise.framewise.guidance: -1", "0"),
        ("chain.0.ladder={levels: [0.5, 0.7]}", "chain.structure.ladder.levels: levels lie in", "[0, 1]"),
        (
            "chain.1.ladder.below.timestep=3",
            "chain.refine.ladder.below: 5 steps do not fit",
            "3 or fewer, as by --set chain.refine.ladder.below.steps=3",
        ),
        ("chain.0.stage=refine", "chain.refine: two stages", "name"),
        ("chain.0.denoise={windowed: {of: control, size: 4, stride: 5}}", "denoise.windowed: stride 5", "4 or less"),
        ("chain.1.denoise.averaged={}", "chain.refine.denoise: 2 words", "one word"),
        ("codec={}", "codec.weights", "missing"),
        ("chain=[]", "chain: an empty list came", "one or more"),
        (
            "chain.0.denoise={coupled: {of: control, size: 8, stride: 4, floor: 2}}",
            "coupled.floor: 2 (a number) came",
            "less than or equal to 1, or 'auto'",
        ),
        (
            "chain.0.denoise={coupled: {of: control, size: 8, stride: [1]}}",
            "coupled.stride: a list came",
            "a whole number, or 'auto'",
        ),
        ("video=3", "video: 3 (a number) came", "a mapping"),
        ("prompt=2024-01-01", "prompt: 2024-01-01 (a date) came", "text"),
        ("prompt=2024-99-99", "prompt: the value is no YAML", "month"),
        ("video.seed=" + "9" * 5000, "video.seed: the value is no YAML", "limit"),
        ("video={frames: 3, frames: 4}", "video: the value is no YAML", "'frames' stands twice"),
        ("video.fps=1e1", "video.fps: '1e1' (text", "with a dot: 1.0e-3"),
        ("video.fps=0.01", "video.fps: 0.01 (a number) came", "greater than or equal to 0.1"),
        ("video.fps=.inf", "video.fps", "finite"),
        ("chain.0.ladder={levels: [0.9, .nan]}", "chain.structure.ladder.levels.1: nan", "finite"),
        ("chain.0.ladder={shifted: {steps: 3, shift: .inf}}", "chain.structure.ladder.shifted.shift: inf", "finite"),
        ("chain.0.ladder={shifted: {steps: 3, shift: 1.0e-30}}", "ladder.shifted.shift: 1e-30", "equal to 0.001"),
        ("chain.0.stage=", "chain.0.stage", "text"),
        ("chain.0.stage=''", "chain.0.stage: a name", "letters"),
        ("chain.0.stage=first.half", 'chain."first.half".stage: a name', "dots part the keys"),
        ("chain.-1.solver=unipc", "chain.-1: nothing is called '-1'", "refine, structure"),
        (
            "chain.0.ladder={karras: {steps: 4, sigma_min: 0.1, sigma_max: 10, rho: 0.001}}",
            "ladder.karras.rho: 0.001",
            "equal to 0.05",
        ),
        (
            "chain.0.ladder={karras: {steps: 4, sigma_min: 10, sigma_max: 0.1}}",
            "ladder.karras: sigmas fall",
            "0.1 is not above 10",
        ),
        ("chain.0.ladder={timesteps: {of: control, times: [1.0e+9]}}", "timesteps.times.0: 1000000000.0", "1000000"),
        ("experts.control.seed=100000000000000", "experts.control.seed: 100000000000000", "less than 2147483648"),
        ("chain.0.ladder=" + "[" * 3000 + "]" * 3000, "chain.0.ladder: the value is no YAML", "nested too deep"),
        ("story.by=frame", "story.events", "missing"),
        ("experts={sd1.5: {family: exact, kind: spatial}}", 'experts."sd1.5": a name', "dots part the keys"),
    ],
)
def test_an_error_says_where_what_came_and_what_fits(change: str, path: str, hint: str) -> None:
    message = refused(change)
    assert path in message
    assert hint in message


def test_a_list_is_not_called_short_for_what_does_not_fit_in_it() -> None:
    assert refused("chain.refine.denoise.coordinated.steps=[0]").count("\n") == 0


def test_a_very_long_value_is_not_repeated_whole() -> None:
    message = refused("prompt=" + "a red circle " * 500)
    assert "characters) came; what fits is at most 2000 characters" in message
    assert len(message) < 200


def test_several_errors_are_told_at_once() -> None:
    message = refused("video.seed=x", "chain.refine.solver=y")
    assert "video.seed" in message
    assert "chain.refine.solver" in message


def test_too_many_frames_for_a_clip_recipe_says_what_to_use() -> None:
    with pytest.raises(RecipeError, match=r"600 frames.*at most 16.*--frames 16 or fewer"):
        dovetail.plan("sprites", frames=600)


def test_too_many_frames_of_a_story_say_which_recipe_tells_stories() -> None:
    with pytest.raises(RecipeError, match="made for stories, as sprites-story"):
        recipes.changed(recipes.load("sprites"), {"story": ["it turns"], "video.frames": 96})


def test_one_step_of_karras_has_one_sigma() -> None:
    ladder = "chain.0.ladder={karras: {steps: 1, sigma_min: 5.0, sigma_max: 5.0, rho: 200}}"
    assert recipes.changed(EXACT, [ladder]).chain[0].ladder.steps == 1


def test_numbers_of_numpy_and_a_lone_change_are_taken() -> None:
    changes = {"video.frames": np.int64(4), "video.fps": np.float32(12), "video.seed": torch.tensor(3)}
    assert (
        recipes.changed(EXACT, changes).video
        == recipes.changed(EXACT, {"video.frames": 4, "video.fps": 12.0, "video.seed": 3}).video
    )
    assert recipes.changed(EXACT, "video.frames=4").video.frames == 4
    assert plan(EXACT, overrides="video.frames=4").recipe.video.frames == 4
    assert said(None, "video.frames=4") == {"video.frames"}


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'sprits'; did you mean 'sprites'"):
        recipes.load("sprits")


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe file"):
        recipes.load(tmp_path / "none.yaml")
    (tmp_path / "odd.yaml").write_text("a: [1")
    with pytest.raises(RecipeError, match=r"odd\.yaml is no YAML"):
        recipes.load(tmp_path / "odd.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        recipes.load(tmp_path / "list.yaml")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'prompt' stands twice"):
        recipes.parse(recipes.dump(EXACT) + "prompt: another\n")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"a\.yaml is no recipe that can be read"):
        recipes.load(tmp_path / "a.yaml")


def test_paths_in_a_file_are_meant_from_its_folder(tmp_path: Path) -> None:
    near = {"family": "stable-diffusion", "weights": "./sd"}
    hub = {"family": "animatediff", "weights": "owner/repo", "adapter": "../motion"}
    asked = {"start": {"video": "draft.mp4"}, "experts.spatial": near, "experts.control": hub}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(recipes.dump(recipes.changed(EXACT, asked)))
    recipe = recipes.load(tmp_path / "sub" / "a.yaml")
    assert recipe.start == models.Start(video=str(tmp_path / "sub" / "draft.mp4"))
    assert recipe.experts["spatial"].weights == str(tmp_path / "sub" / "sd")
    assert (recipe.experts["control"].weights, recipe.experts["control"].adapter) == (
        "owner/repo",
        str(tmp_path / "motion"),
    )


def test_a_change_goes_on_from_what_the_one_before_it_wrote_in_short() -> None:
    """A list of events is short for a story, and a number for a hold; in whatever order, what does not fit is said."""
    story = recipes.changed(recipes.load("sprites-story"), ["story=[it moves, it stops]", "story.by=window"]).story
    assert story is not None
    assert (story.by, [event.text for event in story.events]) == ("window", ["it moves", "it stops"])
    long = recipes.load("sprites-long")
    hold = recipes.changed(long, ["chain.refine.hold=0.5", "chain.refine.hold.within=3"]).chain[1].hold
    assert hold is not None
    assert (hold.share, hold.within) == (0.5, 3.0)
    with pytest.raises(RecipeError, match=r"chain\.refine\.hold\.wthin: unknown key; did you mean 'within'"):
        recipes.changed(long, ["chain.refine.hold=0.5", "chain.refine.hold.wthin=3"])
    with pytest.raises(RecipeError, match=r"story\.b: unknown key"):
        recipes.changed(long, ["video.frames=none", "story.b.y=3"])


def test_a_change_without_a_value_is_refused() -> None:
    assert "path=value" in refused("video.frames")
    assert "has no parts" in refused("prompt.text=x")


# --- what is built -----------------------------------------------------------------------------------------------

PAIR = "spatial: {framewise: spatial}, temporal: temporal"


@pytest.mark.parametrize(
    ("denoise", "kind", "calls"),
    [
        (f"{{coordinated: {{{PAIR}}}}}", Coordinated, {"spatial": 10, "temporal": 5}),
        (f"{{coordinated: {{{PAIR}, steps: [1, 2]}}}}", Coordinated, {"spatial": 7, "temporal": 2}),
        (f"{{alternating: {{{PAIR}}}}}", Alternating, {"spatial": 2, "temporal": 3}),
        (f"{{averaged: {{{PAIR}}}}}", Averaged, {"spatial": 5, "temporal": 5}),
        (f"{{fused: {{{PAIR}}}}}", Fused, {"spatial": 5, "temporal": 5}),
        (f"{{relayed: {{{PAIR}}}}}", Relayed, {"spatial": 5, "temporal": 5}),
        (f"{{temporal_first: {{{PAIR}}}}}", TemporalFirst, {"spatial": 5, "temporal": 5}),
        (f"{{skipping: {{{PAIR}, tau: 0.0}}}}", Skipping, {"spatial": 10, "temporal": 5}),
        ("{framewise: spatial}", Framewise, {"spatial": 5}),
        ("{windowed: {of: temporal, size: 8, stride: 4}}", Windowed, {"temporal": 5}),
        ("{expert: temporal, guidance: 2.0}", Guided, {"temporal": 5}),
        ("{expert: temporal, guidance: 2.0, joint: false}", Guided, {"temporal": 10}),
        ("temporal", Prompted, {"temporal": 5}),
    ],
)
def test_each_method_builds_and_counts(denoise: str, kind: type, calls: dict[str, int]) -> None:
    plan = planned(f"chain.refine.denoise={denoise}")
    assert isinstance(plan.stages[1].denoise, kind)
    assert {name: count.calls for name, count in plan.counts.items()} == {"control": 4, **calls}


@pytest.mark.parametrize(
    ("ladder", "levels"),
    [
        ("{even: {steps: 2, start: 0.5}}", (0.5, 0.25, 0.0)),
        ("{levels: [0.9, 0.1]}", (0.9, 0.1)),
        ("{shifted: {steps: 3, shift: 3.0}}", shifted(3, 3.0).levels),
        ("{karras: {steps: 3, sigma_min: 0.1, sigma_max: 10.0}}", karras(3, 0.1, 10.0).levels),
    ],
)
def test_ladders_without_an_expert(ladder: str, levels: tuple[float, ...]) -> None:
    assert planned(f"chain.0.ladder={ladder}").stages[0].ladder.levels == levels


@pytest.mark.parametrize(
    ("ladder", "times"),
    [
        ("{trailing: {of: control, steps: 4}}", (999, 749, 499, 249)),
        ("{leading: {of: control, steps: 4, offset: 1}}", (751, 501, 251, 1)),
        ("{below: {of: spatial, timestep: 100, steps: 5}}", (99, 79, 59, 39, 19)),
        ("{timesteps: {of: temporal, times: [500, 20]}}", (500, 20)),
    ],
)
@pytest.mark.filterwarnings("ignore:stage 'structure' adds noise to a video")
def test_ladders_of_an_expert(ladder: str, times: tuple[int, ...]) -> None:
    plan = planned(f"chain.0.ladder={ladder}")
    of = next(name for name in EXACT.experts if name in ladder)
    schedule = SCHEDULES[of]
    assert plan.stages[0].ladder.levels == (*(schedule.share(time) for time in times), 0.0)


def test_an_own_ladder_is_that_of_the_scheduler_config(tmp_path: Path) -> None:
    folder = tiny.stable_diffusion(tmp_path / "sd", timestep_spacing="leading")
    own = {
        "experts.spatial": {"family": "stable-diffusion", "weights": str(folder)},
        "codec": {"weights": str(folder)},
        "chain.1.ladder": {"own": {"of": "spatial", "steps": 4}},
    }
    ladder = dovetail.plan(EXACT, overrides=own).stages[1].ladder
    leading = {**own, "chain.1.ladder": {"leading": {"of": "spatial", "steps": 4, "offset": 1}}}
    assert ladder.levels == dovetail.plan(EXACT, overrides=leading).stages[1].ladder.levels


def test_an_exact_expert_has_no_ladder_of_its_own() -> None:
    with pytest.raises(RecipeError, match=r"chain\.refine\.ladder: expert 'spatial' has no scheduler config"):
        planned("chain.refine.ladder={own: {of: spatial, steps: 4}}")


def test_clocks_and_solvers() -> None:
    index = planned("chain.refine.denoise.coordinated.clock=index").stages[1].denoise.clock
    assert isinstance(index, SameIndex)
    assert index.spatial != index.temporal
    assert planned().stages[1].denoise.clock == SameSNR()
    kinds = {"ancestral": Ancestral, "dpm++2m": DPMSolver2M, "unipc": UniPC}
    for name, kind in kinds.items():
        assert type(planned(f"chain.structure.solver={name}").stages[0].solver) is kind


def test_noise_belongs_to_its_stage() -> None:
    """Coordinated's fixed noise must be the very one that the stage starts with."""
    noise = planned("video.seed=9").stages[1].denoise.noise
    assert (noise.seed, noise.stage) == (9, "refine")


def test_a_step_beyond_the_ladder_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"chain\.refine\.denoise: step 6 is none of the ladder's 5 steps"):
        planned("chain.refine.denoise.coordinated.steps=[6]")


# --- what a plan counts ------------------------------------------------------------------------------------------


def test_the_default_recipe_costs_what_the_paper_says() -> None:
    plan = dovetail.plan("sprites")
    assert {name: count.calls for name, count in plan.counts.items()} == {"control": 4, "spatial": 10, "temporal": 5}
    assert [plan.passes(name) for name in ("control", "spatial", "temporal")] == [4, 20, 10]  # guidance looks twice
    assert [(stage.name, stage.ladder.steps) for stage in plan.stages] == [("structure", 4), ("refine", 5)]
    double = dovetail.plan("sprites-18")
    assert {name: count.calls for name, count in double.counts.items()} == {"control": 8, "spatial": 20, "temporal": 10}


BASELINES = {
    "sprites-alternating": Alternating,
    "sprites-only-spatial": Framewise,
    "sprites-only-temporal": Guided,
    "sprites-relayed": Relayed,
    "sprites-x0-average": Averaged,
}


@pytest.mark.parametrize("name", BASELINES)
def test_each_baseline_is_the_default_recipe_but_for_who_refines(name: str) -> None:
    plan, usual = dovetail.plan(name), dovetail.plan("sprites")
    assert isinstance(plan.stages[1].denoise, BASELINES[name])
    assert plan.stages[0].ladder == usual.stages[0].ladder
    assert plan.stages[1].ladder.steps == usual.stages[1].ladder.steps
    if name == "sprites-relayed":
        relayed = plan.stages[1].denoise
        assert (relayed.fresh, relayed.derived) == (True, False), "as published but for the last look"


@pytest.mark.parametrize("name", recipes.names())
def test_the_head_of_a_shipped_recipe_says_how_to_run_it_and_what_it_costs(name: str) -> None:
    counts = dovetail.plan(name).counts
    run, calls, *_ = (SHIPPED / f"{name}.yaml").read_text().splitlines()
    assert run == f"# Run: dovetail generate -r {name}"
    assert calls == "# Calls: " + ", ".join(f"{expert} {count.calls}" for expert, count in counts.items())


def test_overlapping_windows_cost_more_passes() -> None:
    plan = planned("video.frames=16", "chain.refine.denoise={windowed: {of: temporal, size: 8, stride: 4}}")
    assert plan.passes("temporal") == 5 * 3 * 8 / 16


def test_a_stage_in_windows_counts_each_of_them() -> None:
    plan = planned("video.frames=20", "chain.refine.window=8")
    assert plan.counts["temporal"].calls == 5 * 3
    assert plan.counts["temporal"].frames == 5 * 20


def test_an_image_expert_outside_framewise_is_found_before_the_run() -> None:
    with pytest.raises(RecipeError, match="'spatial' sees at most 1 frames at once, not 16; wrap it in framewise"):
        planned("chain.refine.denoise=spatial")


def test_a_plan_says_when_levels_are_a_guess() -> None:
    away = {"experts.spatial": {"family": "stable-diffusion", "weights": "someone/something"}}
    (note,) = dovetail.plan(EXACT, overrides=away).notes
    assert "someone/something" in note
    assert "usual schedule" in note
    assert not planned().notes
