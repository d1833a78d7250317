"""Result lines of stories to tables and answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from harness import Claim, questions
from long_report import counted, paired, table
from report import aligned, column, enough
from syncos_rows import (
    ADAMW,
    AGAIN,
    ALIKE_STILL,
    APART_BY_ADAMW,
    AUTO,
    BASELINES,
    BY_FRAME,
    COSTS,
    DECODED,
    FAR,
    FIFO,
    FLOWLONG,
    GEN_L,
    HOLDS,
    PAPER,
    PUBLISHED,
    RENOISED,
    SECOND,
    STILLS,
    SWEEPS,
    TOLD,
    TURNED,
    TURNING,
    WHAT,
)

from dovetail.eval.stats import Cells, sign_flip

Lines = Sequence[Mapping[str, Any]]
Row = Mapping[tuple[int, int], Mapping[str, Any]]
Rows = Mapping[str, Row]

STORY = (
    ("late", "events", "turns", "event_prompt", "event_motion", "shared_prompt", "scenes"),
    ("order", "in_turn", "in_time"),
)
KEPT = (("identity", "ground", "texture_kept", "background_sd", "background_moved"), ("identity_whole", "ground_whole"))
LOOKS = (("consistency", "drift_end", "motion", "dynamic_degree", "smoothness_of_motion", "presence", "single"), ())
TABLES = {"The story, by the oracle": STORY, "What keeps over the whole video": KEPT, "What else is seen": LOOKS}
SHORT = (("identity", "ground", "events", "event_prompt", "event_motion", "scenes"), ("order", "in_turn", "whole"))
TURNS = (("event_ground", "identity", "events", "event_prompt", "event_motion"), ("in_turn",))
GROUPS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "What the recipe's look again does": ((), AGAIN),
    "What costs less": ((GEN_L,), COSTS),
    "What is found on the way": ((), AUTO),
    "Who is told": ((), TOLD),
    "What is held": ((), HOLDS),
    "What finished frames are held to": ((), STILLS),
    "What does not fade": ((), FAR),
}
"""Each table's rows: those that are there to compare, besides the method, and those without which there is no table."""
APART: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "The paper's method, taken apart": ((PUBLISHED,), PAPER),
    "The same by the published optimiser": ((ADAMW,), APART_BY_ADAMW),
    "The paper's optimiser, and Picard in its place": ((PUBLISHED, GEN_L, FLOWLONG), (ADAMW,)),
    "What the paper's stage 2 does": ((PUBLISHED, GEN_L, FLOWLONG), WHAT),
}
"""The same of the paper's method, beside that."""
SAME = ", of the stories that all these were told"
SWEPT = ("identity", "ground", "event_prompt", "order")
COST = 1.3
"""Looks, calls and seconds, as a multiple of Gen-L-Video's, at most."""
PAID: Mapping[str, str] = {
    "looks": "planned",
    "looks of the first stage": "first",
    "calls": "calls",
    "seconds": "seconds",
}
"""What is paid, and where a line has it. Stages after the first are the same for all ways."""
MARGIN = 0.05
"""The recipe may keep identity and background in so much less of a video than it does with as many looks as the method."""


def report(
    lines: Lines, experts: str, main: int, lengths: Sequence[int], method: str = "full", same: bool = False
) -> str:
    """All tables and answers of these lines. method: the row that rows which vary stage 2 vary: the recipe itself, or
    where that has no stage 2, four looks. same: the recipe is FlowLong's way by construction."""
    rows = gathered([line for line in lines if line["prompt"] < TURNING])
    turned = gathered([line for line in lines if line["prompt"] >= TURNING])
    if not rows:
        return "no results yet\n"
    first = [f"{way} {main}" for way in ("renderer", *named(method), *BASELINES, FIFO)]
    parts = [head(lines, experts, main, lengths, method)]
    parts += [table(title, some(rows, first), *columns) for title, columns in TABLES.items()]
    varied = {title: ((*named(method), *beside), ways) for title, (beside, ways) in GROUPS.items()}
    for title, (beside, ways) in {**APART, **varied}.items():
        if some(rows, [f"{way} {main}" for way in ways if way not in beside]):
            shown = dict.fromkeys((*beside, *ways))
            parts.append(table(f"{title}{SAME}", in_common(rows, [f"{way} {main}" for way in shown]), *SHORT))
    long = some(rows, by_length(lengths))
    if len({name.rpartition(" ")[2] for name in long}) > 1:
        parts.append(table("Length", long, *SHORT))
    parts += [swept(rows, word, main, method) for word in SWEEPS if some(rows, sweep(word, main))]
    if shown := in_common(turned, [f"{way} {main}" for way in ("renderer", *TURNED)]):
        parts.append(table(f"Backgrounds that are to change, event by event{SAME}", shown, *TURNS))
    said = answers(rows, main, lengths, method, same, turned)
    return "\n\n".join([*parts, costs(rows, main, lengths), said]) + "\n"


def head(lines: Lines, experts: str, main: int, lengths: Sequence[int], method: str) -> str:
    """What has been run, on what, and how to read it."""
    kind = "trained networks" if experts == "trained" else "EXACT experts: closed-form denoisers, nothing trained"
    said = [
        f"Stories of sprites: {main} frames, and {', '.join(map(str, lengths))} where length is compared. Experts: {kind}.",
        *(f"Machine: {name}" for name in sorted({line["machine"] for line in lines})),
        "",
        "Means over stories with 95 % intervals, cluster bootstrap. Shares of stories: Wilson. order: the motions that were",
        "asked for are seen one after another, and no others; in_turn: others only within four frames of where a change was",
        "asked for, as an object has to get from lane to lane. events, turns: the same, but for edits: 1 less the edit",
        "distance as a share of the longer list. late: frames, of stories in turn. Measures are those of",
        "benchmarks/syncos.py and docs/evaluation.md.",
    ]
    if any(line["row"].startswith(DECODED) for line in lines):
        said += [
            f"full is the recipe, whose finished frames are held to what stands still in the first ones. '{DECODED}' is the",
            f"same without, and all rows but full and '{ALIKE_STILL}' are as decoded.",
        ]
    if method not in ("full", DECODED):
        said += [
            f"full is the recipe, which has no stage 2. What varies stage 2 has one, and is to be compared with '{method}':",
            "the same recipe, whose windows look again at each level above the floor.",
        ]
    return "\n".join(said)


def named(method: str) -> tuple[str, ...]:
    """The recipe, the same as decoded, and the method where that is another row."""
    return tuple(dict.fromkeys(("full", DECODED, method)))


def bare(rows: Rows, main: int) -> str:
    """The recipe as rows vary it: as decoded, where it holds its finished frames."""
    return found if (found := f"{DECODED} {main}") in rows else f"full {main}"


def gathered(lines: Lines) -> dict[str, dict[tuple[int, int], Mapping[str, Any]]]:
    rows: defaultdict[str, dict[tuple[int, int], Mapping[str, Any]]] = defaultdict(dict)
    for line in lines:
        rows[line["row"]][line["prompt"], line["seed"]] = line
    return dict(rows)


def some(rows: Rows, names: Sequence[str]) -> Rows:
    return {name: rows[name] for name in names if name in rows}


def in_common(rows: Rows, names: Sequence[str]) -> Rows:
    """Those of the rows that there are, of the stories that all of them tell: what has no line in one curve would
    bend another."""
    found = {name: rows[name] for name in names if rows.get(name)}
    told = set[tuple[int, int]].intersection(*(set(row) for row in found.values())) if found else set()
    return {name: {story: row[story] for story in sorted(told)} for name, row in found.items()}


def by_length(lengths: Sequence[int]) -> list[str]:
    return [f"{way} {frames}" for way in ("full", *BASELINES, FIFO, *TOLD, *HOLDS, *STILLS, *FAR) for frames in lengths]


# --- sweeps ------------------------------------------------------------------------------------------------------


def sweep(word: str, main: int) -> list[str]:
    """The rows of one value of the recipe, in order."""
    return [f"{word} {value:g} {main}" for value in SWEEPS[word]]


def swept(rows: Rows, word: str, main: int, method: str = "full") -> str:
    """One value of the recipe, beside the recipe itself, of the stories that all these were told, and of those whose
    events contradict each other and those whose do not."""
    out = [["", "n", *SWEPT, "event_prompt, near", "event_prompt, far"]]
    whole = {f"full {main}": "recipe", f"{SECOND} {main}": SECOND, f"{DECODED} {main}": DECODED}
    for name, row in in_common(rows, [*(f"{way} {main}" for way in named(method)), *sweep(word, main)]).items():
        found = [column(row, measure) for measure in SWEPT]
        found += [column(part, "event_prompt") for part in near_and_far(row).values()]
        cells = [str(Cells.of({"": each}).mean("")) if each else "-" for each in found]
        out.append([whole.get(name, name.split(" ")[1]), str(len(row)), *cells])
    return f"Sensitivity: {word}{SAME}\n{aligned(out)}"


def near_and_far(row: Row) -> dict[str, Row]:
    """A row's stories in which no event contradicts the one before it, and those in which some do."""
    return {
        "near": {cell: line for cell, line in row.items() if line["distance"] == 0},
        "far": {cell: line for cell, line in row.items() if line["distance"] > 0},
    }


# --- costs -------------------------------------------------------------------------------------------------------


def costs(rows: Rows, main: int, lengths: Sequence[int]) -> str:
    """Calls as they were, looks as planned (at most), seconds; and each as a multiple of Gen-L-Video's."""
    shown = list(PAID)
    out = [["", "calls", "looks", "seconds", *(f"{what}, of {GEN_L}'s" for what in shown)]]
    for frames in sorted({main, *lengths}):
        for name, row in rows.items():
            line = next(iter(row.values()))
            if name.endswith(f" {frames}") and "calls" in line:
                asked = {expert: median(one["calls"][expert] for one in row.values()) for expert in line["calls"]}
                calls = ", ".join(f"{expert} {n:g}" for expert, n in asked.items())
                found = (ratios(rows, name, f"{GEN_L} {frames}", what).values() for what in shown)
                cells = [within(median(each)) if each else "-" for each in found]
                timed = [each["seconds"] for each in row.values() if "seconds" in each]
                seconds = f"{median(timed):.1f}" if timed else "-"
                looked = median(spent(one, "looks") for one in row.values())
                out.append([name, calls, f"{looked:.0f}", seconds, *cells])
    note = f"medians; multiples within stories, and whether they are {COST} at most; all stages count, but where it says first"
    return f"Cost of one video ({note})\n{aligned(out)}"


def within(ratio: float) -> str:
    return f"{ratio:.2f} {'yes' if ratio <= COST else 'no'}"


def spent(line: Mapping[str, Any], what: str) -> float:
    """What one video took: looks of all experts at the whole of it, in its first stage or in all, their calls, or seconds."""
    parts = {"looks": "planned", "calls": "calls"}
    return float(sum(line[parts[what]].values()) if what in parts else line[PAID[what]])


def ratios(rows: Rows, one: str, other: str, what: str) -> dict[tuple[int, int], float]:
    """A cost over another's, story by story; a line without seconds was made beside other work."""
    both = sorted(rows.get(one, {}).keys() & rows.get(other, {}).keys())
    known = [cell for cell in both if PAID[what] in rows[one][cell].keys() & rows[other][cell].keys()]
    return {cell: spent(rows[one][cell], what) / spent(rows[other][cell], what) for cell in known}


# --- the questions -----------------------------------------------------------------------------------------------


def answers(
    rows: Rows, main: int, lengths: Sequence[int], method: str = "full", same: bool = False, turned: Rows | None = None
) -> str:
    """The questions, each where the rows that it needs have results."""
    full, asked = f"full {main}", list[tuple[str, list[Claim]]]()
    if full in rows:
        asked.append(("Are events in order in 90 %, and changes within 4 frames?", told(rows, full)))
        words = {"identity_whole": "identity", "ground_whole": "background", "whole": "both"}
        claims = [counted(rows, full, measure, 0.90, word) for measure, word in words.items()]
        asked.append(("Are identity and background constant over the whole video in 90 % of stories?", claims))
    asked += kept_more(rows, main, method, same) + told_apart(rows, main) + held(rows, main)
    gen = f"{GEN_L} {main}"
    if full in rows and gen in rows:
        claims = [not_below(rows, full, gen, measure) for measure in ("event_prompt", "event_motion")]
        asked.append(("Is prompt fidelity per event not below Gen-L-Video's? (difference)", claims))
        it = bare(rows, main)
        asked.append((f"Does {it} cost at most {COST} of Gen-L-Video's looks, calls and seconds?", dear(rows, it, gen)))
        if (alike := f"{BY_FRAME} {main}") in rows:
            asked.append((f"And of those of {alike}, which is told as it is?", dear(rows, it, alike)))
    asked += with_fewer(rows, main) + ordered(rows, main) + parts_of_it(rows, main, method)
    asked += found_on_the_way(rows, main) + cheaper(rows, main, method) + lengthy(rows, lengths)
    asked += turning(turned or {}, main)
    return questions(asked, "Questions. p: sign flips of stories' differences, Holm over all {n} tests below.")


def kept_more(rows: Rows, main: int, method: str, same: bool) -> list[tuple[str, list[Claim]]]:
    """The recipe, the method where that is another way to denoise, and the paper's, beside each baseline; and the recipe beside
    the paper's. What is one way by construction is said to be so, and not tested."""
    asked: list[tuple[str, list[Claim]]] = []
    for way in (each for each in (*named(method), PUBLISHED) if each != DECODED):
        others, one = (*BASELINES, FIFO, *((PUBLISHED,) if way != PUBLISHED else ())), f"{way} {main}"
        for other in (f"{way} {main}" for way in others if {one, f"{way} {main}"} <= rows.keys()):
            if same and (one, other) == (f"full {main}", f"{FLOWLONG} {main}"):
                text = "without stage 2 the recipe averages windows and leaves early levels along one noise, which is FlowLong"
                claims = [Claim(text, "the same by construction, nothing to compare")]
            else:
                claims = [above(rows, one, other, measure) for measure in ("identity", "ground", "order", "in_turn")]
            asked.append((f"Is more kept by {one} than by {other}? (difference)", claims))
    return asked


def told_apart(rows: Rows, main: int) -> list[tuple[str, list[Claim]]]:
    """What it brings to tell each frame of a window its own event, and whether it is that alone."""
    asked, one = [], bare(rows, main)
    for other in (f"{way} {main}" for way in TOLD if {one, f"{way} {main}"} <= rows.keys()):
        measures = ("order", "in_turn", "event_motion", "identity", "ground")
        claims = [above(rows, one, other, measure) for measure in measures]
        asked.append((f"Is {one}, whose frames are told, above {other}? (difference)", claims))
    return asked


def held(rows: Rows, main: int) -> list[tuple[str, list[Claim]]]:
    """What windows keep that are held, and finished frames, and what they lose by it."""
    whole, (hold, *less) = bare(rows, main), (f"{way} {main}" for way in HOLDS)
    pairs = [(hold, whole), *((whole, other) for other in less)]
    pairs += [(f"full {main}", f"{way} {main}") for way in STILLS]
    asked = []
    for one, other in pairs:
        if {one, other} <= rows.keys():
            measures = ("identity", "ground", "whole", "order", "in_turn")
            claims = [above(rows, one, other, measure) for measure in measures]
            claims.append(not_below(rows, one, other, "event_motion"))
            title = f"Is more kept by {one}, which is held, than by {other}, and no motion lost? (difference)"
            asked.append((title, claims))
    return asked


def with_fewer(rows: Rows, main: int) -> list[tuple[str, list[Claim]]]:
    """Whether the recipe, where it has fewer looks again than the method, or none, may do with them."""
    full, other = bare(rows, main), f"{SECOND} {main}"
    if not {full, other} <= rows.keys():
        return []
    claims = [not_worse(rows, full, other, measure) for measure in ("identity", "ground", "in_turn", "event_motion")]
    return [(f"Is the default, with fewer looks, not below '{other}'? (difference, margin {MARGIN})", claims)]


def told(rows: Rows, name: str) -> list[Claim]:
    claims = [
        counted(rows, name, "order", 0.90, "in order"),
        counted(rows, name, "in_turn", 0.90, "in order but within four frames of a change"),
    ]
    edits = "right but for edits"
    for measure, word in {"events": edits, "turns": f"{edits}, and but within four frames of a change"}.items():
        if nearly := column(rows[name], measure):
            found = (cells := Cells.of({"": nearly})).mean("")
            verdict = "yes" if found.low >= 0.90 else "no" if found.high < 0.90 else "undecided"
            claims.append(Claim(f"{word}: {found}, target 0.90", enough(cells, verdict)))
    late = column(rows[name], "late")
    if late:
        cells = Cells.of({"": late})
        found = cells.mean("")
        verdict = "yes" if found.high <= 4 else "no" if found.low > 4 else "undecided"
        claims.append(Claim(f"frames from where a change was asked for: {found}", enough(cells, verdict)))
    return claims


def above(rows: Rows, one: str, other: str, measure: str) -> Claim:
    cells = paired(rows, measure, one, other)
    found = cells.difference(one, other)
    verdict = "yes" if found.low > 0 else "no, less" if found.high < 0 else "no difference seen"
    return Claim(f"{measure}: {found}", enough(cells, verdict), sign_flip(cells.differences(one, other)))


def not_below(rows: Rows, one: str, other: str, measure: str) -> Claim:
    cells = paired(rows, measure, one, other)
    found = cells.difference(one, other)
    verdict = "no, lower" if found.high < 0 else "yes" if found.low >= 0 else "no loss seen"
    return Claim(f"{measure}: {found}", enough(cells, verdict), sign_flip(cells.differences(one, other)), bound=True)


def not_worse(rows: Rows, one: str, other: str, measure: str) -> Claim:
    """Non-inferiority: the whole interval lies above the margin."""
    cells = paired(rows, measure, one, other)
    found = cells.difference(one, other)
    verdict = "yes" if found.low > -MARGIN else "no, lower" if found.high < -MARGIN else "undecided"
    return Claim(f"{measure}: {found}", enough(cells, verdict))


def dear(rows: Rows, one: str, other: str) -> list[Claim]:
    """Looks, calls and seconds over those of another, story by story."""
    claims = []
    for what in (what for what in PAID if ratios(rows, one, other, what)):
        cells = Cells.of({"": ratios(rows, one, other, what)})
        found = cells.mean("")
        verdict = "yes" if found.high <= COST else "no" if found.low > COST else "undecided"
        claims.append(Claim(f"{what}: ratio {found}", enough(cells, verdict)))
    return claims


def ordered(rows: Rows, main: int) -> list[tuple[str, list[Claim]]]:
    """The paper's order on identity: each way below the one after it, and all below its method; and by its optimiser."""
    asked = list[tuple[str, list[Claim]]]()
    for how, names in (("", (*PAPER[:4], PUBLISHED)), (" by AdamW", (*APART_BY_ADAMW, ADAMW))):
        pairs = [(low, high) for low, high in pairwise(f"{way} {main}" for way in names) if {low, high} <= rows.keys()]
        claims = [above_of(rows, high, low) for low, high in pairs]
        asked += (
            [(f"Is identity lost in the paper's order{how}, no floor first? (difference)", claims)] if claims else []
        )
    return asked


def above_of(rows: Rows, high: str, low: str) -> Claim:
    claim = above(rows, high, low, "identity")
    return Claim(f"{high} - {low}, {claim.text}", claim.verdict, claim.p)


def parts_of_it(rows: Rows, main: int, method: str) -> list[tuple[str, list[Claim]]]:
    """Whether the paper's stage 2 is more than looks that share alike or nothing, and than its number of calls;
    whether it is more than its noise is asked of FlowLong. And whether the recipe's looks are more than their noise."""
    asked = list[tuple[str, list[Claim]]]()
    apart = {PUBLISHED: ("mean", "identity", "equal calls", ADAMW), method: (RENOISED,)}
    for one, other in ((f"{way} {main}", f"{other} {main}") for way, others in apart.items() for other in others):
        if {one, other} <= rows.keys():
            claims = [above(rows, one, other, measure) for measure in ("identity", "ground", "event_motion")]
            asked.append((f"Does stage 2 of {one} keep more than '{other}'? (difference)", claims))
    return asked


def found_on_the_way(rows: Rows, main: int) -> list[tuple[str, list[Claim]]]:
    """Beside the best value of a sweep."""
    asked: list[tuple[str, list[Claim]]] = []
    for way, word in (("floor auto", "floor"), ("stride auto", "stride")):
        fixed = in_common(rows, sweep(word, main))
        if f"{way} {main}" in rows and any(fixed.values()):
            best = max(fixed, key=lambda name: fmean(column(fixed[name], "identity").values()))
            claims = [not_below(rows, f"{way} {main}", best, measure) for measure in ("identity", "event_prompt")]
            asked.append((f"Is '{way}' as good as the best fixed value, {best}? (difference)", claims))
    return asked


def turning(turned: Rows, main: int) -> list[tuple[str, list[Claim]]]:
    """What windows that are held by nothing show of backgrounds that are to change."""
    free, *others = (f"{way} {main}" for way in ("no hold", "full", PUBLISHED, GEN_L))
    asked = []
    for other in (other for other in others if {free, other} <= turned.keys()):
        claims = [above(turned, free, other, measure) for measure in ("event_ground", "event_motion", "identity")]
        asked.append((f"Do backgrounds change as asked by {free} more than by {other}? (difference)", claims))
    return asked


def cheaper(rows: Rows, main: int, method: str) -> list[tuple[str, list[Claim]]]:
    """What costs less beside the method, and its cost beside Gen-L-Video's."""
    asked: list[tuple[str, list[Claim]]] = []
    whole, gen = f"{method} {main}", f"{GEN_L} {main}"
    for name in (f"{way} {main}" for way in COSTS):
        if name in rows and whole in rows:
            claims = [not_below(rows, name, whole, measure) for measure in ("identity", "event_prompt")]
            claims += dear(rows, name, gen) if gen in rows else []
            asked.append((f"Is '{name}' as good as '{whole}' (difference), and at most {COST} of Gen-L-Video?", claims))
    return asked


def lengthy(rows: Rows, lengths: Sequence[int]) -> list[tuple[str, list[Claim]]]:
    """At the longest: what keeps identity in 80 % of stories; and whether it is lost with length."""
    longest, shortest = max(lengths), min(lengths)
    names = [f"{way} {longest}" for way in ("full", *FAR) if f"{way} {longest}" in rows]
    asked: list[tuple[str, list[Claim]]] = []
    if names:
        claims = [counted(rows, name, "identity_whole", 0.80, "identity") for name in names]
        asked.append((f"Is identity kept in 80 % of stories of {longest} frames?", claims))
    ends = [
        (f"{way} {longest}", f"{way} {shortest}")
        for way in ("full", *FAR)
        if longest > shortest and {f"{way} {longest}", f"{way} {shortest}"} <= rows.keys()
    ]
    if ends:
        claims = [not_below(rows, long, short, "identity") for long, short in ends]
        named = [Claim(f"{long}: {c.text}", c.verdict, c.p) for (long, _), c in zip(ends, claims, strict=True)]
        asked.append((f"Is identity lost between {shortest} and {longest} frames? (difference)", named))
    return asked
