"""Result lines to tables and answers, as text."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from harness import Claim, questions
from methods import CHEAPER, OPEN, REFERENCES

from dovetail.eval.stats import Cells, Interval, sign_flip, wilson

Lines = Sequence[Mapping[str, Any]]
Rows = Mapping[str, Mapping[tuple[int, int], Mapping[str, Any]]]

ORACLE = ("identity", "smoothness_of_motion", "sharpness", "texture", "background_sd")
SHARES = ("prompt", "motion_right", "presence")
STANDINS = ("subject_consistency", "motion_smoothness", "aesthetic_quality", "imaging_quality", "motion")
MARGIN = 0.10
"""Non-inferior: worse by less than this share of the span between only S and only T."""
IDENTITY_MARGIN = 0.02
"""Non-inferior in identity where there is no span: fewer than this many switches per pair of frames more."""

MEASURES = ("identity", "smoothness_of_motion", "sharpness", "texture")
"""What the questions of non-inferiority are about."""
FEWEST = 8
"""Below so many prompts no verdict is given, whatever the interval."""

TABLES = {
    "Table 1: methods": ("temporal", "control", "confiner 4+5", "confiner 8+10"),
    "Table 3: T_e": ("confiner",),
    "Table 5: who refines": ("confiner 4+5", "confiner 8+10", "only", "alternating", "x0 average", "S-T 4+5"),
    "Table 5, of prompts that leave the look open": (OPEN,),
    "Beyond the paper": (*CHEAPER, "T-S 8+10", "fixed noise", "paper's clock"),
}
"""Each table's rows: names that begin so, in the order of the list; those of ConFiner as they stand in Table 1."""


def report(lines: Lines, experts: str, frames: int) -> str:
    """All tables and answers of these lines."""
    rows: defaultdict[str, dict[tuple[int, int], Mapping[str, Any]]] = defaultdict(dict)
    for line in lines:
        rows[line["row"]][line["prompt"], line["seed"]] = line
    if not rows:
        return "no results yet\n"
    machines = sorted({line["machine"] for line in lines})
    kind = "trained networks" if experts == "trained" else "EXACT experts: closed-form denoisers, nothing trained"
    head = [
        f"ConFiner on sprites, {frames} frames. Experts: {kind}.",
        *(f"Machine: {name}" for name in machines),
        "",
        "Means over prompts with 95 % intervals: cluster bootstrap over prompts, then seeds. Shares (prompt, motion,",
        "presence): Wilson, counted as one trial per prompt, which is cautious. Texture: prompts that ask for dots.",
        "The stand-ins follow VBench's formulas without its networks; compare rows, not papers. See dovetail.eval.pixel.",
    ]
    parts = ["\n".join(head)]
    for title, begins in TABLES.items():
        names = [name for name in rows if chosen(name, title, begins)]
        names = [name for name in REFERENCES if name in rows] + sorted(names, key=lambda name: order(name, begins))
        parts.append(table(f"{title}. The oracle's measures", {n: rows[n] for n in names}, ORACLE, SHARES))
        parts.append(table(f"{title}. Stand-ins", {n: rows[n] for n in names}, STANDINS, ("dynamic_degree",)))
    parts += [costs(rows, experts), answers(rows, experts)]
    return "\n\n".join(parts) + "\n"


def chosen(name: str, title: str, begins: Sequence[str]) -> bool:
    if name in REFERENCES:
        return False
    if title.startswith("Table 1") and name.startswith("confiner"):
        return name in begins
    if name.startswith(OPEN) or OPEN in begins:
        return name.startswith(OPEN) and OPEN in begins
    if title.startswith("Table 5"):
        return name in begins or (name.startswith(tuple(begins)) and "T_e" not in name) or name.startswith("only")
    return name.startswith(tuple(begins))


def order(name: str, begins: Sequence[str]) -> tuple[int, str, int]:
    first = next(i for i, start in enumerate(begins) if name.startswith(start))
    head, _, last = name.rpartition(" ")
    return first, head, int(last) if last.isdigit() else 0


def column(row: Mapping[tuple[int, int], Mapping[str, Any]], measure: str) -> dict[tuple[int, int], float]:
    """A measure of a row in the cells that have it."""
    return {cell: line["scores"][measure] for cell, line in row.items() if measure in line["scores"]}


def table(title: str, rows: Rows, means: Sequence[str], shares: Sequence[str]) -> str:
    """A row per method, over that method's own cells."""
    out = [["", "n", *means, *shares]]
    for name, row in rows.items():
        cells = [name, str(len(row))]
        for measure in means:
            found = column(row, measure)
            cells.append(str(Cells.of({name: found}).mean(name)) if found else "-")
        for measure in shares:
            found = column(row, measure)
            cells.append(str(share(found)) if found else "-")
        out.append(cells)
    return title + "\n" + aligned(out)


def share(found: Mapping[tuple[int, int], float]) -> Interval:
    """A share with Wilson's interval, one trial per prompt."""
    cells = Cells.of({"": found})
    return wilson(float(cells.means[0]), len(cells.counts))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def costs(rows: Rows, experts: str) -> str:
    """Table 4: calls, looks at the whole video (both branches of guidance counted), seconds.

    Seconds are of the prompts that all rows have, so that no row is timed beside other work than the rest.
    """
    out = [["", "calls", "looks", "seconds", "in networks"]]
    made = {name: row for name, row in rows.items() if name not in REFERENCES}
    shared = set.intersection(*(set(row) for row in made.values())) if made else set()
    for name, row in made.items():
        line = next(iter(row.values()))
        timed = [row[cell] for cell in shared or row]
        calls = ", ".join(f"{expert} {n}" for expert, n in line["calls"].items())
        looks = sum(line["looks"].values())
        seconds = median(entry["seconds"] for entry in timed)
        inside = median(entry["seconds_in_networks"] / entry["seconds"] for entry in timed)
        out.append([name, calls, f"{looks:g}", f"{seconds:.2f}", f"{inside:.2f}"])
    note = f"Table 4: cost of one video ({experts} experts; calls of networks, median seconds). Training: none."
    return note + "\n" + aligned(out)


# --- the questions -----------------------------------------------------------------------------------------------


def answers(rows: Rows, experts: str) -> str:
    """The questions, each for every ladder that has results of all methods it needs."""
    asked: list[tuple[str, list[Claim]]] = []
    for of in ("", OPEN):
        for name in ("4+5", "8+10", "8+10 T_e 300", "8+10 T_e 500", "4+10 T_e 500"):
            if all(f"{of}{row} {name}" in rows for row in ("confiner", "only S", "only T")):
                asked += ends(rows, name, of)
    if all(row in rows for row in ("confiner 4+5", "temporal 100")):
        asked.append((NINE, nine(rows)))
    for name in CHEAPER:
        if name in rows and "confiner 4+5" in rows:
            title = f"Is '{name}', with fewer calls, as good as ConFiner 4+5? (difference)"
            asked.append((title, same(rows, name, "confiner 4+5")))
    for name in READINGS:
        if name in rows and "confiner 4+5" in rows:
            asked.append((f"Is '{name}' as good as ConFiner 4+5? (difference)", same(rows, name, "confiner 4+5")))
            asked += losses(rows, name, "only S 4+5", "only T 4+5", name)
    return questions(
        asked, "Questions (" + experts + " experts). p: sign flips of prompts' means, Holm over all {n} tests below."
    )


READINGS = ("fixed noise 4+5", "paper's clock 4+5")
"""One noise for all additions of a pass, which its symbols do not forbid; and one integer for both experts' clocks."""
NINE = (
    "Do 9 steps beat the temporal expert at 100 steps on sharpness without losing identity? "
    "(ConFiner 4+5 - temporal 100)"
)


def losses(rows: Rows, both: str, s: str, t: str, name: str) -> list[tuple[str, list[Claim]]]:
    """What each expert alone loses against coordination."""
    return [
        (
            f"Does only-spatial lose identity and smoothness? ({name}; only S - ConFiner)",
            lost(rows, s, both, "identity", "smoothness_of_motion", "motion_smoothness"),
        ),
        (
            f"Does only-temporal lose sharpness and texture? ({name}; only T - ConFiner)",
            lost(rows, t, both, "sharpness", "texture", "imaging_quality"),
        ),
    ]


def ends(rows: Rows, name: str, of: str) -> list[tuple[str, list[Claim]]]:
    """The three questions about coordination and the two experts alone."""
    both, s, t = (f"{of}{row} {name}" for row in ("confiner", "only S", "only T"))
    name = of + name
    return [
        *losses(rows, both, s, t, name),
        (
            f"Is ConFiner non-inferior to the better of the two on both? "
            f"({name}; share of the S-T span that it lacks, margin {MARGIN:.2f})",
            between(rows, both, s, t),
        ),
    ]


def paired(rows: Rows, measure: str, *names: str) -> Cells:
    return Cells.of({name: column(rows[name], measure) for name in names})


def told(rows: Rows, measures: Sequence[str], *names: str) -> list[str]:
    """The measures that some cell has of all these rows; texture is one of dotted objects alone."""
    return [m for m in measures if set.intersection(*(set(column(rows[name], m)) for name in names))]


def difference(rows: Rows, one: str, other: str, measure: str) -> tuple[Interval, float, str]:
    """One minus the other: interval, p, and both as text with how many prompts went up."""
    cells = paired(rows, measure, one, other)
    found, each = cells.difference(one, other), cells.differences(one, other)
    up, down = sum(d > 0 for d in each), sum(d < 0 for d in each)
    return found, sign_flip(each), f"{measure} {found}, {up} prompts up and {down} down of {len(each)}"


def enough(cells: Cells, verdict: str) -> str:
    """The verdict, if there are prompts enough for a bootstrap to mean something."""
    n = len(cells.counts)
    return verdict if n >= FEWEST else f"too few prompts to say ({n}; needs {FEWEST})"


def lost(rows: Rows, one: str, other: str, *measures: str) -> list[Claim]:
    """Whether `one` is worse than `other`."""
    claims = []
    for measure in told(rows, measures, one, other):
        found, p, text = difference(rows, one, other, measure)
        verdict = "yes, worse" if found.high < 0 else "no, better" if found.low > 0 else "no difference seen"
        claims.append(Claim(text, enough(paired(rows, measure, one, other), verdict), p))
    return claims


def between(rows: Rows, both: str, s: str, t: str) -> list[Claim]:
    """How far `both` stays behind the better of s and t, as a share of what lies between them."""
    claims = []
    for measure in told(rows, MEASURES, both, s, t):
        cells = paired(rows, measure, both, s, t)
        span = cells.difference(s, t)
        if span.low <= 0 <= span.high:
            claims.append(Claim(f"{measure}: S - T is {span}", enough(cells, "no span to speak of, so no answer")))
            continue
        best = 1 if span.value > 0 else 2
        found = cells.interval(lambda m, best=best: (m[..., best] - m[..., 0]) / (m[..., 1] - m[..., 2]).abs())
        verdict = "yes" if found.high <= MARGIN else "no" if found.low > MARGIN else "undecided"
        text = f"{measure}: lacks {found} of the span, which is {span}, to {' ST'[best]}"
        claims.append(Claim(text, enough(cells, verdict)))
    return claims


def nine(rows: Rows) -> list[Claim]:
    (sharper,) = lost(rows, "confiner 4+5", "temporal 100", "sharpness")
    found, _, text = difference(rows, "confiner 4+5", "temporal 100", "identity")
    verdict = "kept" if found.low > -IDENTITY_MARGIN else "lost" if found.high < -IDENTITY_MARGIN else "undecided"
    wins = {"yes, worse": "no, less sharp", "no, better": "yes, sharper"}.get(sharper.verdict, sharper.verdict)
    kept = enough(paired(rows, "identity", "confiner 4+5", "temporal 100"), verdict)
    return [Claim(sharper.text, wins, sharper.p), Claim(f"{text}; margin {IDENTITY_MARGIN:.2f}", kept)]


def same(rows: Rows, one: str, other: str) -> list[Claim]:
    """Differences on what coordination is for, and the margins: shares of what only S and only T span."""
    claims = []
    ends = [name for name in ("only S 4+5", "only T 4+5") if name in rows]
    for measure in told(rows, MEASURES, one, other, *ends):
        cells = paired(rows, measure, one, other, *ends)
        found = cells.difference(one, other)
        span = abs(float(cells.means[2] - cells.means[3])) if len(ends) == 2 else 0.0
        margin = max(MARGIN * span, IDENTITY_MARGIN if measure == "identity" else 0.0)
        verdict = "as good" if found.low >= -margin else "worse" if found.high < -margin else "undecided"
        text = f"{measure} {found}, margin {margin:.3f}, {len(cells.counts)} prompts"
        claims.append(Claim(text, enough(cells, verdict)))
    return claims
