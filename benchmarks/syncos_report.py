"""Result lines of stories to tables, answers and pictures."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from harness import Claim, questions
from long_report import counted, paired, table
from PIL import Image
from report import aligned, column, enough
from syncos_rows import AUTO, BASELINES, COSTS, FAR, FIFO, GEN_L, PAPER, SWEEPS, WHAT

from dovetail.eval.plot import Panel, draw
from dovetail.eval.stats import Cells, sign_flip

Lines = Sequence[Mapping[str, Any]]
Rows = Mapping[str, Mapping[tuple[int, int], Mapping[str, Any]]]

STORY = (("late", "events", "event_prompt", "event_motion", "shared_prompt", "scenes"), ("order", "in_time"))
KEPT = (("identity", "ground", "texture_kept", "background_sd", "background_moved"), ("identity_whole", "ground_whole"))
LOOKS = (("consistency", "drift_end", "motion", "dynamic_degree", "smoothness_of_motion", "presence", "single"), ())
TABLES = {"The story, by the oracle": STORY, "What keeps over the whole video": KEPT, "What else is seen": LOOKS}
SHORT = (("identity", "ground", "events", "event_prompt", "event_motion", "scenes"), ("order", "whole"))
GROUPS = {
    "What the paper leaves out": (("full",), PAPER),
    "What stage 2 does": (("full",), WHAT),
    "What costs less": (("full", GEN_L), COSTS),
    "What is found on the way": (("full",), AUTO),
    "What does not fade": (("full",), FAR),
}
"""Each table's rows: those that the others are beside, and the others, without one of which there is no table."""
SWEPT = ("identity", "ground", "event_prompt", "order")
COST = 1.3
"""Seconds, as a multiple of Gen-L-Video's, at most."""


def report(lines: Lines, experts: str, main: int, lengths: Sequence[int]) -> str:
    """All tables and answers of these lines."""
    rows = gathered(lines)
    if not rows:
        return "no results yet\n"
    kind = "trained networks" if experts == "trained" else "EXACT experts: closed-form denoisers, nothing trained"
    head = [
        f"Stories of sprites: {main} frames, and {', '.join(map(str, lengths))} where length is compared. Experts: {kind}.",
        *(f"Machine: {name}" for name in sorted({line["machine"] for line in lines})),
        "",
        "Means over stories with 95 % intervals, cluster bootstrap. Shares of stories: Wilson. late: frames, of stories whose",
        "order is right. Measures are those of benchmarks/syncos.py and docs/evaluation.md.",
    ]
    first = [f"{way} {main}" for way in ("renderer", "full", *BASELINES, FIFO)]
    parts = ["\n".join(head)]
    parts += [table(title, some(rows, first), *columns) for title, columns in TABLES.items()]
    for title, (beside, ways) in GROUPS.items():
        if some(rows, [f"{way} {main}" for way in ways]):
            parts.append(table(title, some(rows, [f"{way} {main}" for way in (*beside, *ways)]), *SHORT))
    long = some(rows, by_length(lengths))
    if len({name.rpartition(" ")[2] for name in long}) > 1:
        parts.append(table("Length", long, *SHORT))
    parts += [swept(rows, word, main) for word in SWEEPS if some(rows, sweep(word, main))]
    return "\n\n".join([*parts, costs(rows, main, lengths), answers(rows, main, lengths)]) + "\n"


def gathered(lines: Lines) -> dict[str, dict[tuple[int, int], Mapping[str, Any]]]:
    rows: defaultdict[str, dict[tuple[int, int], Mapping[str, Any]]] = defaultdict(dict)
    for line in lines:
        rows[line["row"]][line["prompt"], line["seed"]] = line
    return dict(rows)


def some(rows: Rows, names: Sequence[str]) -> Rows:
    return {name: rows[name] for name in names if name in rows}


def by_length(lengths: Sequence[int]) -> list[str]:
    return [f"{way} {frames}" for way in ("full", *BASELINES, FIFO, *FAR) for frames in lengths]


# --- sweeps ------------------------------------------------------------------------------------------------------


def sweep(word: str, main: int) -> list[str]:
    """The rows of one value of the recipe, in order."""
    return [f"{word} {value:g} {main}" for value in SWEEPS[word]]


def swept(rows: Rows, word: str, main: int) -> str:
    """One value of the recipe, beside the recipe itself, over all stories, and over those whose events contradict each
    other and those whose do not."""
    out = [["", "n", *SWEPT, "event_prompt, near", "event_prompt, far"]]
    for name, row in some(rows, [f"full {main}", *sweep(word, main)]).items():
        near = {cell: line for cell, line in row.items() if line["distance"] == 0}
        distant = {cell: line for cell, line in row.items() if line["distance"] > 0}
        found = [column(row, measure) for measure in SWEPT]
        found += [column(part, "event_prompt") for part in (near, distant)]
        cells = [str(Cells.of({"": each}).mean("")) if each else "-" for each in found]
        shown = "recipe" if name == f"full {main}" else name.split(" ")[1]
        out.append([shown, str(len(row)), *cells])
    return f"Sensitivity: {word}\n{aligned(out)}"


def plots(lines: Lines, main: int, lengths: Sequence[int]) -> Image.Image | None:
    """Identity of what is swept, and against length; None where nothing is there to draw."""
    rows = gathered(lines)
    curves = {f"identity by {word}": sweep(word, main) for word in SWEEPS}
    curves |= {
        f"identity by length, {way}": [f"{way} {frames}" for frames in lengths] for way in ("full", *BASELINES, *FAR)
    }
    panels = []
    for title, names in curves.items():
        values = [fmean(column(rows[name], "identity").values()) if name in rows else float("nan") for name in names]
        if sum(value == value for value in values) > 1:
            told = ", ".join(name.rpartition(" ")[2 if "length" in title else 0].split(" ")[-1] for name in names)
            panels.append(Panel(f"{title}: {told}", values, 0.0, 1.0))
    return draw(panels) if panels else None


# --- costs -------------------------------------------------------------------------------------------------------


def costs(rows: Rows, main: int, lengths: Sequence[int]) -> str:
    """Calls as they were, looks as planned (at most), median seconds."""
    out = [["", "calls", "looks", "seconds", "of gen-l-video's"]]
    for frames in sorted({main, *lengths}):
        base = rows.get(f"{GEN_L} {frames}")
        for name in (
            name for name in rows if name.endswith(f" {frames}") and "calls" in next(iter(rows[name].values()))
        ):
            line = next(iter(rows[name].values()))
            calls = ", ".join(f"{expert} {n}" for expert, n in line["calls"].items())
            both = [cell for cell in rows[name] if base and cell in base]
            ratio = median(rows[name][c]["seconds"] / base[c]["seconds"] for c in both) if base and both else None
            seconds = median(each["seconds"] for each in rows[name].values())
            shown = "-" if ratio is None else f"{ratio:.2f}"
            out.append([name, calls, f"{sum(line['planned'].values()):.0f}", f"{seconds:.1f}", shown])
    return f"Cost of one video (median seconds; ratios within stories)\n{aligned(out)}"


# --- the questions -----------------------------------------------------------------------------------------------


def answers(rows: Rows, main: int, lengths: Sequence[int]) -> str:
    """The questions, each where the rows that it needs have results."""
    full, asked = f"full {main}", list[tuple[str, list[Claim]]]()
    if full in rows:
        asked.append(("Are events in order in 90 %, and changes within 4 frames?", told(rows, full)))
        words = {"identity_whole": "identity", "ground_whole": "background", "whole": "both"}
        claims = [counted(rows, full, measure, 0.90, word) for measure, word in words.items()]
        asked.append(("Are identity and background constant over the whole video in 90 % of stories?", claims))
    for other in (f"{way} {main}" for way in (*BASELINES, FIFO)):
        if full in rows and other in rows:
            claims = [above(rows, full, other, measure) for measure in ("identity", "ground", "order")]
            asked.append((f"Is more kept than by {other}? (difference)", claims))
    gen = f"{GEN_L} {main}"
    if full in rows and gen in rows:
        claims = [not_below(rows, full, gen, measure) for measure in ("event_prompt", "event_motion")]
        asked.append(("Is prompt fidelity per event not below Gen-L-Video's? (difference)", claims))
        asked.append((f"Does it cost at most {COST} of Gen-L-Video's seconds?", [dear(rows, full, gen)]))
    asked += ordered(rows, main) + equals(rows, main) + lengthy(rows, lengths)
    return questions(asked, "Questions. p: sign flips of stories' differences, Holm over all {n} tests below.")


def told(rows: Rows, name: str) -> list[Claim]:
    claims = [counted(rows, name, "order", 0.90, "in order")]
    if nearly := column(rows[name], "events"):
        found = (cells := Cells.of({"": nearly})).mean("")
        verdict = "yes" if found.low >= 0.90 else "no" if found.high < 0.90 else "undecided"
        claims.append(Claim(f"right but for edits: {found}, target 0.90", enough(cells, verdict)))
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
    return Claim(f"{measure}: {found}", enough(cells, verdict), sign_flip(cells.differences(one, other)))


def dear(rows: Rows, one: str, other: str) -> Claim:
    """Seconds over seconds, story by story."""
    both = sorted(rows[one].keys() & rows[other].keys())
    ratios = {cell: rows[one][cell]["seconds"] / rows[other][cell]["seconds"] for cell in both}
    cells = Cells.of({"": ratios})
    found = cells.mean("")
    verdict = "yes" if found.high <= COST else "no" if found.low > COST else "undecided"
    return Claim(f"ratio {found}", enough(cells, verdict))


def ordered(rows: Rows, main: int) -> list[tuple[str, list[Claim]]]:
    """The paper's order on identity: each way below the one after it, and all below the full one."""
    ways = [f"{way} {main}" for way in (*PAPER[:4], "full")]
    pairs = [(low, high) for low, high in pairwise(ways) if low in rows and high in rows]
    claims = [above_of(rows, high, low) for low, high in pairs]
    return [("Is identity lost in the paper's order, no floor first? (difference)", claims)] if claims else []


def above_of(rows: Rows, high: str, low: str) -> Claim:
    claim = above(rows, high, low, "identity")
    return Claim(f"{high} - {low}, {claim.text}", claim.verdict, claim.p)


def equals(rows: Rows, main: int) -> list[tuple[str, list[Claim]]]:
    """What is found on the way beside the best value of a sweep; what costs less beside the recipe."""
    asked: list[tuple[str, list[Claim]]] = []
    for way, word in (("floor auto", "floor"), ("stride auto", "stride")):
        fixed = [name for name in sweep(word, main) if name in rows]
        if f"{way} {main}" in rows and fixed:
            best = max(fixed, key=lambda name: fmean(column(rows[name], "identity").values()))
            claims = [not_below(rows, f"{way} {main}", best, measure) for measure in ("identity", "event_prompt")]
            asked.append((f"Is '{way}' as good as the best fixed value, {best}? (difference)", claims))
    for way in COSTS:
        if f"{way} {main}" in rows and f"full {main}" in rows:
            claims = [
                not_below(rows, f"{way} {main}", f"full {main}", measure) for measure in ("identity", "event_prompt")
            ]
            asked.append((f"Is '{way}' as good as the recipe? (difference)", claims))
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
