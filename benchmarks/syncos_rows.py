"""The rows of the story tables: ways to tell a story, as recipes. All parts come from one recipe whose first stage is
`coupled`; stages after it are the same for all ways. A name ends with the number of frames.
"""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

import dovetail
from dovetail import recipe as recipes
from dovetail.methods.stein import KERNELS
from dovetail.recipe import Recipe

Plain = dict[str, Any]
MAIN, LENGTHS = 128, (64, 128, 256)
"""Frames of the tables, and those over which length is compared: 4, 8 and 16 clips."""
GEN_L, FLOWLONG, SWITCHING = "gen-l-video", "flowlong", "switching"
BASELINES = (GEN_L, FLOWLONG, SWITCHING)
FIFO = "fifo"
"""The baseline that is no recipe: its frames are not equally noisy."""
UNSHARED = "no shared text"
PUBLISHED = "as published"
"""The paper's method over the recipe's windows, ladder and floor, as baselines are: held by nothing, told by window."""
ADAMW = "as published, AdamW"
"""The same by the published optimiser: 20 steps at each level above the floor, four windows in each, at a rate of half of
what latents of sprites deviate by (.4), as the paper's .5 to 1 is of latents that deviate by 1."""
BY_ADAMW: Plain = {"optimiser": "adamw", "rate": 0.2, "iterations": 20, "minibatch": 4}
PAPER = ("no floor", "no grounding", "no fixed noise", UNSHARED, "stages 1+3", "stage 2")
"""What the paper leaves out of its method, in the order in which that costs it identity."""
APART_BY_ADAMW = tuple(f"{way}, AdamW" for way in PAPER[:4])
"""The same by the published optimiser, as far as the order goes."""
WHAT = (*(kernel for kernel in KERNELS if kernel != "stein"), "equal calls")
"""Other ways for windows of the paper's method to share what they doubt; and its calls alone."""
RENOISED = "re-noise only"
SECOND = "four looks"
"""The recipe with as many looks again as the paper's method has here, where it has fewer, or none: then what rows that vary
its stage 2 are beside."""
LOOKS = 4
"""Looks again at each level above the floor, in that row. The paper has 20 to 50 of AdamW, of few windows each, which are
1.6 times the calls of stage 1 in all. Picard is where AdamW ends after 3 to 8, and four are the method's own default; over
`sprites-story` they are 2.4 times the calls of stage 1, so nobody is given fewer than the paper's."""
AGAIN = (RENOISED, SECOND)
"""The recipe with no look again, and with as many as the paper's method."""
NARROW = "narrow below"
COSTS = ("fewer looks", "early stop", "unguided again", "small again", "alternate steps", "wide below", "cheap", NARROW)
"""What costs less; and, where the recipe's stride widens below the floor, what it spares by that."""
AUTO = ("floor auto", "stride auto", "both auto")
FAR = ("anchor", "keyframes", "no anchor")
BY_WINDOW, BY_FRAME = "by window", f"{GEN_L} by frame"
TOLD = (BY_WINDOW, BY_FRAME)
"""Where the recipe tells each frame of a window the event at it: the recipe whose windows take what lies at their middle, as
published methods do, and the baseline that is told as the recipe is."""
DECODED = "as decoded"
"""The recipe whose finished frames are not held to what stands still in the first ones, where its own are. All rows but `full`
and ALIKE_STILL are as decoded, since what is held in pixels hides what a way to denoise does."""
ALIKE, ALIKE_STILL = f"{GEN_L} held", f"{GEN_L} held, still"
HOLDS = ("hold", "no hold", "colours", "objects free", "frames held", ALIKE)
"""The recipe with its windows held to the first one, or without: whichever it is not itself; with their colours held
alone, where it holds places too; without the colours of objects, where it holds these; and with single frames held after
the first stage, where it does not. And a baseline that is held and told as the recipe is: what is left between them is the
method's."""
STILLS = (DECODED, ALIKE_STILL)
"""The recipe without its hold of finished frames; and that baseline with it."""
TURNED = ("full", "no hold", PUBLISHED, GEN_L)
"""Who is told stories whose backgrounds are to change, which a hold keeps from it."""
TURNING = 1000
"""The number of the first such story."""
SWEEPS: Mapping[str, tuple[Any, ...]] = {
    "floor": (0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97),
    "bandwidth": (0.1, 1.0, 10.0, 100.0),
    "rate": (0.25, 0.5, 1.0, 1.5),
    "iterations": (0, 1, 2, 4, 8, 16),
    "stride": (2, 4, 8, 12),
}
"""Sensitivity: one value is changed, all else is the recipe's; a bandwidth is that of the Stein kernel."""


def rows(base: Recipe, main: int = MAIN, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Recipe]:
    """Each way at its length. `cheap` is what is cheaper, all together."""
    made = {f"{way} {main}": recipe for way, recipe in ways(Parts(base, main)).items()}
    for frames in lengths:
        parts = Parts(base, frames)
        kept = ("full", *BASELINES, *TOLD, *HOLDS, *STILLS, *FAR)
        made |= {
            f"{way} {frames}": recipe for way, recipe in {**plain(parts), **far(parts.looking)}.items() if way in kept
        }
    return made


class Parts:
    """A recipe with a coupled first stage, at a length, taken apart."""

    def __init__(self, base: Recipe, frames: int) -> None:
        self.base, self.frames = base, frames
        # Of the recipe's story there is how it is told, which is the method's; the tales themselves come with each run.
        self.by_frame = base.story is not None and base.story.by == "frame"
        story = {"events": ["it moves"], "by": "frame"} if self.by_frame else None
        self.still = base.video.still
        bare = {"video.frames": frames, "video.still": None, "story": story}
        self.whole = recipes.plain(recipes.changed(base, bare))
        self.stage, *self.rest = self.whole["chain"]
        self.coupled: Plain = self.stage["denoise"]["coupled"]
        self.experts = list(self.whole["experts"])

    def made(self, denoise: Any, rest: list[Plain] | None = None, **stage: Any) -> Recipe:
        """The recipe with this denoiser, with other words of its stage, and with other stages after it."""
        first = {**self.stage, "denoise": denoise, **stage}
        return recipes.checked({**self.whole, "chain": [first, *(self.rest if rest is None else rest)]})

    def held(self, hold: Any) -> list[Plain]:
        """The stages after the first, held in this way wherever windows are averaged."""
        return [{**stage, "hold": hold} if stage["hop"] else stage for stage in self.rest]

    @property
    def published(self) -> "Parts":
        """The same windows under the paper's method. Gen-L-Video is its stages 1 and 3, FlowLong the noise of its stage 2."""
        plain, place = self.windowed["windowed"], f"chain.{self.stage['stage']}.denoise"
        method = {"coupled": {**plain, "floor": self.floor, "iterations": LOOKS}}
        held = {f"chain.{stage['stage']}.hold": None for stage in self.rest if stage["hop"]}
        return Parts(recipes.changed(self.base, {place: method, "story": None, **held}), self.frames)

    @property
    def looking(self) -> "Parts":
        """The same with stage 2: its own, or as many looks again as the paper's method has here."""
        looks = self.coupled["iterations"] or LOOKS
        place = f"chain.{self.stage['stage']}.denoise.coupled.iterations"
        return Parts(recipes.changed(self.base, {place: looks}), self.frames)

    def with_(self, **options: Any) -> Recipe:
        """The recipe with other words of `coupled`."""
        return self.made({"coupled": {**self.coupled, **options}})

    @property
    def otherwise(self) -> dict[str, Recipe]:
        """The recipe without the hold of its windows, or, if it has none, with one wherever windows are averaged; with
        one of colours alone; with none of objects; and with one of frames; and the baseline that is held as it is."""
        own = self.coupled["hold"]
        others: Plain = {"no hold": None} if own else {"hold": 1.0}
        others |= {"colours": 1.0} if own and own["within"] else {}
        made = {
            name: self.made({"coupled": {**self.coupled, "hold": hold}}, self.held(hold))
            for name, hold in others.items()
        }
        free, *rest = (held_so(part, objects=None) for part in [self.coupled, *self.rest])
        steady = [held_so(part, frames=1.0) for part in self.rest]
        made |= (
            {"objects free": self.made({"coupled": free}, rest)} if [free, *rest] != [self.coupled, *self.rest] else {}
        )
        made |= {"frames held": self.made({"coupled": self.coupled}, steady)} if steady != self.rest else {}
        return made | ({ALIKE: self.with_(floor=1.0, iterations=0, wide=None)} if own else {})

    def finished(self, recipe: Recipe) -> Recipe:
        """A row's recipe whose finished frames are held as the recipe's are."""
        held = None if self.still is None else self.still.model_dump()
        return recipes.changed(recipe, {"video.still": held})

    @property
    def method(self) -> str:
        """The row that rows which vary stage 2 vary."""
        own = "full" if self.still is None else DECODED
        return own if self.coupled["iterations"] else SECOND

    @property
    def is_flowlong(self) -> bool:
        """Whether the recipe is FlowLong's way by construction: windows averaged and told what lies at their middle, and
        new noise above a floor."""
        bare = {"iterations": 0, "stages": "all", "steps": None, "wide": None, "hold": None}
        found = "auto" in (self.coupled["floor"], self.coupled["stride"])
        more = found or self.stage["noise"] or self.by_frame or self.still
        return bare.items() <= self.coupled.items() and not more

    @property
    def floor(self) -> float:
        """What comes nearest to the recipe's floor where that is found on the way."""
        return 0.9 if self.coupled["floor"] == "auto" else float(self.coupled["floor"])

    @property
    def windowed(self) -> Plain:
        """The same windows, averaged and no more."""
        words = {key: self.coupled[key] for key in ("of", "size", "stride", "weights", "first")}
        return {"windowed": {**words, "stride": words["size"] // 2 if words["stride"] == "auto" else words["stride"]}}


def held_so(part: Plain, **words: Any) -> Plain:
    """A part whose windows' places are held, with other words of its hold; another one as it is."""
    held = part["hold"] and part["hold"]["within"]
    return {**part, "hold": {**part["hold"], **words}} if held else part


def by_window(recipe: Recipe) -> Recipe:
    """The same, its windows told what lies at their middle."""
    return recipes.changed(recipe, {"story": None})


def plain(parts: Parts) -> dict[str, Recipe]:
    """The method, held and told in other ways, and its baselines as published: held by nothing, and told by window."""
    long = recipes.plain(recipes.load("sprites-long-paper"))["chain"][0]
    coherent = {**long["denoise"]["coherent"], "of": parts.coupled["of"]}
    free = parts.held(None)
    baselines = {
        GEN_L: parts.made(parts.windowed, free),
        FLOWLONG: parts.made({"renoised": {"of": parts.windowed, "floor": parts.floor}}, free),
        SWITCHING: parts.made({"coherent": coherent}, free, window=parts.coupled["size"], noise=long["noise"]),
    }
    told = {BY_WINDOW: by_window(parts.with_()), BY_FRAME: baselines[GEN_L]} if parts.by_frame else {}
    published = {name: by_window(recipe) for name, recipe in baselines.items()}
    others = parts.otherwise
    stills = {} if parts.still is None else {DECODED: parts.with_()}
    stills |= {ALIKE_STILL: parts.finished(others[ALIKE])} if stills and ALIKE in others else {}
    return {"full": parts.finished(parts.with_()), **stills, **told, **others, **published}


def ways(parts: Parts) -> dict[str, Recipe]:
    """Every way at one length. What takes the paper's method apart varies that; what else varies stage 2 varies the
    recipe's, or, where it has none, one of as many looks."""
    looking, published = parts.looking, parts.published
    return {
        **plain(parts),
        **({SECOND: parts.with_(iterations=LOOKS)} if parts.coupled["iterations"] < LOOKS else {}),
        RENOISED: looking.with_(iterations=0, floor=parts.floor),
        PUBLISHED: published.with_(),
        ADAMW: published.with_(**BY_ADAMW),
        **paper(published),
        **by_adamw(published),
        **what(published),
        **cheaper(looking),
        "floor auto": looking.with_(floor="auto"),
        "stride auto": looking.with_(stride="auto", wide=None),
        "both auto": looking.with_(floor="auto", stride="auto", wide=None),
        **far(looking),
        **dict(swept(looking)),
    }


def paper(parts: Parts) -> dict[str, Recipe]:
    """The paper's ablations. What is shared is the prompt's matter, see `syncos.tell`. Stages 1 and 3 without a base noise
    are windows averaged and no more; with one they are FlowLong's way."""
    return {
        "no floor": parts.with_(floor=0.0),
        "no grounding": parts.with_(timestep="random"),
        "no fixed noise": parts.with_(base="iteration"),
        UNSHARED: parts.with_(),
        "stages 1+3": parts.made(parts.windowed),
        "stage 2": parts.with_(stages="inner", floor=0.0),
    }


def by_adamw(parts: Parts) -> dict[str, Recipe]:
    """The paper's ablations, by its optimiser."""
    made = paper(Parts(parts.with_(**BY_ADAMW), parts.frames))
    return dict(zip(APART_BY_ADAMW, (made[way] for way in PAPER), strict=False))


def what(parts: Parts) -> dict[str, Recipe]:
    """Which part of stage 2 does it: how windows share, or the calls alone."""
    made = {kernel: parts.with_(kernel=kernel) for kernel in WHAT if kernel in KERNELS}
    once, all_of_it = (looks(recipe) for recipe in (parts.made(parts.windowed), parts.with_()))
    ((word, ladder),) = parts.stage["ladder"].items()
    more = {word: {**ladder, "steps": ceil(ladder["steps"] * all_of_it / once)}}
    return {**made, "equal calls": parts.made(parts.windowed, ladder=more)}


def asked(recipe: Recipe) -> dict[str, int]:
    """Frames that each expert of the first stage sees, both branches of guidance counted; at most."""
    first = recipes.checked({**recipes.plain(recipe), "chain": recipes.plain(recipe)["chain"][:1]})
    return {name: count.frames for name, count in dovetail.plan(first).counts.items()}


def looks(recipe: Recipe) -> int:
    """Frames that experts of the first stage see."""
    return sum(asked(recipe).values())


def cheaper(parts: Parts) -> dict[str, Recipe]:
    """What costs less. What this recipe has anyway, as an expert or a guidance of stage 2, is left out; and so are fewer
    looks, and an end to them on the way, where there is one look."""
    ((_, ladder),) = parts.stage["ladder"].items()
    again, looks_again = parts.coupled["again"] or parts.coupled["of"], parts.coupled["iterations"]
    made: dict[str, Plain] = {
        "fewer looks": {"iterations": ceil(looks_again / 2)},
        "alternate steps": {"steps": list(range(1, ladder["steps"] + 1, 2))},
        "wide below": {"wide": parts.coupled["size"] * 3 // 4},
        "unguided again": {"again": guided(again, 1.0)},
    }
    if "small" in parts.experts:
        made["small again"] = {"again": {"expert": "small", "guidance": max(guidances(again), default=1.0)}}
    plain = asked(parts.with_())
    made = {name: words for name, words in made.items() if asked(parts.with_(**words)) != plain}
    made |= {"early stop": {"tolerance": 0.1}} if looks_again > 1 else {}
    together = {k: v for name in ("early stop", "wide below", "unguided again") for k, v in made.get(name, {}).items()}
    made |= {"cheap": together} if together not in made.values() else {}
    made |= {NARROW: {"wide": None}} if parts.coupled["wide"] else {}
    return {name: parts.with_(**words) for name, words in made.items()}


def guided(part: Any, guidance: float) -> Any:
    """A denoiser as plain data, all its experts under this guidance; under 1.0 they have no unconditional passes."""
    if isinstance(part, dict):
        return {key: guidance if key == "guidance" else guided(value, guidance) for key, value in part.items()}
    return part


def guidances(part: Any) -> Iterator[float]:
    """The guidance of each expert in a denoiser as plain data."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if key == "guidance":
            yield value
        yield from guidances(value)


def far(parts: Parts) -> dict[str, Recipe]:
    """Coupling that does not fade with the number of windows."""
    return {
        "anchor": parts.with_(anchor=0.5, keyframes=0.0),
        "keyframes": parts.with_(anchor=0.0, keyframes=0.5),
        "no anchor": parts.with_(anchor=0.0, keyframes=0.0),
    }


def swept(parts: Parts) -> Iterator[tuple[str, Recipe]]:
    """Sensitivity. Values that do not fit this recipe (a floor above its ladder) are left out when they are run."""
    for word, values in SWEEPS.items():
        for value in values:
            if word == "stride" and value > parts.coupled["size"]:
                continue
            kernel = {"kernel": "stein"} if word == "bandwidth" else {}
            yield f"{word} {value:g}", parts.with_(**kernel, **{word: value})
