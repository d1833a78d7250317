"""Time and memory at the sizes of the real models, with random weights: speed does not ask what a network has learned.

    python benchmarks/fullsize.py confiner                  # 4 + 5 steps at 16 x 512 x 512; ModelScope at 50 and 100 steps
    python benchmarks/fullsize.py flowblending              # Wan 2.1 14B and 1.3B at 81 x 480 x 832
    python benchmarks/fullsize.py confiner --tiny           # the same with small networks, on any machine
    python benchmarks/fullsize.py confiner --count          # operations of each row at real sizes, on any machine

Networks have the published configurations, are made on the GPU in half precision, and are played by the engine as any
recipe is, decoding included; texts are random numbers, so no text model is made. For each row: seconds, time per call
of each expert, the share of the time in networks and codec, operations per second (counted on meta tensors, attention
among them) against what this device reaches in products of large matrices, and peak memory of the device. Beside each
target stands how many times fewer operations the networks have: a row becomes as much faster where all networks reach
the same rate and the codec takes no time, and a target above that is out of reach by counting alone. The text goes to
benchmarks/results/fullsize-NAME.txt after each row; rows there that are not measured again stay, if they are of the same
machine and setting. A row that does not fit in memory says so, and one for which less was done at once says that. A CUDA
GPU is needed for all but --tiny and --count.
"""

import argparse
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from harness import RESULTS
from machine import machine

from dovetail import recipe as recipes
from dovetail import run
from dovetail.core.denoiser import TARGETS, Expert
from dovetail.errors import RoomError, RoomWarning, nearest
from dovetail.experts.adapter import Adapter, Embedding
from dovetail.experts.codec import Codec, VideoCodec
from dovetail.experts.halving import is_short, released
from dovetail.experts.loading import FAMILIES
from dovetail.experts.outline import Outline
from dovetail.experts.published import (
    CLIP_H,
    CLIP_L,
    IMAGE_CODEC,
    MODELSCOPE,
    MOTION_SD_15,
    SD_15,
    UMT5,
    WAN_1_3B,
    WAN_14B,
    WAN_CODEC,
    Words,
)
from dovetail.experts.tuning import Tuning, tune
from dovetail.recipe import Recipe
from dovetail.recipe.planning import plan as planned
from dovetail.run.outlook import USUAL

NARROW = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 16}
"""Of small U-Nets."""

WAN_SMALL = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "freq_dim": 32, "text_dim": 64}


@dataclass(frozen=True)
class Kind:
    """A network. config, words: at its real size; small, few: at a small one; words and few are tokens, and numbers per
    token."""

    family: str
    network: str
    config: Mapping[str, Any]
    small: Mapping[str, Any]
    words: tuple[int, int]
    few: tuple[int, int]

    def outline(self, tiny: bool, size: int) -> Outline:
        limit, width = self.few if tiny else self.words
        words = Words("CLIPTextModel", {"hidden_size": width}, limit)
        return Outline(self.family, self.network, self.small if tiny else self.config, words, size)


KINDS = {
    "spatial": Kind(
        "stable-diffusion", "UNet2DConditionModel", SD_15, {**SD_15, **NARROW}, (77, CLIP_L.width), (7, 16)
    ),
    "control": Kind(
        "animatediff", "UNetMotionModel", MOTION_SD_15, {**MOTION_SD_15, **NARROW}, (77, CLIP_L.width), (7, 16)
    ),
    "temporal": Kind(
        "text-to-video-sd",
        "UNet3DConditionModel",
        MODELSCOPE,
        {**MODELSCOPE, **NARROW, "attention_head_dim": 8},
        (77, CLIP_H.width),
        (7, 16),
    ),
    "large": Kind(
        "wan",
        "WanTransformer3DModel",
        WAN_14B,
        {**WAN_14B, **WAN_SMALL, "num_layers": 4},
        (512, UMT5.width),
        (7, 64),
    ),
    "small": Kind(
        "wan",
        "WanTransformer3DModel",
        WAN_1_3B,
        {**WAN_1_3B, **WAN_SMALL, "num_layers": 1},
        (512, UMT5.width),
        (7, 64),
    ),
}
CODECS = {
    "confiner": (*IMAGE_CODEC, {**IMAGE_CODEC[1], "block_out_channels": (32,) * 4}),
    "flowblending": (*WAN_CODEC, {"base_dim": 8}),
}


@dataclass(frozen=True)
class Made:
    """Texts as random numbers: one value for each text."""

    limit: int
    width: int
    dtype: torch.dtype

    def __call__(self, text: str) -> Embedding:
        drawn = torch.Generator().manual_seed(sum(text.encode()))
        return (torch.randn(1, self.limit, self.width, generator=drawn).to(self.dtype),)


@dataclass(eq=False)
class Clocked:
    """A network, its calls and seconds."""

    network: Any
    calls: int = 0
    seconds: float = 0.0

    def __call__(self, *args: Any) -> Any:
        begun = settled(self.network.device)
        out = self.network(*args)
        self.calls += 1
        self.seconds += settled(self.network.device) - begun
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def settled(device: torch.device) -> float:
    """The time, once a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


@dataclass(frozen=True)
class Row:
    """What is measured. short: the same in a few steps, to warm up; against: the row that it is compared to."""

    name: str
    recipe: Recipe
    short: Recipe
    against: str | None = None
    target: float = 0.0
    tuning: Tuning = field(default_factory=Tuning)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(CODECS))
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--tiny", action="store_true", help="small networks, on any machine; the numbers mean nothing")
    how.add_argument("--count", action="store_true", help="count operations and measure nothing, on any machine")
    parser.add_argument("--steps", type=int, default=50, help="of FlowBlending's ladder")
    parser.add_argument(
        "--compile", action="store_true", help="also with compiled networks, which takes minutes to begin"
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows alone, by their names")
    parser.add_argument(
        "--results", type=Path, default=None, help="a folder; benchmarks/results without it, if not --tiny"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    known = confiner(args.tiny) if args.what == "confiner" else flowblending(args.tiny, args.steps)
    known += [compiled(row) for row in known]
    rows = chosen(known, args.only, args.compile)
    if args.count:
        print("\n".join(counted(args.what, rows)))
        return
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit(
            "fullsize.py needs a CUDA GPU for networks of real sizes, and this machine has none; --tiny does not"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = (
        {"confiner": torch.float16, "flowblending": torch.bfloat16}[args.what]
        if device.type == "cuda"
        else torch.float32
    )
    folder = args.results if args.results is not None or args.tiny else RESULTS
    file = None if folder is None else folder / f"fullsize-{args.what}.txt"
    steps = f", {args.steps} steps" if args.what == "flowblending" else ""
    head = f"{args.what}{steps}{', small networks: the numbers mean nothing' if args.tiny else ''}. {machine()}"
    lines = kept(file, head, bool(args.only))
    rate = matrix_rate(device, dtype, args.tiny)
    heads = [head, f"products of matrices in {dtype}: {rate / 1e12:.4g} TFLOP/s"]
    print("\n".join(heads), flush=True)
    for name, line in report(args.what, rows, device, dtype, args.tiny, rate):
        print(line, flush=True)
        lines[name] = line
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            ordered = [lines[row.name] for row in known if row.name in lines]
            file.write_text("\n".join([*heads, *ordered]) + "\n", encoding="utf-8")


def compiled(row: Row) -> Row:
    return replace(row, name=f"{row.name}, compiled", against=row.name, target=1.2, tuning=Tuning(compile=True))


def chosen(known: Sequence[Row], only: Sequence[str] | None, compile: bool) -> list[Row]:
    """The rows to be measured. Raises SystemExit for a name that is none's."""
    if not only:
        return [row for row in known if compile or not row.tuning.compile]
    names = [row.name for row in known]
    for name in only:
        if name not in names:
            raise SystemExit(f"unknown row '{name}'; {nearest(name, names)}")
    return [row for row in known if row.name in only]


def kept(file: Path | None, head: str, only: bool) -> dict[str, str]:
    """The lines of a file by their rows' names, if it is of this machine and setting. only: some rows are measured, which
    cannot stand beside others' then; raises SystemExit."""
    if file is None or not file.exists():
        return {}
    first, _, *lines = [*file.read_text(encoding="utf-8").splitlines(), "", ""]
    if first == head:
        return {line.partition(": ")[0]: line for line in lines if line}
    if only:
        raise SystemExit(f"{file} has rows of another machine or setting ({first}); --results takes another folder")
    return {}


def counted(what: str, rows: Sequence[Row]) -> Iterator[str]:
    """What each row asks of its networks at real sizes, and how many times less than the row it is compared to."""
    # Its networks are small, which nothing that is counted depends on; levels, spaces and channels are the real ones.
    cast = random_cast(what, rows[0], torch.device("cpu"), torch.float32, tiny=True)
    totals = {row.name: operations(row.recipe, cast, tiny=False) for row in rows}
    for row in rows:
        yield f"{row.name}: {totals[row.name] / 1e12:,.0f} TFLOP{compared(row, totals)}"


def compared(row: Row, totals: Mapping[str, int]) -> str:
    """How many times fewer operations a row has than the one it is compared to, where that is known and there are fewer."""
    if row.against not in totals or totals[row.against] == totals[row.name]:
        return ""
    return f", {totals[row.against] / totals[row.name]:.4g} x fewer operations than {row.against}"


def report(
    what: str, rows: Sequence[Row], device: torch.device, dtype: torch.dtype, tiny: bool, rate: float
) -> Iterator[tuple[str, str]]:
    """Every row measured: its name and its line, as it comes. rate: of products of matrices."""
    cast, tuned, seconds, totals = None, Tuning(), dict[str, float](), dict[str, int]()
    for row in rows:
        try:
            if cast is None or row.tuning != tuned:
                cast = None  # Before the next is made, so that one of them is in memory.
                cast, tuned = random_cast(what, row, device, dtype, tiny), row.tuning
            totals[row.name] = operations(row.recipe, cast, tiny)
            text, seconds[row.name] = measured(row, cast, device, rate, totals[row.name])
        except (RoomError, RuntimeError) as error:
            if not isinstance(error, RoomError) and not is_short(error):
                raise
            text = f"{row.name}: did not fit: {_reason(error)}"
        if row.name not in seconds:
            # Outside of the block above, whose error holds on to what is to be freed.
            cast = None
            released(device)
        elif row.against in seconds:
            times = seconds[row.against] / seconds[row.name]
            text += f"; {times:.2f} x as fast as {row.against}, target >= {row.target:g}{compared(row, totals)}"
        yield row.name, text


def _reason(error: Exception) -> str:
    """What did not fit where, in one line."""
    said = str(error.advised("")) if isinstance(error, RoomError) else str(error)
    return said.strip().partition("\n")[0].rstrip(".")


def measured(row: Row, cast: run.Cast, device: torch.device, rate: float, total: int) -> tuple[str, float]:
    """A row's line, and its seconds. rate: of products of matrices; total: operations of the row's networks."""
    run.finished(run.play(row.short, cast))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clocked = {name: replace(one, network=Clocked(one.network)) for name, one in cast.experts.items()}
    settings = run.finished(run.play(row.recipe, run.Cast(clocked, cast.codec))).settings
    seconds, share = settings["seconds"], settings["seconds_in_networks"] / settings["seconds"]
    clocks = {name: one.network for name, one in clocked.items() if one.network.calls}  # type: ignore[attr-defined]
    each = ", ".join(f"{name} {one.calls} x {1000 * one.seconds / one.calls:.4g} ms" for name, one in clocks.items())
    reached = total / sum(one.seconds for one in clocks.values())
    less = "".join(f"; less at once: {one}" for one in settings.get("less_at_once", {"what": ()})["what"])
    memory = f", {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB at most" if device.type == "cuda" else ""
    return (
        f"{row.name}: {seconds:.4g} s; {each}; {share:.1%} of the time in networks and codec, target >= 97 %; "
        f"{reached / 1e12:.4g} TFLOP/s, {reached / rate:.0%} of the matrix rate{memory}{less}",
        seconds,
    )


def operations(recipe: Recipe, cast: run.Cast, tiny: bool) -> int:
    """Floating point operations of a run's experts, counted without weights."""
    latent = run.latent_of(recipe, cast.codec.space)
    plan, total = planned(recipe, run.known_of(cast), latent=latent), 0
    for look, rows in plan.shown.items():
        it = KINDS[look.expert].outline(tiny, 2)
        total += it.look((cast.codec.channels, look.frames, *latent[1:]), look.skipped).total * rows
    return total


def matrix_rate(device: torch.device, dtype: torch.dtype, tiny: bool) -> float:
    """Operations per second in products of large square matrices, the best of five tries."""
    side = 256 if tiny else 8192
    a, b, best = (
        torch.randn(side, side, device=device).to(dtype),
        torch.randn(side, side, device=device).to(dtype),
        math.inf,
    )
    for _ in range(5):
        begun = settled(device)
        for _ in range(10):
            a @ b
        best = min(best, (settled(device) - begun) / 10)
    return 2 * side**3 / best


# --- networks ----------------------------------------------------------------------------------------------------


def random_cast(what: str, row: Row, device: torch.device, dtype: torch.dtype, tiny: bool) -> run.Cast:
    """The experts of a recipe and its codec, with random weights."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        experts = {name: random_expert(name, row.tuning, device, dtype, tiny) for name in row.recipe.experts}
        return run.Cast(experts, random_codec(what, device, dtype, tiny))


def random_expert(name: str, tuning: Tuning, device: torch.device, dtype: torch.dtype, tiny: bool) -> Expert:
    kind = KINDS[name]
    family, config = FAMILIES[kind.family], kind.small if tiny else kind.config
    module = network(kind.network, config, device, dtype)
    tune(f"expert '{name}'", module, tuning, dtype, device)
    scheduler = {"num_train_timesteps": 1000} | (FLOW if kind.family == "wan" else {"prediction_type": "epsilon"})
    adapter = Adapter(
        name=name,
        family=kind.family,
        weights="random",
        module=module,
        convention=family.convention,
        text=Made(*(kind.few if tiny else kind.words), dtype),
        batch=family.batch,
        device=device,
        dtype=dtype,
        scheduler=scheduler,
        space=replace(family.space, encoder=None),
        patch=2 if kind.family == "wan" else 1,
    )
    return Expert(name, USUAL[kind.family], TARGETS[scheduler["prediction_type"]], adapter)


FLOW = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}


def random_codec(what: str, device: torch.device, dtype: torch.dtype, tiny: bool) -> Codec | VideoCodec:
    kind, config, small = CODECS[what]
    if what == "confiner":
        module = network(kind, small if tiny else config, device, dtype)
        return Codec("random", module, FAMILIES["stable-diffusion"].space, 8, device, dtype)
    module = network(kind, small if tiny else config, device, torch.float32)
    mean, deviation = torch.tensor(module.config.latents_mean), torch.tensor(module.config.latents_std)
    return VideoCodec("random", module, FAMILIES["wan"].space, mean, deviation, device, torch.float32)


def network(kind: str, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A network of diffusers with random weights, made where it stays."""
    import diffusers

    with torch.device(device), defaulting(dtype):
        return getattr(diffusers, kind).from_config(dict(config)).requires_grad_(False).eval()


@contextmanager
def defaulting(dtype: torch.dtype) -> Iterator[None]:
    """Weights are made in this precision, since the largest networks do not fit in another first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# --- rows --------------------------------------------------------------------------------------------------------


def written(names: Sequence[str], video: Mapping[str, Any], chain: Sequence[Mapping[str, Any]]) -> Recipe:
    experts = {name: {"family": KINDS[name].family, "weights": "random"} for name in names}
    data = {"prompt": "a red panda", "negative": "blurry", "video": video, "experts": experts}
    return recipes.checked({**data, "codec": {"weights": "random"}, "chain": chain})


def confiner(tiny: bool) -> list[Row]:
    """The paper's setting: 4 steps of AnimateDiff-Lightning, 5 below T_e = 100; guidance as the experts' authors have it."""
    side, names = 32 if tiny else 512, ("control", "spatial", "temporal")
    video = {"frames": 4 if tiny else 16, "height": side, "width": side, "fps": 8.0}
    draft = {"stage": "structure", "ladder": {"trailing": {"of": "control", "steps": 4}}, "denoise": "control"}
    pair = {
        "spatial": {"framewise": {"expert": "spatial", "guidance": 7.5}},
        "temporal": {"expert": "temporal", "guidance": 9.0},
    }
    below = {"below": {"of": "spatial", "timestep": 100, "steps": 5}}

    def refined(word: str) -> Recipe:
        return written(names, video, [draft, {"stage": "refine", "ladder": below, "denoise": {word: pair}}])

    def alone(steps: int) -> Recipe:
        ladder = {"leading": {"of": "temporal", "steps": steps, "offset": 1}}
        return written(names, video, [{"stage": "video", "ladder": ladder, "denoise": pair["temporal"]}])

    many = (4, 2) if tiny else (100, 50)
    base = f"ModelScope, {many[0]} steps"
    rows = [Row(f"ModelScope, {steps} steps", alone(steps), alone(2)) for steps in many]
    rows += [Row("ConFiner, 4 + 5 steps", refined("coordinated"), refined("coordinated"), base, 8.0)]
    return [*rows, Row("ConFiner without its second spatial look", refined("relayed"), refined("relayed"), base, 10.0)]


def flowblending(tiny: bool, steps: int) -> list[Row]:
    """Large at every step; and the paper's 40 % large, 40 % small, 20 % large. Guidance 5 in two calls, UniPC."""
    video = {"frames": 5, "height": 32, "width": 48} if tiny else {"frames": 81, "height": 480, "width": 832}

    def one(denoise: Any, steps: int) -> Recipe:
        ladder = {"own": {"of": "large", "steps": steps, "shift": 5.0}}
        stage = {"stage": "video", "ladder": ladder, "solver": "unipc", "denoise": denoise}
        return written(("large", "small"), {**video, "fps": 16.0}, [stage])

    large, small = ({"expert": name, "guidance": 5.0, "joint": False} for name in ("large", "small"))
    lsl = {"blended": {"above 0.887": large, "above 0.571": small, "else": large}}
    steps = min(steps, 5) if tiny else steps
    return [
        Row("LLL", one(large, steps), one(large, 2)),
        Row("LSL", one(lsl, steps), one(lsl, 5), "LLL", 1.5),
    ]


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", RoomWarning)
        main()
