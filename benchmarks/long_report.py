"""Result lines of long videos to tables and answers, as text."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

from harness import Claim, questions
from long_rows import BESIDE, CLIPS, DECODED, FINISHED
from report import aligned, column, enough, share

from dovetail.eval.stats import Cells, Interval, sign_flip

Lines = Sequence[Mapping[str, Any]]
Rows = Mapping[str, Mapping[tuple[int, int], Mapping[str, Any]]]
Question = tuple[str, list[Claim]]

KEPT = (
    "identity",
    "ground",
    "texture_kept",
    "motion_kept",
    "motion_right",
    "background_sd",
    "background_moved",
    "prompt",
)
DRIFT = ("drift_end", "drift_per_100", "colour_drift", "detail_drift_e3", "consistency", "consistency_16")
MOTION = ("motion", "dynamic_degree", "smoothness", "smoothness_of_motion", "warping_error_e3", "steadiness")
JOINTS = ("seam", "seams", "jumps", "border", "lurch", "leap", "turns", "rhythm")
TENTH = 0.1
"""Of plain concatenation's motion may be lost."""
SHARES = ("identity_whole", "ground_whole", "whole", "no_rhythm")
TABLES = {
    "What keeps, by the oracle": (KEPT, ("identity_whole", "ground_whole", "whole")),
    "What drifts": (DRIFT, ()),
    "What moves": (MOTION, ()),
    "What jumps": (JOINTS, ("no_rhythm",)),
}
ACROSS = (("identity", 1), ("ground", 1))
OWN = (
    (
        "full",
        "no hold",
        (*ACROSS, ("whole", 1), ("background_moved", -1), ("motion", 1)),
        "background across segments, at no loss of motion",
    ),
    (
        "full",
        "colours",
        (*ACROSS, ("whole", 1), ("background_moved", -1), ("motion", 1)),
        "patterns of the background across segments, at no loss of motion",
    ),
    ("full", "no init", ACROSS, "identity and background across segments"),
    (
        "full",
        "no renoising",
        (*ACROSS, ("presence", 1), ("motion_right", 1)),
        "an object that is there, and goes where it is to",
    ),
    (
        "full",
        "one noise",
        (*ACROSS, ("whole", 1), ("motion_right", 1), ("prompt", 1), ("rhythm", -1), ("seams", -1)),
        "ways that are asked for and no rhythm, and what they cost",
    ),
    ("full", "no overlap", (("lurch", -1), *ACROSS), "continuity of motion, change of velocity at borders"),
    ("full", "staggered", (("rhythm", -1), ("seams", -1)), "a rhythm, and borders that are seen"),
    ("paper", "paper, no init", ACROSS, "identity and background across segments"),
    (
        "paper",
        "no guidance",
        (("lurch", -1), ("leap", -1), ("log leap", -1)),
        "continuity of motion: change of velocity at borders, and how far from where it was bound to an object goes on; "
        "as a factor too: leaps are from .1 to 18 pixels, and the longest are most of a mean",
    ),
    ("paper", "no staggering", (("border", -1),), "seams, how far borders stand out"),
    (
        "full",
        "control",
        (*ACROSS, ("whole", 1), ("presence", 1), ("motion_right", 1), ("prompt", 1), ("rhythm", -1), ("seams", -1)),
        "a pair of experts and ten steps, in which windows may agree",
    ),
    (
        "full",
        DECODED,
        (*ACROSS, ("whole", 1), ("background_moved", -1), ("colour_drift", -1), ("motion_right", 1), ("presence", 1)),
        "finished frames held to what stands still in the first ones",
    ),
    (
        "full",
        "paper",
        (*ACROSS, ("lurch", -1), ("border", -1)),
        "what windows that overlap have over the published way",
    ),
)
"""What each strategy is for: the way with it, the way without, measures, each with whether more of it is better."""
GUIDED, CHOSEN = ("paper", "no guidance"), 18
"""The measure `leap` was chosen when prompts 0 to 17 had been seen, so those say less of it."""
LOG = "log "
"""Before a measure: differences of its logarithm, which are factors."""
MARGIN = 0.02
"""Borders may be seen so much more often than other steps are taken for one."""


def report(lines: Lines, long: int, short: int) -> str:
    """All tables and answers of these lines."""
    rows: defaultdict[str, dict[tuple[int, int], Mapping[str, Any]]] = defaultdict(dict)
    for line in lines:
        rows[line["row"]][line["prompt"], line["seed"]] = line
    if not rows:
        return "no results yet\n"
    head = [
        f"ConFiner-Long on sprites, {long} frames, and {short} for the ablations.",
        *(f"Machine: {name}" for name in sorted({line["machine"] for line in lines})),
        "",
        "Means over prompts with 95 % intervals, cluster bootstrap over prompts. Shares of videos: Wilson. Measures are",
        "those of docs/evaluation.md, _e3: in thousandths. border (how far a border stands out), lurch and leap are taken at",
        "the ends of segments, which all ways have in common; seam, seams, jumps and turns at a way's own borders: where",
        "its windows take turns, or, averaged, begin and end.",
    ]
    names = sorted(rows, key=lambda name: (-int(name.rpartition(" ")[2]), not name.startswith("renderer")))
    if f"{DECODED} {long}" in rows:
        head += [
            f"full is the recipe, whose finished frames are held to what stands still in the first ones. '{DECODED}' is the",
            f"same without, and all rows but full, '{CLIPS}' and those that say held are as decoded; what they are compared with is, too.",
        ]
    parts = ["\n".join(head)]
    parts += [table(title, {name: rows[name] for name in names}, *columns) for title, columns in TABLES.items()]
    return "\n\n".join([*parts, answers(rows, long, short)]) + "\n"


def table(title: str, rows: Rows, means: Sequence[str], shares: Sequence[str]) -> str:
    """A row per way, over that way's own prompts."""
    out = [["", "n", *means, *shares]]
    for name, row in rows.items():
        found = {measure: column(row, measure) for measure in (*means, *shares)}
        cells = [str(Cells.of({"": found[m]}).mean("")) if found[m] else "-" for m in means]
        out.append([name, str(len(row)), *cells, *(str(share(found[m])) if found[m] else "-" for m in shares)])
    return title + "\n" + aligned(out)


def answers(rows: Rows, long: int, short: int) -> str:
    """The questions, each where the rows that it needs have results."""
    asked = [*staying(rows, long), *going_on(rows, long), *strategies(rows, long, short)]
    guided = {
        f"{way} {short}": {cell: line for cell, line in rows.get(f"{way} {short}", {}).items() if cell[0] >= CHOSEN}
        for way in GUIDED
    }
    if all(guided.values()):
        title = f"And guidance over prompts {CHOSEN} and up alone, as the measure was chosen on those before?"
        asked.append((title, [needed(guided, *guided, f"{LOG}leap", -1)]))
    return questions(asked, "Questions. p: sign flips of prompts' differences, Holm over all {n} tests below.")


def staying(rows: Rows, long: int) -> list[Question]:
    """What the recipe keeps over the whole video, and whether its windows are seen."""
    full = f"full {long}"
    if full not in rows:
        return []
    calm = [counted(rows, full, "no_rhythm", 0.90, "no rhythm")]
    calm += beside(rows, "no_rhythm", "no rhythm", *(f"{way} {long}" for way in ("renderer", *BESIDE, "plain")))
    others = (DECODED, *(f"{way}{FINISHED}" for way in BESIDE), *BESIDE, "plain")
    return [
        (
            "Are identity and background kept over the whole video in 95 % of videos?",
            whole(rows, full, *(f"{way} {long}" for way in others)),
        ),
        ("Is there no rhythm (z < 4) in 90 % of videos?", calm),
        ("Are borders seen no more often than other steps are taken for one?", [unseen(rows, full)]),
    ]


def going_on(rows: Rows, long: int) -> list[Question]:
    """Drift and motion beside baselines, as decoded; motion of held frames beside that of held clips."""
    full, plain, free, clips = (f"{way} {long}" for way in ("full", "plain", "freenoise", CLIPS))
    own, moves = bare(rows, long), ("dynamic_degree", "motion")
    asked: list[Question] = []
    if {own, plain} <= rows.keys():
        title = "Is the drift at the end at most half of plain concatenation's?"
        asked.append((title, halved(rows, own, plain, long)))
        title = "Does it move no less than single clips, which plain concatenation is made of?"
        asked.append((title, [atleast(rows, own, plain, measure) for measure in moves]))
        title = "And where its frames are held, no less than clips whose frames are held?"
        asked += [(title, [atleast(rows, full, clips, measure) for measure in moves])] if clips in rows else []
        ways = [way for way in (own, *(f"{way} {long}" for way in BESIDE)) if values(rows.get(way, {}), "motion_right")]
        title = "Does what moves go the way that was asked for as often as in single clips?"
        asked += [(title, [atleast(rows, way, plain, "motion_right", way) for way in ways])] if ways else []
    if {own, free} <= rows.keys():
        asked.append(("Is the drift at the end at most FreeNoise's?", [atmost(rows, own, free, "drift_end")]))
    return asked


def strategies(rows: Rows, long: int, short: int) -> list[Question]:
    """What each strategy is for, with it and without, over the shorter length where both have it."""
    asked = []
    for base, way, measured, words in OWN:
        pairs = {n: (alike(rows, base, way, n), alike(rows, way, base, n)) for n in (short, long)}
        frames = next((n for n, pair in pairs.items() if set(pair) <= rows.keys()), None)
        if frames:
            one, other = pairs[frames]
            claims = [
                needed(rows, one, other, measure, sign)
                for measure, sign in measured
                if values(rows[one], measure).keys() & values(rows[other], measure).keys()
            ]
            named = [name.rpartition(" ")[0] for name in (one, other)]
            asked.append((f"Does '{named[0]}' need what '{named[1]}' lacks, over {frames} frames? ({words})", claims))
    return asked


def bare(rows: Rows, frames: int) -> str:
    """The recipe as other rows are to be compared with it: as decoded, where it holds its finished frames."""
    return found if (found := f"{DECODED} {frames}") in rows else f"full {frames}"


def alike(rows: Rows, way: str, other: str, frames: int) -> str:
    """The row of a way, for a comparison with another."""
    return bare(rows, frames) if way == "full" and other != DECODED else f"{way} {frames}"


def paired(rows: Rows, measure: str, *names: str) -> Cells:
    return Cells.of({name: values(rows[name], measure) for name in names})


def values(row: Mapping[tuple[int, int], Mapping[str, Any]], measure: str) -> dict[tuple[int, int], float]:
    """A row's numbers; of `LOG` and a name the natural logarithms of that one's."""
    plain = measure.removeprefix(LOG)
    found = column(row, plain)
    return found if plain == measure else {cell: log(value) for cell, value in found.items() if value > 0}


def counted(rows: Rows, name: str, measure: str, target: float, words: str) -> Claim:
    """Whether a share of videos reaches its target."""
    found = share(column(rows[name], measure))
    reached = "yes" if found.low >= target else "no" if found.high < target else "undecided"
    if reached == "undecided":
        reached += ", though the share is reached" if found.value >= target else ", the share is not reached"
    return Claim(f"{words}, {name}: {found} of {len(rows[name])} videos, target {target:.2f}", reached)


def whole(rows: Rows, full: str, *others: str) -> list[Claim]:
    """What is kept from the first window to the last."""
    words = {"whole": "both", "identity_whole": "identity", "ground_whole": "background"}
    claims = [counted(rows, full, measure, 0.95, word) for measure, word in words.items()]
    return claims + beside(rows, "whole", "both", *others)


def beside(rows: Rows, measure: str, words: str, *others: str) -> list[Claim]:
    """The same share in other rows, without a verdict."""
    return [
        Claim(f"{words}, {other}: {share(column(rows[other], measure))} of {len(rows[other])} videos", "beside it")
        for other in others
        if other in rows
    ]


def unseen(rows: Rows, full: str) -> Claim:
    """Borders that stand out, and other steps that do."""
    cells = Cells.of({measure: column(rows[full], measure) for measure in ("seams", "jumps")})
    found = cells.difference("seams", "jumps")
    verdict = "yes" if found.high <= MARGIN else "no" if found.low > MARGIN else "undecided"
    text = f"share of borders {cells.mean('seams')}, of other steps {cells.mean('jumps')}, difference {found}"
    return Claim(f"{text}, margin {MARGIN}", enough(cells, verdict))


def halved(rows: Rows, full: str, plain: str, long: int) -> list[Claim]:
    """Drift, as it is, and beyond that of the world itself, whose objects move away from where they were."""
    claims = []
    for measure in ("drift_end", "colour_drift", "background_moved"):
        cells = paired(rows, measure, full, plain)
        found = cells.interval(lambda m: m[..., 0] - m[..., 1] / 2)
        text = f"{measure}: {cells.mean(full)} against {cells.mean(plain)}; less half of that {found}"
        claims.append(Claim(text, enough(cells, below(found))))
    world = f"renderer {long}"
    if world in rows:
        cells = paired(rows, "drift_end", full, plain, world)
        found = cells.interval(lambda m: (m[..., 0] - m[..., 2]) - (m[..., 1] - m[..., 2]) / 2)
        text = f"drift_end beyond the world's own {cells.mean(world)}: full less half of plain {found}"
        claims.append(Claim(text, enough(cells, below(found))))
    return claims


def below(found: Interval) -> str:
    return "yes" if found.high <= 0 else "no" if found.low > 0 else "undecided"


def atmost(rows: Rows, one: str, other: str, measure: str) -> Claim:
    cells = paired(rows, measure, one, other)
    found = cells.difference(one, other)
    return Claim(
        f"{measure}: difference {found}",
        enough(cells, below(found)),
        sign_flip(cells.differences(one, other)),
        bound=True,
    )


def atleast(rows: Rows, one: str, other: str, measure: str, said: str = "") -> Claim:
    """Not lower, to a tenth of the other's: the whole interval lies above that. said: what stands before."""
    cells = paired(rows, measure, one, other)
    found, margin = cells.difference(one, other), TENTH * cells.mean(other).value
    verdict = "yes" if found.low >= -margin else "no, lower" if found.high < 0 else "undecided"
    text = f"{said} {measure}: {cells.mean(one)} against {cells.mean(other)}, difference {found}, margin {margin:.3f}"
    return Claim(text.strip(), enough(cells, verdict), sign_flip(cells.differences(one, other)), bound=True)


def needed(rows: Rows, full: str, lacking: str, measure: str, sign: int) -> Claim:
    """Whether a strategy's own measure is worse without it."""
    cells = paired(rows, measure, full, lacking)
    found = cells.difference(full, lacking)
    better, worse = (found.low > 0, found.high < 0) if sign > 0 else (found.high < 0, found.low > 0)
    verdict = "yes" if better else "no, it is better without" if worse else "no difference seen"
    each = [sign * d for d in cells.differences(full, lacking)]
    said = f"{measure}: with - without {found}"
    if measure.startswith(LOG):
        factor = Interval(*(exp(value) for value in (found.value, found.low, found.high)))
        said = f"{measure.removeprefix(LOG)}: with / without {factor}"
    text = f"{said}, {sum(d > 0 for d in each)} prompts better and {sum(d < 0 for d in each)} worse"
    return Claim(text, enough(cells, verdict), sign_flip(each))
