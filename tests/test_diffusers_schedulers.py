"""Our walk against diffusers' own step loops, on one small nonlinear network; and the ladders read from configs."""

from itertools import pairwise

import diffusers
import pytest
import torch

from dovetail.core.denoiser import TARGETS, Expert, timeline
from dovetail.core.ladders import Ladder, leading, timesteps, trailing
from dovetail.core.noise import Noise
from dovetail.core.path import mix
from dovetail.core.sampler import Ancestral, DPMSolver2M, Euler, UniPC, last, sample
from dovetail.core.schedules import Flow, VarianceExploding, VariancePreserving, schedule_of
from dovetail.experts.schedulers import BY_SIGMA, BY_TIMESTEP, ladder_of

FRAMES = timeline(3)
EPS = Noise(3).like(torch.empty(1, 4, 3, 5, 5), FRAMES, "start")
WEIGHT = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) / 2

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD_SAFE = {**SD, "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1}
TRAINED = [0.0005 * 1.05**i for i in range(100)]
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
COG = {**SD, **ZERO_SNR, "_class_name": "CogVideoXDDIMScheduler", "snr_shift_scale": 3.0, "clip_sample": False}
DDIM = {**SD_SAFE, "_class_name": "DDIMScheduler"}
EULER = {"_class_name": "EulerDiscreteScheduler", "beta_schedule": "linear", "timestep_spacing": "trailing"}
DPM = {**SD, "_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "trailing"}
UNIPC = {**SD, "_class_name": "UniPCMultistepScheduler", "timestep_spacing": "trailing"}
WAN = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 5.0,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
DYNAMIC = {**FLOW, "use_dynamic_shifting": True, "time_shift_type": "exponential"}

CASES = [
    pytest.param({**DDIM, "timestep_spacing": "trailing"}, Euler(), 10, {}, id="ddim-eps-trailing"),
    pytest.param({**DDIM, "timestep_spacing": "leading"}, Euler(), 20, {}, id="ddim-eps-leading"),
    pytest.param({**DDIM, "prediction_type": "v_prediction"}, Euler(), 10, {}, id="ddim-v-leading"),
    pytest.param({**DDIM, "prediction_type": "sample"}, Euler(), 10, {}, id="ddim-x0"),
    pytest.param({**DDIM, "set_alpha_to_one": False}, Euler(), 20, {}, id="ddim-alpha-not-to-one"),
    pytest.param({**DDIM, **ZERO_SNR}, Euler(), 10, {}, id="ddim-v-zero-snr"),
    pytest.param({**DDIM, "beta_schedule": "squaredcos_cap_v2"}, Euler(), 10, {}, id="ddim-cosine"),
    pytest.param({**DDIM, "trained_betas": TRAINED, "num_train_timesteps": 100}, Euler(), 10, {}, id="ddim-trained"),
    pytest.param(COG, Euler(), 10, {}, id="cogvideox-ddim"),
    pytest.param({**COG, "snr_shift_scale": 1.0}, Euler(), 20, {}, id="cogvideox-ddim-unshifted"),
    pytest.param(EULER, Euler(), 4, {}, id="euler-trailing-4"),
    pytest.param(EULER, Euler(), 8, {}, id="euler-trailing-8"),
    pytest.param(
        {**EULER, **SD, "timestep_spacing": "leading", "steps_offset": 1}, Euler(), 10, {}, id="euler-leading"
    ),
    pytest.param({**EULER, **SD, "timestep_spacing": "linspace"}, Euler(), 10, {}, id="euler-linspace"),
    pytest.param({**EULER, **SD, "use_karras_sigmas": True}, Euler(), 10, {}, id="euler-karras"),
    pytest.param(DPM, DPMSolver2M(), 10, {}, id="dpm-trailing"),
    pytest.param(DPM, DPMSolver2M(), 25, {}, id="dpm-trailing-25"),
    pytest.param({**DPM, "prediction_type": "v_prediction"}, DPMSolver2M(), 10, {}, id="dpm-v"),
    pytest.param({**DPM, "use_karras_sigmas": True}, DPMSolver2M(), 12, {}, id="dpm-karras"),
    pytest.param({**DPM, "timestep_spacing": "linspace"}, DPMSolver2M(), 10, {}, id="dpm-linspace"),
    pytest.param({**WAN, "_class_name": "DPMSolverMultistepScheduler"}, DPMSolver2M(), 10, {}, id="dpm-flow"),
    pytest.param(UNIPC, UniPC(), 10, {}, id="unipc-vp"),
    pytest.param({**UNIPC, "use_karras_sigmas": True}, UniPC(), 8, {}, id="unipc-karras"),
    pytest.param(WAN, UniPC(), 10, {}, id="unipc-flow"),
    pytest.param(WAN, UniPC(), 20, {"shift": 3.0}, id="unipc-flow-shift-3"),
    pytest.param(FLOW, Euler(), 10, {}, id="flow-euler"),
    pytest.param(FLOW, Euler(), 10, {"shift": 5.0}, id="flow-euler-shift"),
    pytest.param(DYNAMIC, Euler(), 10, {"mu": 1.15}, id="flow-euler-dynamic"),
    pytest.param({**DYNAMIC, "shift_terminal": 0.1}, Euler(), 10, {"mu": 0.95}, id="flow-euler-dynamic-terminal"),
]


def network(x, time, conditions=(), frames=None):
    """Not linear in the latent, and it listens to the time."""
    return torch.tanh(torch.einsum("ij,bjfhw->bifhw", WEIGHT, x) * (1 + time / 1000)) + 0.3 * x


def planned(config, steps, shift=None, mu=None):
    """diffusers' scheduler, ready to step."""
    changes = {} if shift is None else {("shift" if "FlowMatch" in config["_class_name"] else "flow_shift"): shift}
    scheduler = getattr(diffusers, config["_class_name"]).from_config({**config, **changes})
    scheduler.set_timesteps(steps, **({} if mu is None else {"mu": mu}))
    return scheduler


def theirs(scheduler, generator=None):
    """A stock pipeline's loop: its first latent, its inputs, its steps; and the times it told the network."""
    x, times = EPS * getattr(scheduler, "init_noise_sigma", 1.0), []
    for time in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        times.append(float(time))
        step = {} if generator is None else {"generator": generator}
        x = scheduler.step(network(shown, time.item()), time, x, return_dict=False, **step)[0]
    return x, times


def expert_of(config, times=None):
    schedule = schedule_of(config)
    default = "flow_prediction" if isinstance(schedule, Flow) else "epsilon"

    def heard(x, time, conditions, frames):
        if times is not None:
            times.append(time)
        return network(x, time)

    return Expert("small", schedule, TARGETS[config.get("prediction_type", default)], heard)


def walked(expert, ladder, solver):
    """The path latent at the ladder's last level."""
    walk, x = sample(expert.given(""), EPS * ladder.first, FRAMES, ladder.levels, solver), None
    while x is None:
        try:
            next(walk)
        except StopIteration as end:
            x = end.value
    return x


def relative(ours, other):
    return float((ours - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(("config", "solver", "steps", "kwargs"), CASES)
def test_walk_equals_the_schedulers_own_loop(config, solver, steps, kwargs):
    other, their_times = theirs(planned(config, steps, **kwargs))
    times = []
    expert, ladder = expert_of(config, times), ladder_of(config, steps, **kwargs)
    ours = walked(expert, ladder, solver)
    end = ladder.levels[-1]
    in_sigma = config["_class_name"].startswith("Euler")
    ours = ours * (1 / (1 - end) if in_sigma else expert.schedule.scale(end))
    assert ladder.steps == steps
    # Between timesteps ours is a line in log-SNR and diffusers' "linspace" one in sigma.
    assert times == pytest.approx(their_times, abs=0.02 if config.get("timestep_spacing") == "linspace" else 2e-3)
    assert relative(ours, other) <= 1e-5


def test_truncated_timesteps_of_wan_are_whole_numbers():
    times = []
    ladder = ladder_of(WAN, 20)
    walked(expert_of(WAN, times), ladder, UniPC())
    assert times == planned(WAN, 20).timesteps.tolist()
    assert any(abs(t * 1000 - time) > 0.1 for t, time in zip(ladder.levels, times, strict=False))


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("steps", [4, 10, 25, 50])
def test_whole_times_survive_float32_sigmas(shift, steps):
    ladder = ladder_of(WAN, steps, shift=shift)
    heard = [Flow(whole=True).native(t) for t in ladder.levels[:-1]]
    assert heard == planned(WAN, steps, shift=shift).timesteps.tolist()


def test_zero_terminal_snr_of_euler_as_far_as_its_float32_goes():
    """diffusers starts from latents 4096 times the noise, in float32; so its own rounding is what we see."""
    config = {**EULER, **SD, **ZERO_SNR}
    ladder, other = ladder_of(config, 10), theirs(planned(config, 10))[0]
    assert relative(walked(expert_of(config), ladder, Euler()), other) <= 3e-5


def test_ancestral_equals_diffusers_given_the_same_noise(monkeypatch):
    config = {**SD, "_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    ladder, solver = ladder_of(config, 10), Ancestral(Noise(11))
    # diffusers asks for noise once a step, the last one (where it weighs nothing) too.
    fresh = iter([solver.noise.like(EPS, FRAMES, "ancestral", t) for t in ladder.levels[:-1]])
    module = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
    monkeypatch.setattr(module, lambda *args, **kwargs: next(fresh))
    other, _ = theirs(planned(config, 10))
    assert relative(walked(expert_of(config), ladder, solver), other) <= 1e-5


@pytest.mark.parametrize(
    ("config", "ladder"),
    [
        pytest.param({**DDIM, "timestep_spacing": "trailing"}, trailing, id="trailing"),
        pytest.param(DDIM, lambda vp, n: leading(vp, n, offset=1), id="leading"),
        pytest.param(EULER, lambda vp, n: trailing(vp, n, unit=False), id="euler"),
    ],
)
@pytest.mark.parametrize("steps", [1, 2, 4, 7, 8, 25, 30, 48, 50, 61, 100, 112])
def test_pure_ladders_equal_the_read_ones(config, ladder, steps):
    ours, read = ladder(schedule_of(config), steps), ladder_of(config, steps)
    assert ours.levels == pytest.approx(read.levels, abs=1e-9)
    assert ours.first == pytest.approx(read.first, rel=1e-6)


def test_explicit_timesteps_with_each_familys_first_latent():
    sd, times = schedule_of(DDIM), [999, 700, 300]
    ladder = timesteps(sd, times)
    assert [sd.native(t) for t in ladder.levels[:-1]] == times
    assert sd.scale(ladder.levels[0]) * ladder.first == pytest.approx(1)  # unit noise in native latents
    assert timesteps(sd, times, unit=False).first == ladder.levels[0]  # noise mixed in on the path
    assert timesteps(Flow(), [1000, 750, 250]) == Ladder((1.0, 0.75, 0.25, 0.0), 1.0)


@pytest.mark.parametrize("config", [DDIM, {**DDIM, **ZERO_SNR}, COG, EULER], ids=["sd", "zero-snr", "cog", "linear"])
def test_tables_equal_diffusers(config):
    other = getattr(diffusers, config["_class_name"]).from_config(config).alphas_cumprod
    ours = torch.tensor(schedule_of(config).alphas_cumprod, dtype=torch.float64)
    assert (ours - other).abs().max() < 1e-6


@pytest.mark.parametrize("name", sorted(BY_TIMESTEP | BY_SIGMA))
def test_every_scheduler_named_can_be_read(name):
    config = {**getattr(diffusers, name)().config, "_class_name": name, "skip_prk_steps": True}
    ladder, scheduler = ladder_of(config, 10), planned(config, 10)
    schedule = schedule_of(config)
    assert [schedule.native(t) for t in ladder.levels[:-1]] == pytest.approx(
        sorted(set(scheduler.timesteps.tolist()), reverse=True), abs=0.02
    )
    assert all(a > b for a, b in pairwise(ladder.levels))


def test_betas_that_were_trained_need_no_curve_and_outdo_one():
    config = {"_class_name": "DDIMScheduler", "trained_betas": TRAINED, "num_train_timesteps": 100}
    other = diffusers.DDIMScheduler.from_config(config).alphas_cumprod
    for read in (schedule_of(config), schedule_of({**config, "beta_schedule": "scaled_linear"})):
        assert read.alphas_cumprod == pytest.approx(other.tolist(), abs=1e-6)


def test_score_sde_explodes_as_diffusers_does():
    """Its networks are shown x0 + sigma * eps, and are told sigma itself."""
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_max=50.0)
    scheduler.set_sigmas(6)
    config = {**scheduler.config, "_class_name": "ScoreSdeVeScheduler"}
    schedule, shown = schedule_of(config), []
    assert schedule == VarianceExploding(50.0)
    assert schedule_of({"_class_name": "ScoreSdeVeScheduler"}) == VarianceExploding(
        diffusers.ScoreSdeVeScheduler().init_noise_sigma
    )

    def heard(x, time, conditions, frames):
        shown.append((x, time))
        return x

    expert, x0 = Expert("ve", schedule, TARGETS["sample"], heard).given(""), torch.full_like(EPS, 0.3)
    for sigma in scheduler.sigmas.tolist():
        t = schedule.share(sigma)
        expert(mix(x0, EPS, t), t, FRAMES)
        torch.testing.assert_close(shown[-1][0], x0 + sigma * EPS, rtol=1e-4, atol=1e-4)
        assert shown[-1][1] == pytest.approx(sigma)
    assert schedule.native(1.0) == 50.0
    with pytest.raises(ValueError, match=r"no ladder can be read from a ScoreSdeVeScheduler.*known: "):
        ladder_of(config, 10)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_edm_is_refused_with_a_reason(name):
    """It has no betas, and its networks want their input divided by a deviation that no schedule here has."""
    config = {**getattr(diffusers, name)().config, "_class_name": name}
    with pytest.raises(ValueError, match=rf"{name}\).*neither beta_schedule nor trained_betas, and is no flow"):
        schedule_of(config)
    with pytest.raises(ValueError, match=f"no ladder can be read from a {name}"):
        ladder_of(config, 10)


def test_pndm_visits_a_level_once():
    config = {**SD, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1}
    ladder = ladder_of(config, 20)
    assert ladder.steps == 20
    assert ladder.levels[-1] == schedule_of(config).share(0)  # its alpha does not go to one


def test_a_last_step_in_place_goes_to_the_video():
    ladder = ladder_of({**DDIM, "steps_offset": 0, "set_alpha_to_one": False}, 10)
    assert ladder.levels[-2:] == (schedule_of(DDIM).share(0), 0.0)
    assert ladder.steps == 10


@pytest.mark.parametrize(
    ("config", "kwargs", "words"),
    [
        pytest.param({}, {}, ["_class_name", "DDIMScheduler"], id="no-name"),
        pytest.param({"_class_name": "DDIMSheduler"}, {}, ["did you mean DDIMScheduler"], id="spelling"),
        pytest.param({"_class_name": "EDMEulerScheduler"}, {}, ["EDMEulerScheduler", "known"], id="edm"),
        pytest.param({"_class_name": "DDIMScheduler"}, {}, ["beta_schedule", "trained_betas"], id="no-betas"),
        pytest.param({**SD, "_class_name": "PNDMScheduler"}, {}, ["skip_prk_steps"], id="pndm-runge-kutta"),
        pytest.param({**FLOW, "invert_sigmas": True}, {}, ["invert_sigmas"], id="inverted"),
        pytest.param({**EULER, "timestep_type": "continuous"}, {}, ["timestep_type: continuous"], id="continuous"),
        pytest.param(DDIM, {"shift": 3.0}, ["shift", "flow"], id="shift-of-ddim"),
        pytest.param(DYNAMIC, {"shift": 3.0, "mu": 1.0}, ["static shift"], id="shift-of-dynamic"),
        pytest.param(DYNAMIC, {}, ["needs mu"], id="dynamic-without-mu"),
        pytest.param(WAN, {"mu": 1.0}, ["takes no mu"], id="static-with-mu"),
    ],
)
def test_what_cannot_be_read_says_why(config, kwargs, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        ladder_of(config, 10, **kwargs)
    assert all(word in str(error.value) for word in words), error.value


def test_no_steps_is_no_ladder():
    with pytest.raises(ValueError, match="one step or more"):
        ladder_of(DDIM, 0)


def test_zero_terminal_snr_needs_no_noise_prediction():
    """At pure noise v says everything (x0 = -v, eps = x) and eps says nothing of the video."""
    vp = VariancePreserving((0.9, 0.5, 0.0))
    x = torch.randn(1, 4, 2, 3, 3)
    seen = Expert("v", vp, TARGETS["v_prediction"], lambda *_: x.sin()).given("")(x, 1.0, timeline(2))
    torch.testing.assert_close(seen.x0, -x.sin())
    torch.testing.assert_close(seen.eps, x)
    with pytest.raises(ZeroDivisionError):
        Expert("eps", vp, TARGETS["epsilon"], lambda *_: x).given("")(x, 1.0, timeline(2))


def test_the_last_state_holds_the_result():
    ladder = ladder_of(DDIM, 5)
    states = sample(expert_of(DDIM).given(""), EPS * ladder.first, FRAMES, ladder.levels, Euler())
    assert torch.equal(last(states).seen.x0, walked(expert_of(DDIM), ladder, Euler()))
