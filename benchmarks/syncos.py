"""Stories of sprites: SynCoS beside Gen-L-Video, FlowLong-style noise and prompts that are switched, and taken apart.

    python benchmarks/syncos.py run --experts trained --budget 90 --part 0/2 --threads 1
    python benchmarks/syncos.py report --experts trained

`run` adds one JSON line per way and story to benchmarks/results/syncos-EXPERTS.jsonl, and never makes a line twice, so it
may be killed and started again; a changed recipe, changed weights or changed measures are new lines. Parts share a file.
`report` writes tables and answers beside it as text, and what is swept as a picture. A story is a scene that training
never draws, some of its attributes free, and three or four motions of its object, one after another. Noise is the same for
all ways of a story. `--turned 8` tells so many stories besides in which each event has a background of its own, as day and night
have. `--only full gen-l-video` makes ways by name, at all their lengths. Rows that
vary stage 2 vary the recipe's own; where that has none they have four looks again at a level, as the row 'four looks'.
"""

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean
from time import monotonic, perf_counter, process_time
from typing import Any

import torch
from harness import HELD, add, arguments, key, mend, mine, must_be_rows, opened, part_of, read, told, weights_of
from machine import machine
from syncos_plots import plots
from syncos_report import report
from syncos_rows import (
    BASELINES,
    FAR,
    FIFO,
    GEN_L,
    HOLDS,
    LENGTHS,
    MAIN,
    SECOND,
    STILLS,
    TOLD,
    TURNED,
    TURNING,
    UNSHARED,
    Parts,
    guidances,
    rows,
)
from torch import Tensor

from dovetail import recipe as recipes
from dovetail import run
from dovetail.core.noise import Noise
from dovetail.errors import DovetailError, PromptWarning, StepsWarning, StoryWarning
from dovetail.eval.kept import kept
from dovetail.eval.long import measures
from dovetail.eval.series import follow
from dovetail.experts.diagonal import Diagonal
from dovetail.methods.fifo import Look, fifo
from dovetail.recipe import Recipe
from dovetail.recipe.build import told_over
from dovetail.run import playing
from dovetail.run.decoding import Clock
from dovetail.run.events import Latent
from dovetail.run.states import Standing
from dovetail.sprites import oracle
from dovetail.sprites.exact import Exact
from dovetail.sprites.world import (
    BACKGROUNDS,
    DIRECTIONS,
    MOTIONS,
    PATTERNS,
    Ask,
    Dice,
    Scene,
    caption,
    imagine,
    render,
)

RECIPES = {"trained": "sprites-story", "exact": "sprites-syncos-exact"}
SIZES = {"trained": (96, (64, 96, 128, 256)), "exact": (MAIN, LENGTHS)}
"""Frames of the tables that ship, and those over which they compare length."""
FIRST = HELD + 70_000
"""Scenes of other seeds than those of other benchmarks."""
MEASURES = 4
"""To be raised when measures change, so that results are made anew."""
REFERENCE = "renderer"
"""The world itself: each event of the story, drawn, at one look."""
NEAR = 4
"""A switch so many frames from where it was asked for is in time."""
CLIP = 16
OPPOSITE = ({"left", "right"}, {"up", "down"})


@dataclass(frozen=True)
class Tale:
    """One story; every way is told the same."""

    number: int

    @property
    def scene(self) -> Scene:
        return imagine(Ask(), FIRST + self.number)

    @property
    def asked(self) -> Ask:
        """What all events share: the scene's look without some of it, one attribute of it at least."""
        found = opened(self.scene.ask, 7000 * self.number)
        return replace(found, motion=None, **({"background": None, "pattern": None} if self.places else {}))

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """The background and pattern of each event, where these are to change: no colour twice in a row."""
        if self.number < TURNING:
            return ()
        dice, found = Dice(FIRST + self.number + 1), list[tuple[str, str]]()
        for _ in self.motions:
            others = [name for name in BACKGROUNDS if not found or name != found[-1][0]]
            found.append((dice.pick(others), dice.pick(PATTERNS)))
        return tuple(found)

    @property
    def events(self) -> list[Ask]:
        """All that is asked of each event."""
        told = self.places or [(self.asked.background, self.asked.pattern)] * len(self.motions)
        return [
            replace(self.asked, motion=motion, background=background, pattern=pattern)
            for motion, (background, pattern) in zip(self.motions, told, strict=True)
        ]

    @property
    def motions(self) -> tuple[str, ...]:
        """Three or four motions, no two alike in a row. Every second story turns right round at least once."""
        dice = Dice(FIRST + self.number)
        found = [dice.pick(tuple(DIRECTIONS))]
        if self.number % 2:
            found.append(next(iter(pair - {found[0]} for pair in OPPOSITE if found[0] in pair)).pop())
        while len(found) < 3 + dice.chance(0.5):
            found.append(dice.pick([motion for motion in MOTIONS if motion != found[-1]]))
        return tuple(found)

    @property
    def distance(self) -> float:
        """Share of the changes that contradict what was before."""
        return fmean(float({a, b} in OPPOSITE) for a, b in pairwise(self.motions))

    def starts(self, frames: int) -> list[int]:
        """Where events begin: evenly."""
        return [round(i * frames / len(self.motions)) for i in range(len(self.motions))]


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, RECIPES, 40, "core-minutes, after which no new video is begun")
    parser.add_argument("--recipe", help="another recipe whose first stage is coupled")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="any value of the recipe")
    parser.add_argument("--main", type=int, help="frames of the tables, by default those of the results that ship")
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="frames over which length is compared, by default theirs"
    )
    parser.add_argument("--turned", type=int, default=0, help="stories whose backgrounds are to change")
    parser.add_argument("--out", metavar="NAME", help="name of the report beside the results, by default theirs")
    args = parser.parse_args(argv)
    frames, over = SIZES[args.experts]
    args.main, args.lengths = args.main or frames, args.lengths or over
    part = part_of(args)
    base = recipes.changed(recipes.load(args.recipe or RECIPES[args.experts]), args.set)
    made = rows(base, args.main, tuple(args.lengths))
    known = keys(made, (args.main, *args.lengths))
    must_be_rows(parser, args.only, [*known, *map(way_of, known)])
    file = args.results / f"syncos-{args.experts}.jsonl"
    if args.verb == "run":
        args.results.mkdir(parents=True, exist_ok=True)
        numbers = [*range(args.prompts), *range(TURNING, TURNING + args.turned)]
        tales = [Tale(p) for p in numbers if mine(p, part)]
        play(made, known, list(wanted(tales, list(known), args.only, args.main)), file, args.budget * 60)
    first = first_stage(base)
    lines = [told_again(line, first) for line in read(file) if line["key"] == known.get(line["row"])]
    if not lines:
        print(f"no results of this recipe in {file}, and none to report; what stands beside it stays")
        return
    parts, lengths = Parts(base, args.main), sorted({*args.lengths})
    text = report(lines, args.experts, args.main, lengths, parts.method, parts.is_flowlong)
    out = file.with_stem(args.out or file.stem)
    out.with_suffix(".txt").write_text(text, encoding="utf-8")
    if (picture := plots(lines, args.main, lengths)) is not None:
        picture.save(out.with_suffix(".png"))
    print(text)


def keys(made: dict[str, Recipe], lengths: Sequence[int]) -> dict[str, str]:
    """For each row, what its results depend on: its recipe and name, the packaged weights, the measures. FIFO's is the
    baseline's whose windows are as long as its clips."""
    whole = {f"{FIFO} {frames}": made[f"{GEN_L} {frames}"] for frames in sorted({*lengths})} | made
    texts = {f"{REFERENCE} {frames}": f"{MEASURES} {frames}" for frames in sorted({*lengths})}
    texts |= {name: f"{MEASURES} {name} {weights_of(recipe)} {told(recipe)}" for name, recipe in whole.items()}
    return {name: key(text) for name, text in texts.items()}


def wanted(
    tales: Sequence[Tale], names: Sequence[str], only: Sequence[str] | None, main: int
) -> Iterator[tuple[Tale, str]]:
    """What to make, in order, so that a run that ends anywhere leaves balanced tables: first the method and its
    baselines at all lengths for all stories, then all else."""
    first = [
        name
        for name in names
        if way_of(name) in ("full", SECOND, *BASELINES, FIFO, *TOLD, *HOLDS, *STILLS, *FAR, REFERENCE)
    ]
    rest = [name for name in names if name not in first]
    for some in (first, rest):
        for tale in tales:
            for name in some:
                if tale.places and not (way_of(name) in (*TURNED, REFERENCE) and frames_of(name) == main):
                    continue
                if only is None or way_of(name) in only or name in only:
                    yield tale, name


def way_of(name: str) -> str:
    return name.rpartition(" ")[0]


def frames_of(name: str) -> int:
    return int(name.rpartition(" ")[2])


def play(
    made: dict[str, Recipe], known: dict[str, str], asked: Sequence[tuple[Tale, str]], file: Path, budget: float
) -> None:
    """Make what is missing, until the budget is spent. A way that does not fit the recipe is said and left out."""
    spent, begun = process_time(), monotonic()
    there = {(line["row"], line["key"], line["prompt"]): line for line in read(file)}
    twins = twins_of(made)
    todo = [(tale, name) for tale, name in asked if (name, known[name], tale.number) not in there]
    base = next(iter(made.values()))
    exact = "exact" in {spec.family for spec in base.experts.values()}
    cast, last = run.load(base), -1
    mend(file)
    for done, (tale, name) in enumerate(todo):
        if process_time() - spent > budget:
            print(f"budget spent: {done} of {len(todo)} videos made; run again to go on", flush=True)
            return
        if exact and tale.number != last:
            # Exact experts keep the candidates of the texts they were asked for last.
            cast, last = run.load(base), tale.number
        said = {"row": name, "key": known[name], "prompt": tale.number}
        told_before = ((twin, known[twin], tale.number) for twin in twins.get(name, ()))
        line = next((there[place] | said for place in told_before if place in there), None)
        try:
            if line is None:
                result = result_of(name, made, tale, cast)
                line = {**said, "seed": 0, "distance": tale.distance, **result, "machine": machine()}
        except DovetailError as error:
            print(f"{name} is left out: {error}", flush=True)
            continue
        there[name, known[name], tale.number] = line
        add(file, line)
        print(f"{done + 1}/{len(todo)}  {(monotonic() - begun) / 60:.1f} min  {name}, {tale}", flush=True)


def twins_of(made: Mapping[str, Recipe]) -> dict[str, list[str]]:
    """For each row the others that make the same videos: a value that is swept may be the recipe's own."""
    same: defaultdict[tuple[str, bool], list[str]] = defaultdict(list)
    for name, recipe in made.items():
        same[told(recipe), way_of(name).startswith(UNSHARED)].append(name)
    return {name: [other for other in names if other != name] for names in same.values() for name in names}


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings of what a story leaves open, and of stages without those before, which is the benchmark's matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        warnings.simplefilter("ignore", StoryWarning)
        warnings.simplefilter("ignore", StepsWarning)
        yield


def result_of(name: str, made: Mapping[str, Recipe], tale: Tale, cast: run.Cast) -> dict[str, Any]:
    """A row's video of a story, measured."""
    if way_of(name) == REFERENCE:
        return reference(name, tale)
    if way_of(name) == FIFO:
        return queued(made[f"{GEN_L} {frames_of(name)}"], tale, cast)
    return one(made[name], tale, cast, way_of(name))


def one(recipe: Recipe, tale: Tale, cast: run.Cast, way: str) -> dict[str, Any]:
    """A way's video of a story, measured."""
    asked, frames = tell(recipe, tale, way), recipe.video.frames
    with quiet():
        planned = run.plan(asked)
        video = run.finished(run.play(asked, cast))
    facts = {name: video.settings[name] for name in ("calls", "seconds", "seconds_in_networks")}
    looks = {name: planned.passes(name) for name in planned.counts}
    return {**measured(video.pixels[0], tale, frames), "planned": looks, **facts}


@torch.no_grad()
def queued(recipe: Recipe, tale: Tale, cast: run.Cast) -> dict[str, Any]:
    """FIFO-Diffusion's video of a story: a queue of two clips over an expert of the baseline's windows, then the stages
    after these."""
    # Its frames are not at one level, and none is between two events.
    asked, frames = recipes.changed(tell(recipe, tale, FIFO), {"story.fade": None}), recipe.video.frames
    data = recipes.plain(asked)
    ((ladder, options),) = data["chain"][0]["ladder"].items()
    size = data["chain"][0]["denoise"]["windowed"]["size"]
    with quiet():
        (stage, *_) = run.plan(
            recipes.changed(asked, {"chain.0.ladder": {ladder: {**options, "steps": 2 * size}}})
        ).stages
    name, look, each = asked_by_frame(asked, cast)
    clips = list[int]()

    def counted(x: Tensor, t: Tensor, shown: Tensor) -> Tensor:
        clips.append(each * len(x))
        return look(x, t, shown)

    begun, side = perf_counter(), (asked.video.height // cast.codec.factor, asked.video.width // cast.codec.factor)
    noise, shape = Noise(tale.number).of(stage.name), (cast.codec.channels, *side)
    queue = fifo(counted, noise, stage.ladder.levels, size, shape)
    latent, calls = torch.cat(list(islice(queue, frames)), 2), {name: len(clips)}
    planned = {name: sum(clips) * size / frames}
    with quiet():
        if data["chain"][1:]:
            after = recipes.checked({**data, "chain": data["chain"][1:]})
            latent, more = finished_after(after, latent, cast)
            calls, planned = calls | more, planned | {name: run.plan(after).passes(name) for name in more}
        video = cast.codec.decode(latent)[0]
    cost = {"calls": calls, "planned": planned}
    return {**measured(video, tale, frames), **cost, "seconds": perf_counter() - begun}


def asked_by_frame(recipe: Recipe, cast: run.Cast) -> tuple[str, Look, int]:
    """The expert that is asked a noise share for each frame, and how many looks each is: the exact one, or the first of
    those that the windows blend, under their guidance, since one clip lies on both sides of what parts them."""
    story, name = told_over(recipe, recipe.video.frames), next(iter(recipe.experts))
    network = cast.experts[name].network
    if isinstance(network, Exact):
        return name, lambda x, t, shown: network.expect(x, t, [story.at(row) for row in shown]), 1
    guidance = max(guidances(recipes.plain(recipe)["chain"][0]["denoise"]), default=1.0)
    return name, Diagonal(cast.experts[name], story, guidance), 1 if guidance == 1.0 else 2


def finished_after(recipe: Recipe, latent: Tensor, cast: run.Cast) -> tuple[Tensor, dict[str, int]]:
    """The recipe's stages over a latent, without leaving it, and how often they asked each expert."""
    ready = replace(playing.ready(recipe, cast, quiet=True), given=latent)
    pieces = [event for event in ready.walk(Standing(), Clock()) if isinstance(event, Latent)]
    return torch.cat([piece.latent for piece in pieces], 2), dict(pieces[-1].after.calls)


def tell(recipe: Recipe, tale: Tale, way: str) -> Recipe:
    """The recipe with the story in it, told to frames or windows as the recipe's own is; without shared text, each event
    is all that is heard."""
    starts = tale.starts(recipe.video.frames)
    places = [f"on a {' '.join(place)} background, " for place in tale.places] or [""] * len(starts)
    events = [
        {"at": f"{at}f", "text": f"{place}it {MOTIONS[motion][1]}"}
        for at, place, motion in zip(starts, places, tale.motions, strict=True)
    ]
    shared = "" if way.startswith(UNSHARED) else caption(tale.asked)
    # A window in whose very middle an event begins is asked for both.
    how = {"by": "frame"} if recipe.story is not None and recipe.story.by == "frame" else {"fade": "1f"}
    return recipes.changed(recipe, {"prompt": shared, "story": {"events": events, **how}, "video.seed": tale.number})


def reference(name: str, tale: Tale) -> dict[str, Any]:
    """The world itself, event after event."""
    frames = frames_of(name)
    return {**measured(told_by_the_world(tale, frames), tale, frames), "seconds": 0.0}


def told_by_the_world(tale: Tale, frames: int) -> Tensor:
    """A scene for each motion, over one background."""
    starts = tale.starts(frames)
    own = tale.scene.ask
    told = tale.places or [(own.background, own.pattern)] * len(starts)
    asks = [
        replace(own, motion=motion, background=background, pattern=pattern)
        for motion, (background, pattern) in zip(tale.motions, told, strict=True)
    ]
    scenes_ = [imagine(ask, FIRST + tale.number) for ask in asks]
    spans = zip(scenes_, starts, [*starts[1:], frames], strict=True)
    return torch.cat([render(replace(scene, shift=scenes_[0].shift), range(at, end)) for scene, at, end in spans])


def measured(video: Tensor, tale: Tale, frames: int) -> dict[str, Any]:
    """Scores, and the motions seen, so that what is said of these can be asked again without the video."""
    seen = oracle.events(video)
    return {"scores": scores(video, tale, frames) | in_order(seen, tale, frames), "seen": seen}


@torch.no_grad()
def scores(video: Tensor, tale: Tale, frames: int) -> dict[str, float]:
    """What is measured of a story, but for the order of what happens in it.

    event_prompt, event_motion, event_ground: what is right of each event's middle, mean over events; shared_prompt: of the text that
    all share, over the whole. scenes: runs of windows of one object and background. The rest: dovetail.eval.
    """
    asked, starts = tale.asked, tale.starts(frames)
    found = measures(follow([video]), []).scores() | kept([video], asked).scores()
    middles = [middle(video, at, end) for at, end in zip(starts, [*starts[1:], frames], strict=True)]
    verdicts = [oracle.judge(part, event) for part, event in zip(middles, tale.events, strict=True)]
    found["event_prompt"] = fmean(verdict.prompt for verdict in verdicts)
    if tale.places:
        found["event_ground"] = fmean(float(verdict.right["background"]) for verdict in verdicts)
    found["event_motion"] = fmean(float(verdict.right["motion"]) for verdict in verdicts)
    found["shared_prompt"] = found.pop("prompt")
    found["scenes"] = float(scenes([oracle.judge(part, asked).found for part in video.split(CLIP)]))
    found["whole"] = found["identity_whole"] * found["ground_whole"]
    return found


def in_order(seen: Sequence[tuple[int, str]], tale: Tale, frames: int) -> dict[str, float]:
    """What is said of the motions seen.

    events: how nearly they are those that were asked for, in their order, and no others, 1 less the edit distance as a
    share of the longer list; order: whether they are. turns, in_turn: the same but for `settled` changes. late: how many
    frames from where it was asked for a change comes, mean over changes, if they are in turn; in_time: whether all come
    within four.
    """
    starts, left = tale.starts(frames)[1:], settled(seen, tale.starts(frames)[1:], frames)
    events, turns = (alike([motion for _, motion in each], tale.motions) for each in (seen, left))
    found = {"events": events, "order": float(events == 1), "turns": turns, "in_turn": float(turns == 1)}
    if found["in_turn"]:
        late = [abs(at - start) for (at, _), start in zip(left[1:], starts, strict=True)]
        found |= {"late": fmean(late), "in_time": float(max(late) <= NEAR)}
    return found


def first_stage(recipe: Recipe) -> frozenset[str]:
    """The experts that the first stage alone asks: what a way to tell a story costs without what all have in common."""
    data = recipes.plain(recipe)
    with quiet():
        own, *rest = (run.plan(recipes.checked({**data, "chain": [stage]})).counts for stage in data["chain"])
    return frozenset(own).difference(*rest)


def told_again(line: dict[str, Any], first: Collection[str] = ()) -> dict[str, Any]:
    """A result line with what is said now of its motions, where it keeps these, and with its first stage's looks."""
    if "planned" in line:
        line = line | {"first": sum(line["planned"].get(name, 0.0) for name in first)}
    if "seen" not in line:
        return line
    again = in_order(line["seen"], Tale(line["prompt"]), frames_of(line["row"]))
    return line | {"scores": line["scores"] | again}


def settled(seen: Sequence[tuple[int, str]], changes: Sequence[int], frames: int) -> list[tuple[int, str]]:
    """The motions seen, (first frame, motion), without those that begin and end within four frames of one place where a
    change was asked for: an object that is to go another way has to get to its lane first (decision 20), and four
    frames are what a change may be late.

    >>> settled([(0, "left"), (21, "down"), (26, "up"), (50, "right")], [24], 72)
    [(0, 'left'), (26, 'up'), (50, 'right')]
    """
    stops = [at for at, _ in seen[1:]] + [frames]
    passing = [
        any(change - NEAR <= at < stop <= change + NEAR for change in changes)
        for (at, _), stop in zip(seen, stops, strict=True)
    ]
    left = [one for one, passes in zip(seen, passing, strict=True) if not passes]
    return [one for i, one in enumerate(left) if i == 0 or one[1] != left[i - 1][1]]


def alike(seen: Sequence[str], asked: Sequence[str]) -> float:
    """1 for the same words in the same order, less the edits that make one list the other, as a share of the longer.

    >>> alike(["up", "still", "left"], ["up", "left"])
    0.6666666666666667
    """
    edits = list(range(len(asked) + 1))
    for i, one in enumerate(seen, 1):
        row = [i]
        for j, other in enumerate(asked, 1):
            row.append(min(edits[j] + 1, row[-1] + 1, edits[j - 1] + (one != other)))
        edits = row
    return 1 - edits[-1] / max(len(seen), len(asked))


def middle(video: Tensor, start: int, end: int) -> Tensor:
    """A clip's length around the middle of an event, or all of it if it is shorter."""
    first = max(start, (start + end - CLIP) // 2)
    return video[first : min(end, first + CLIP)]


def scenes(windows: Sequence[Ask]) -> int:
    """How many times in a row one (colour, shape, background, pattern) is seen."""
    looks = [(a.colour, a.shape, a.background, a.pattern) for a in windows]
    return 1 + sum(a != b for a, b in pairwise(looks))


if __name__ == "__main__":
    main()
