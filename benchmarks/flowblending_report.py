"""FlowBlending's result lines to tables and answers, as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

import torch
from flowblending_rows import (
    BUDGET,
    CURVE,
    DISTILLED,
    EQUAL,
    FEWER,
    MAIN,
    RULES,
    SECOND,
    around,
    brief_names,
    large_steps,
    rows,
)
from harness import Claim, questions
from report import FEWEST, MARGIN, aligned

from dovetail.calibrate import Calibration
from dovetail.calibrate.choose import interval, two_knots, u_shaped
from dovetail.eval.stats import Cells, Interval, sign_flip

Line = Mapping[str, Any]
Table = Mapping[str, Mapping[tuple[int, int], Line]]
"""Row -> (prompt, seed) -> line."""

ORACLE = ("prompt", "identity", "sharpness")
LIKENESS = ("psnr", "agreement")
"""The second says more: psnr is capped for the large expert's own video, so a span of it is mostly the cap."""
LEFT = "left in the video"
FASTER, CHEAPER, LIKE = 1.5, 0.45, 0.8
"""What is claimed: times faster, share of operations saved, and normalised likeness."""
FEWEST_LEVELS = 6
"""That a fit of three lines needs."""
DRAWS = 100
"""Resamplings of prompts for boundaries, each of which is a fit."""


@dataclass(frozen=True)
class Study:
    """Curves of the small expert in a kind of scene: per prompt, by measure, over levels."""

    name: str
    follow: int
    levels: tuple[float, ...]
    curves: tuple[Mapping[str, Sequence[float]], ...]
    costs: tuple[float, float]
    """Operations of one step of the large expert, and of the small one."""

    def middle(self, measure: str, prompts: Sequence[int] | None = None) -> list[float]:
        """The median over prompts, step by step, as calibration chooses by."""
        chosen = [self.curves[i] for i in (range(len(self.curves)) if prompts is None else prompts)]
        return [median(values) for values in zip(*(curve[measure] for curve in chosen), strict=True)]

    def interval(self, left: Sequence[float]) -> tuple[int, int]:
        """Large steps before and behind the small expert's, by rule `budget` for these errors left in the video."""
        errors = ([0.0] * len(left), left)
        return around(interval(self.costs, errors, budget=BUDGET * self.costs[0] * len(left)).choice)

    def resampled(self, measure: str) -> list[list[float]]:
        """Median curves over prompts drawn anew."""
        generator = torch.Generator().manual_seed(0)
        n = len(self.curves)
        return [self.middle(measure, torch.randint(n, (n,), generator=generator).tolist()) for _ in range(DRAWS)]


def report(
    lines: Sequence[Line],
    found: Mapping[str, Calibration],
    own: Mapping[str, Study],
    kinds: Sequence[Study],
    experts: str,
    brief: Calibration | None = None,
) -> str:
    """All tables and answers. own: what each ladder's boundaries were chosen by; kinds: curves in kinds of scenes; brief:
    boundaries on a ladder of fewer steps."""
    main = found[MAIN]
    video = main.case.recipe.video
    kind = "trained networks" if experts == "trained" else "EXACT experts: closed-form denoisers, nothing trained"
    head = [
        f"FlowBlending on sprites, {video.frames} frames, {main.ladder.steps} steps. Experts: {kind}.",
        *(f"Machine: {name}" for name in sorted({line["machine"] for line in lines})),
        "",
        "Means over prompts with 95 % intervals: cluster bootstrap over prompts, then seeds. psnr: to the large expert's",
        "video of the same noise, at most 50 dB; agreement: of what the oracle finds in each frame. Normalised: another",
        "seed is 0, a change of the noise by 1 % is 1. Operations: of networks, both branches of guidance, without texts.",
        "Seconds: of the steps, without texts and decoding, of those prompts that were made beside no other work.",
    ]
    parts = ["\n".join(head), divergence(own[MAIN]), boundaries(found, kinds, brief), carried(main, own)]
    table = by_row(lines, found, brief)
    if not table:
        return "\n\n".join([*parts, "no videos yet"]) + "\n"
    for solver, prefix in ((MAIN, ""), (SECOND, f"{SECOND}: ")):
        its_rows = {name.removeprefix(prefix): row for name, row in table.items() if (SECOND in name) == bool(prefix)}
        if its_rows:
            parts.append(videos(f"Videos by {solver}", its_rows))
    return "\n\n".join([*parts, answers(table, found, own, brief)]) + "\n"


def by_row(lines: Sequence[Line], found: Mapping[str, Calibration], brief: Calibration | None = None) -> Table:
    """Rows in their order, each with the lines of the way that it is for each prompt."""
    known = {(line["way"], line["prompt"], line["seed"]): line for line in lines}
    table: dict[str, dict[tuple[int, int], Line]] = {}
    for prompt, seed in sorted({(line["prompt"], line["seed"]) for line in lines}):
        for name, way in rows(found, prompt, brief).items():
            line = known.get((way.name, prompt, seed))
            if line is not None:
                table.setdefault(name, {})[prompt, seed] = line
    return table


# --- curves ------------------------------------------------------------------------------------------------------


def divergence(study: Study) -> str:
    """Each measure over the noise share, and whether it is U-shaped there."""
    measures = list(study.curves[0])
    out = [["t", *measures]]
    middles = {m: study.middle(m) for m in measures}
    for k, t in enumerate(study.levels):
        out.append([f"{t:.3f}", *(f"{middles[m][k]:.4g}" for m in measures)])
    verdicts = []
    for measure in measures:
        yes = shaped(study.levels, middles[measure])
        share = fmean(float(shaped(study.levels, curve)) for curve in study.resampled(measure))
        said = "U-shaped" if yes else f"not U-shaped ({trend(middles[measure])}{later(study.levels, middles[measure])})"
        verdicts.append(f"  {measure}: {said}; U-shaped in {share:.0%} of resamplings of the prompts")
    note = f"Distance of the small expert from the large one, median of {len(study.curves)} prompts, by noise share."
    return "\n".join([note, aligned(out), "", "Lower between its own two knots than on either side?", *verdicts])


def shaped(levels: Sequence[float], curve: Sequence[float]) -> bool:
    return max(curve) > 0 and u_shaped(curve, two_knots(levels, curve))


def later(levels: Sequence[float], curve: Sequence[float]) -> str:
    """From which level on a curve is U-shaped, in words, if half of it or more is; nothing otherwise."""
    starts = range(1, min(len(levels) // 2, len(levels) - FEWEST_LEVELS) + 1)
    return next((f"; it is from {levels[k]:.3f} on" for k in starts if shaped(levels[k:], curve[k:])), "")


def trend(curve: Sequence[float]) -> str:
    ups = sum(b > a for a, b in pairwise(curve)) / (len(curve) - 1)
    return (
        "rises toward the video" if ups > 0.7 else "falls toward the video" if ups < 0.3 else "neither rises nor falls"
    )


def boundaries(found: Mapping[str, Calibration], studies: Sequence[Study], brief: Calibration | None = None) -> str:
    """What each rule chose with each solver, and the joints of the fit in each kind of scene."""
    out = [["rule", "solver", "boundaries", "cost"]]
    shown = dict(found) if brief is None else {**found, f"{MAIN}, {brief.ladder.steps} steps": brief}
    for solver, result in shown.items():
        whole = result.case.costs[0] * found[MAIN].ladder.steps
        for rule, choice in result.choices.items():
            bounds = ", ".join(f"{b:.3f}" for b in result.boundaries(rule)[:6])
            out.append([rule, solver, bounds or "none", f"{choice.cost / whole:.2f}"])
    kinds = [["scenes", "fit: early", "late", "budget: early", "late", "prompts"]]
    for study in studies:
        joints = [knots(study.levels, curve) for curve in [study.middle("velocity"), *study.resampled("velocity")]]
        chosen = [chosen_by_budget(study, curve) for curve in [study.middle(LEFT), *study.resampled(LEFT)]]
        columns = [*zip(*joints, strict=True), *zip(*chosen, strict=True)]
        kinds.append([study.name, *(str(spread(column)) for column in columns), str(len(study.curves))])
    parts = ["Boundaries that the rules chose (cost: share of the large expert's at all steps)", aligned(out)]
    head = (
        f"Boundaries by scenes, over prompts drawn anew: the fit's joints, and where the small expert begins and ends by "
        f"budget ({BUDGET} of the operations; 1: at noise, 0: at the video)"
    )
    return "\n".join([*parts, "", head, aligned(kinds)])


def carried(found: Calibration, own: Mapping[str, Study]) -> str:
    """What the boundaries of one ladder are worth on others: errors left in the video by the small expert's steps, beside
    the best and the worst interval with as many large steps there."""
    early, late = bounds(found.ladder.levels, *around(found.choices["budget"].choice))
    out = [["ladder", "steps", "large", "left", "by the best", "by the worst"]]
    for name, study in own.items():
        left = study.middle(LEFT)
        above, below = sum(t > early for t in study.levels), sum(t < late for t in study.levels)
        each = [left_by(left, first, above + below - first) for first in range(above + below + 1)]
        numbers = (left_by(left, above, below), min(each), max(each))
        out.append([name, str(len(left)), str(above + below), *(f"{number:.4f}" for number in numbers)])
    said = f"large above {early:.3f} and below {late:.3f}"
    return f"The boundaries of {MAIN}, rule budget ({said}), on other ladders, by the errors measured there\n{aligned(out)}"


def left_by(left: Sequence[float], early: int, late: int) -> float:
    """The sum over the small expert's steps, between so many large ones."""
    return sum(left[early : len(left) - late])


def chosen_by_budget(study: Study, left: Sequence[float]) -> tuple[float, float]:
    """Noise shares at which the small expert begins and ends."""
    return bounds((*study.levels, 0.0), *study.interval(left))


def bounds(levels: Sequence[float], early: int, late: int) -> tuple[float, float]:
    """Noise shares, midway between levels, at which so many large steps before end, and so many behind begin."""
    ends = len(levels) - 1 - late
    return (
        (levels[early - 1] + levels[early]) / 2 if early else 1.0,
        (levels[ends - 1] + levels[ends]) / 2 if late else 0.0,
    )


def knots(levels: Sequence[float], curve: Sequence[float]) -> tuple[float, ...]:
    return tuple((levels[k] + levels[k - 1]) / 2 for k in two_knots(levels, curve))


def spread(values: Sequence[float]) -> Interval:
    """The first of some values, with what the middle 95 % of the others span."""
    low, high = torch.tensor(values[1:], dtype=torch.float64).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return Interval(values[0], low, high)


# --- videos ------------------------------------------------------------------------------------------------------


def column(row: Mapping[tuple[int, int], Line], measure: str) -> dict[tuple[int, int], float]:
    found = {cell: {**line, **line["scores"]} for cell, line in row.items()}  # both have a "prompt": here the score
    return {cell: float(values[measure]) for cell, values in found.items() if measure in values}


def cells(table: Table, measure: str, *names: str) -> Cells:
    return Cells.of({name: column(table[name], measure) for name in names})


def videos(title: str, table: Table) -> str:
    """A row per way, over its own prompts; the search for boundaries is summed up in the answers."""
    out = [["", "n", "operations", "seconds", *ORACLE, *LIKENESS, *(f"{m}, normalised" for m in LIKENESS)]]
    for name, row in table.items():
        if name.startswith("search"):
            continue
        texts = [name, str(len(row)), share(table, name, "flops"), share(table, name, "seconds")]
        texts += [
            str(Cells.of({name: found}).mean(name)) if (found := column(row, m)) else "-" for m in (*ORACLE, *LIKENESS)
        ]
        out.append([*texts, *(str(normalised(table, m, name) or "-") for m in LIKENESS)])
    return f"{title} (operations and seconds: shares of LLL's)\n{aligned(out)}"


def share(table: Table, name: str, measure: str) -> str:
    if "LLL" not in table or not column(table[name], measure).keys() & column(table["LLL"], measure).keys():
        return "-"
    both = cells(table, measure, name, "LLL")
    one, whole = (both.methods.index(each) for each in (name, "LLL"))
    return str(both.interval(lambda m: m[..., one] / m[..., whole]))


def normalised(table: Table, measure: str, name: str) -> Interval | None:
    """Likeness to the large expert's video between another seed's (0) and that of noise changed by 1 % (1)."""
    names = (name, "other seed", "nudged")
    if any(each not in table for each in names):
        return None
    found = cells(table, measure, *names)
    own, other, near = (found.methods.index(each) for each in names)
    return found.interval(lambda m: (m[..., own] - m[..., other]) / (m[..., near] - m[..., other]))


# --- answers -----------------------------------------------------------------------------------------------------


def answers(
    table: Table, found: Mapping[str, Calibration], own: Mapping[str, Study], brief: Calibration | None = None
) -> str:
    """The questions that have the rows they need."""
    asked: list[tuple[str, list[Claim]]] = []
    fewer = () if brief is None else brief_names(brief.ladder.steps)
    whole = (*(f"LSL {rule}" for rule in RULES), DISTILLED, f"any schedule {BUDGET}", *fewer, f"{FEWER} {BUDGET}")
    for name in whole:
        if all(row in table for row in ("LLL", "SSS", name)):
            asked.append((f"Is {name} as good as the large expert alone, for less?", as_good(table, name)))
    if "LSL budget" in table:
        n = large_steps(found[MAIN])
        others = [name for name in EQUAL if name in table]
        title = f"Is LSL budget better than {n} large steps elsewhere? (difference)"
        asked.append((title, placed(table, "LSL budget", others)))
        if DISTILLED in table:
            title = "Is a distilled expert between better than the small one? (difference)"
            asked.append((title, placed(table, DISTILLED, ["LSL budget"])))
    for solver, prefix in ((MAIN, ""), (SECOND, f"{SECOND}: ")):
        if all(f"{prefix}{row}" in table for row in ("LLL", "SSS", "LSL budget")):
            title = f"How far is LSL budget from the best boundary of all, by {solver}?"
            claims = regret(table, prefix, large_steps(found[solver]))
            asked.append((title, [*claims, *drawn_anew(table, prefix, large_steps(found[solver]), own[solver])]))
    if any(f"any schedule {share_}" in table for share_ in CURVE):
        asked.append(("Does the best schedule of any candidates dominate one interval?", dominates(table)))
    beside = {
        name: f"{FEWER} {share_}" for share_ in CURVE for name in (f"one interval {share_}", f"any schedule {share_}")
    }
    for name, other in (beside | dict.fromkeys(fewer, f"{FEWER} {BUDGET}")).items():
        if {name, other} <= table.keys():
            title = f"Is {name} better than the large expert alone, in as few steps as cost no more? (difference)"
            asked.append((title, placed(table, name, [other])))
    return questions(asked, "Questions. p: sign flips of prompts' means, Holm over all {n} tests below.")


def enough(found: Cells, verdict: str) -> str:
    """The verdict, if there are prompts enough for a bootstrap to mean something."""
    n = len(found.counts)
    return verdict if n >= FEWEST else f"too few prompts to say ({n}; needs {FEWEST})"


def judged(found: Interval, least: float) -> str:
    return "yes" if found.low >= least else "no" if found.high < least else "undecided"


def as_good(table: Table, name: str) -> list[Claim]:
    """Cheaper, faster, no worse by the oracle, and like it."""
    both = cells(table, "flops", name, "LLL")
    saved = both.interval(lambda m: 1 - m[..., 0] / m[..., 1])
    # Operations are counted, not measured: the same for every prompt.
    claims = [Claim(f"operations saved {saved}, claimed {CHEAPER}", judged(saved, CHEAPER))]
    for clock in ("seconds", "clock"):
        if not column(table[name], clock).keys() & column(table["LLL"], clock).keys():
            continue  # all of it was made beside other work
        both = cells(table, clock, name, "LLL")
        faster = both.interval(lambda m: m[..., 1] / m[..., 0])
        by = "on its core" if clock == "seconds" else "by the clock"
        text = f"times faster, {by}: {faster} over {len(both.counts)} prompts, claimed {FASTER}"
        claims.append(Claim(text, enough(both, judged(faster, FASTER))))
    claims += [inferiority(table, name, measure) for measure in ORACLE]
    for measure in LIKENESS:
        like = normalised(table, measure, name)
        if like is not None:
            both = cells(table, measure, name)
            claims.append(Claim(f"{measure}, normalised: {like}, claimed {LIKE}", enough(both, judged(like, LIKE))))
    return claims


def inferiority(table: Table, name: str, measure: str) -> Claim:
    """How far a row stays behind LLL, as a share of what LLL and SSS span."""
    three = cells(table, measure, name, "LLL", "SSS")
    span = three.difference("LLL", "SSS")
    if span.low <= 0:
        return Claim(f"{measure}: LLL - SSS is {span}", enough(three, "SSS is not seen to be worse, so no answer"))
    lacks = three.interval(lambda m: (m[..., 1] - m[..., 0]) / (m[..., 1] - m[..., 2]))
    verdict = "yes" if lacks.high <= MARGIN else "no" if lacks.low > MARGIN else "undecided"
    return Claim(f"{measure}: lacks {lacks} of the span, which is {span}; margin {MARGIN}", enough(three, verdict))


def placed(table: Table, name: str, others: Sequence[str]) -> list[Claim]:
    """A row minus each other, in everything."""
    claims = []
    for other in others:
        for measure in (*LIKENESS, *ORACLE):
            both = cells(table, measure, name, other)
            found, each = both.difference(name, other), both.differences(name, other)
            verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "no difference seen"
            wins = f"{sum(d > 0 for d in each)} prompts up and {sum(d < 0 for d in each)} down of {len(each)}"
            claims.append(Claim(f"{other}: {measure} {found}, {wins}", enough(both, verdict), sign_flip(each)))
    return claims


def regret(table: Table, prefix: str, n: int) -> list[Claim]:
    """What the automatic boundary lacks of the best one with as many large steps, as a share of the LLL-SSS span."""
    names = [f"{prefix}search {early}+{n - early}" for early in range(n + 1)]
    names = [name for name in names if name in table]
    claims = []
    for measure in reversed(LIKENESS):
        all_ = cells(table, measure, f"{prefix}LSL budget", f"{prefix}LLL", f"{prefix}SSS", *names)
        best, worst = (pick(range(3, 3 + len(names)), key=lambda i: float(all_.means[i])) for pick in (max, min))
        found = all_.interval(lambda m, best=best: lacks(m, 0, best))
        verdict = "yes" if found.high <= MARGIN else "no" if found.low > MARGIN else "undecided"
        won = all_.methods[best].removeprefix(prefix)
        text = f"{measure}: lacks {found} of the span; the best of {len(names)} is {won}; below {MARGIN}"
        claims.append(Claim(f"{text} (the worst lacks {lacks(all_.means, worst, best):.3f})", enough(all_, verdict)))
    return claims


def lacks(m: Any, one: int, best: int) -> Any:
    """What one row lacks of the best, as a share of the span between the second and the third."""
    return (m[..., best] - m[..., one]) / (m[..., 1] - m[..., 2])


def drawn_anew(table: Table, prefix: str, n: int, own: Study) -> list[Claim]:
    """The same of the boundaries that other prompts to calibrate with would have given: those that were there, drawn
    anew. A choice with another number of large steps was not played, and is left out."""
    chosen = [own.interval(left) for left in own.resampled(LEFT)]
    names = {f"{prefix}search {early}+{n - early}": early for early in range(n + 1)}
    names = {name: early for name, early in names.items() if name in table}
    claims = []
    for measure in reversed(LIKENESS):
        all_ = cells(table, measure, f"{prefix}LLL", f"{prefix}SSS", *names)
        whole, small, *each = all_.means.tolist()
        short = {
            early: (max(each) - value) / (whole - small) for early, value in zip(names.values(), each, strict=True)
        }
        found = [short[early] for early, late in chosen if early + late == n and early in short]
        if not found:
            continue
        within = fmean(value < MARGIN for value in found)
        first = fmean(early == 0 for early, late in chosen)
        text = (
            f"{measure}, from {len(own.curves)} prompts to calibrate with, drawn anew {len(found)} times: lacks "
            f"{fmean(found):.3f}; the small expert is first in {first:.0%}; below {MARGIN} in {within:.0%}"
        )
        claims.append(Claim(text, "beside it"))
    return claims


def dominates(table: Table) -> list[Claim]:
    """At each budget: no dearer, and more like the large expert's, and better by the oracle."""
    claims = []
    for budget in CURVE:
        one, other = f"any schedule {budget}", f"one interval {budget}"
        if one not in table or other not in table:
            continue
        cost = cells(table, "flops", one, other).interval(lambda m: m[..., 0] / m[..., 1])
        for measure in (*LIKENESS, *ORACLE):
            both = cells(table, measure, one, other)
            found, each = both.difference(one, other), both.differences(one, other)
            better = found.low > 0 and cost.value <= 1 + 1e-9
            verdict = "yes" if better else "no, worse" if found.high < 0 else "not shown"
            text = f"budget {budget}: {measure} {found}, at {cost.value:.2f} of the operations"
            claims.append(Claim(text, enough(both, verdict), sign_flip(each)))
    return claims
