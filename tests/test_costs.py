"""What plans of large models say of their cost: the paper's numbers, from the real configurations, without weights."""

import re
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import dovetail
from dovetail import cli
from dovetail import recipe as recipes
from dovetail.costs import Costs, costs
from dovetail.errors import SpaceError, WeightsError
from dovetail.experts.checkpoint import Location
from dovetail.experts.flops import Operations, operations
from dovetail.experts.outline import outline, parameters_of, text_parameters
from dovetail.experts.published import LTX_2B, LTX_CODEC, PUBLISHED, T5, UMT5, WAN_22_CODEC, WAN_CODEC
from dovetail.recipe import models
from dovetail.recipe.planning import Look
from dovetail.recipe.reading import SHIPPED

LARGE = ("flowblending-wan21", "flowblending-ltx", "wan22-three-way")
TERA, GIGA = 10**12, 10**9


def cost_of(name: str, **changes: object) -> Costs:
    return costs(dovetail.plan(name, overrides=changes))


# --- the paper's numbers ----------------------------------------------------------------------------------------------


def test_the_papers_teraflops_are_linear_layers_alone() -> None:
    """One pass at 61 x 480 x 832: 599.0 and 62.58 (29950 and 3129 in 50 steps). Attention brings the ratio from 9.57
    down to 6.2."""
    plan = dovetail.plan("flowblending-wan21")
    assert plan.latent == (16, 60, 104)
    large, small = (share.look for share in costs(plan).experts.values())
    assert large.linear / TERA == pytest.approx(599.0, abs=0.05)
    assert small.linear / TERA == pytest.approx(62.58, abs=0.006)
    assert 50 * large.linear / TERA == pytest.approx(29950, abs=2.5)
    assert 50 * small.linear / TERA == pytest.approx(3129, abs=0.5)
    assert large.linear / small.linear == pytest.approx(9.57, abs=0.005)
    assert large.total / TERA == pytest.approx(1119.8, abs=0.05)
    assert large.total / small.total == pytest.approx(6.23, abs=0.005)


def test_the_papers_lsl_from_what_a_plan_counts() -> None:
    """LSL with 40 % and 20 % is 19222 where LLL is 29950, guidance apart."""
    found = cost_of("flowblending-wan21")
    assert found.spent.linear / TERA == pytest.approx(2 * 19222, rel=1e-4)
    assert found.alone["large"].linear / TERA == pytest.approx(2 * 29950, rel=1e-4)
    assert found.alone["small"].linear / TERA == pytest.approx(2 * 3129, rel=1e-4)
    assert found.spent.total / found.alone["large"].total == pytest.approx(0.664, abs=0.001)


def test_other_schedules_are_counted_as_they_are_asked() -> None:
    """The paper's LSS: the large expert at the first 40 % of steps only, 13858."""
    lss = {"chain.video.denoise": {"blended": {"above 0.887": {"expert": "large", "guidance": 5.0}, "else": "small"}}}
    found = cost_of("flowblending-wan21", **lss)
    assert found.experts["large"].spent.linear / TERA == pytest.approx(2 * 20 * 599, rel=1e-4)
    assert found.experts["small"].spent.linear / TERA == pytest.approx(30 * 62.58, rel=1e-4), "without guidance"


# --- parameters, memory, switches -------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_model_cards() -> None:
    wan, ltx = cost_of("flowblending-wan21").experts, cost_of("flowblending-ltx").experts
    billions = [round(share.parameters / GIGA, 1) for share in (*wan.values(), *ltx.values())]
    assert billions == [14.3, 1.4, 13.0, 1.9]
    assert [round(text_parameters(words) / GIGA, 2) for words in (UMT5, T5)] == [5.68, 4.76]
    assert parameters_of(*WAN_CODEC) / 1e6 == pytest.approx(126.9, abs=0.1)
    assert parameters_of(*LTX_CODEC) * 2 / GIGA == pytest.approx(2.49, abs=0.01), "the file's size"
    assert parameters_of(*WAN_22_CODEC) * 4 / GIGA == pytest.approx(2.82, abs=0.01), "the file's size"
    five = outline("it", "wan", Location("Wan-AI/Wan2.2-TI2V-5B-Diffusers"))
    assert five.parameters / GIGA == pytest.approx(5.0, abs=0.01)


@pytest.mark.parametrize("name", ["flowblending-wan21", "wan22-three-way"])
def test_wan_of_another_generation_is_refused_before_it_is_here(name: str) -> None:
    """Wan 2.2 TI2V-5B has an autoencoder of its own."""
    with pytest.raises(SpaceError, match="channels 48 against 16; factor 16 against 8"):
        dovetail.plan(name, overrides={"experts.small.weights": "Wan-AI/Wan2.2-TI2V-5B-Diffusers"})


@pytest.mark.parametrize(
    ("residency", "text", "video", "decode"), [("all", 43, 32, 32), ("ahead", 11, 31, 1), ("turns", 11, 29, 1)]
)
def test_memory_follows_who_is_where(residency: str, text: int, video: int, decode: int) -> None:
    """14B, 1.3B, UMT5-XXL and the autoencoder: 28.6, 2.8, 11.4 and .5 GB. The text model goes when it has read."""
    memory = cost_of("flowblending-wan21", residency=residency).memory
    assert [round(size / GIGA) for size in memory.values()] == [text, video, decode]
    assert list(memory) == ["text", "video", "decode"]


def test_turns_need_the_larger_expert_alone() -> None:
    turns, ahead = (cost_of("flowblending-wan21", residency=how).memory["video"] for how in ("turns", "ahead"))
    small = cost_of("flowblending-wan21").experts["small"].bytes
    assert ahead - turns == small


@pytest.mark.parametrize("name", LARGE)
def test_experts_change_twice(name: str) -> None:
    assert dovetail.plan(name).switches == {"video": 2}


def test_the_three_are_of_one_latent_space_and_one_text_model() -> None:
    for name in LARGE:
        specs = [spec for spec in recipes.load(name).experts.values() if isinstance(spec, models.Pretrained)]
        told = [PUBLISHED[spec.weights, spec.subfolder or "transformer"] for spec in specs]
        assert len({id(it.words) for it in told}) == 1
        assert len({it.codec[0] for it in told}) == 1
        assert len({it.config["in_channels"] for it in told}) == 1


# --- counting ---------------------------------------------------------------------------------------------------------


def test_one_and_two_blocks_tell_the_whole_stack() -> None:
    whole = replace(outline("it", "ltx", Location("Lightricks/LTX-Video-0.9.5")), config={**LTX_2B, "num_layers": 5})
    from diffusers import LTXVideoTransformer3DModel

    with torch.device("meta"):
        module = LTXVideoTransformer3DModel.from_config(dict(whole.config))
        row, time = torch.zeros(1, 128, 2, 4, 4), torch.zeros(1)
        text = (torch.zeros(1, 128, 4096), torch.ones(1, 128, dtype=torch.bool))
    from dovetail.experts.adapter import Packed

    assert whole.look((128, 2, 4, 4)) == operations(lambda: Packed()(module, row, time, text))
    assert whole.parameters == sum(part.numel() for part in module.parameters())
    short = replace(whole, config={**LTX_2B, "num_layers": 3})
    assert whole.look((128, 2, 4, 4), (1, 3)) == short.look((128, 2, 4, 4))


def test_operations_add_up() -> None:
    one = Operations(2, 3)
    assert (one + one) == one * 2 == Operations(4, 6)
    assert one.total == 5
    with torch.device("meta"):
        a, b = torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)
    assert operations(lambda: torch.bmm(a, b)) == Operations(0, 2 * 2 * 3 * 4 * 5)
    assert operations(lambda: a[0] @ b[0]) == Operations(2 * 3 * 4 * 5, 0)


def test_half_a_picture_is_counted_as_half() -> None:
    half = {"chain.video.denoise": {"halved": "small"}, "video.height": 512, "video.width": 768}
    plan = dovetail.plan("flowblending-wan21", overrides=half)
    assert plan.shown == {Look("small", 16, 1, 1): 50}
    small = outline("small", "wan", Location("Wan-AI/Wan2.1-T2V-1.3B-Diffusers"))
    assert costs(plan).spent == small.look((16, 16, 32, 48)) * 50


def test_packaged_experts_are_counted_from_their_files() -> None:
    found = cost_of("sprites")
    assert set(found.experts) == {"control", "spatial", "temporal"}
    assert all(share.parameters > 0 and share.spent.total > 0 for share in found.experts.values())
    assert not cost_of("sprites-exact").experts, "closed forms are no networks"


def test_weights_that_nobody_knows_are_left_out_with_a_note() -> None:
    away = {"experts.small.weights": "someone/something"}
    found = cost_of("flowblending-wan21", **away)
    assert set(found.experts) == {"large"}
    assert any("someone/something" in note and "not counted" in note for note in found.notes)
    with pytest.raises(WeightsError, match="its sizes are not known"):
        outline("it", "wan", Location("someone/something"))


# --- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE)
def test_the_head_of_a_recipe_says_what_its_plan_counts(name: str) -> None:
    head = " ".join(line.lstrip("# ") for line in (SHIPPED / f"{name}.yaml").read_text().splitlines() if line[0] == "#")
    found = cost_of(name)
    whole = next(iter(found.alone.values()))
    linear, attention = re.findall(r"(\d+) % of [\w' ]*operations|(\d+) % with attention", head)
    assert int(linear[0]) == round(100 * found.spent.linear / whole.linear)
    assert int(attention[1]) == round(100 * found.spent.total / whole.total)
    for word in ("Models:", "Licence:", "Download:", "Presets:", "Boundaries:", "Score:"):
        assert word in head


@pytest.mark.parametrize("name", LARGE)
def test_boundaries_are_the_papers_shares_and_lie_between_levels(name: str) -> None:
    plan = dovetail.plan(name)
    ladder, denoise = plan.stages[0].ladder, plan.stages[0].denoise
    early, late = denoise.boundaries  # type: ignore[union-attr]
    steps = ladder.steps
    assert early == pytest.approx(ladder.between(steps * 40 // 100), abs=6e-4)
    assert late == pytest.approx(ladder.between(steps * 80 // 100), abs=6e-4)


def test_plan_prints_both_counts() -> None:
    result = CliRunner().invoke(cli.app, ["plan", "flowblending-wan21"])
    assert result.exit_code == 0, result.output
    for said in ("598.96 / 1,120", "62.58 / 179.77", "14.288 B", "large at every step", "2 changes", "64% / 66%"):
        assert said in result.stdout
    assert "on the device at most, residency ahead" in result.stdout
    for part, weights in (("text", "11.36 GB"), ("video", "31.41 GB"), ("decode", "0.51 GB")):
        assert re.search(rf"^{part} +{weights} ", result.stdout, re.MULTILINE)
    assert result.stderr.count("published configuration") == 2
