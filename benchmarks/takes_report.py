"""Result lines of takes to tables and answers, as text."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from harness import Claim, questions
from report import aligned, share

from dovetail.eval.stats import Cells, sign_flip

Lines = Sequence[Mapping[str, Any]]
CLIP = ("prompt", "presence", "right")
LONG = ("prompt", "presence", "identity", "ground", "motion_right", "whole")
SHARES = ("right", "whole")
"""Measures that a video has or has not."""


def report(lines: Lines, experts: str) -> str:
    """All tables and answers of these lines."""
    if not lines:
        return "no results yet\n"
    kind = "trained networks" if experts == "trained" else "EXACT experts: closed-form denoisers, nothing trained"
    machines = sorted({line["machine"] for line in lines})
    parts = [
        f"Takes of sprites. Experts: {kind}.\n" + "\n".join(f"Machine: {name}" for name in machines),
        "Means over prompts with 95 % intervals, cluster bootstrap over prompts; shares of prompts (right: all that was asked\n"
        "for, in every frame; whole: identity and background all along): Wilson. first: the first seed; best of n: the one of\n"
        "the first n seeds that an expert of the recipe finds the prompt in; any: all takes, so what a seed is worth that nobody\n"
        "chose; ideal: whichever of them the oracle likes best, which nothing that is blind to the oracle can be sure to reach.",
    ]
    asked: list[tuple[str, list[Claim]]] = []
    for row in dict.fromkeys(line["row"] for line in lines):
        mine = [line for line in lines if line["row"] == row]
        ways, measures = (long(mine), LONG) if "first" in mine[0] else (clips(mine), CLIP)
        parts.append("\n".join([table(row, ways, measures, len(mine)), ranks(mine), cost(mine)]))
        other = "any" if "any" in ways else "first"
        asked += [
            (f"{row}: is '{best}' better than '{other}'?", claims(ways, best, other, measures))
            for best in ways
            if best.startswith("best")
        ]
    return (
        "\n\n".join([*parts, questions(asked, "Questions; p by sign flips over prompts, Holm over {n} tests")]) + "\n"
    )


Ways = Mapping[str, Mapping[tuple[int, int], Mapping[str, float]]]


def clips(lines: Lines) -> Ways:
    """What is seen in the take that each way of choosing takes, by prompt."""
    most = min(len(line["takes"]) for line in lines)
    counts = [n for n in (2, 4, 8) if n <= most]
    ways: dict[str, Callable[[Lines], Mapping[str, float]]] = {"first": lambda takes: takes[0]["scores"]}
    ways |= {
        f"best of {n}": lambda takes, n=n: max(takes[:n], key=lambda take: take["evidence"])["scores"] for n in counts
    }
    ways["any"] = lambda takes: {name: fmean(take["scores"][name] for take in takes) for name in CLIP}
    ways["ideal"] = lambda takes: max(
        (take["scores"] for take in takes), key=lambda s: (s["right"], s["prompt"], s["presence"])
    )
    return {name: {(line["prompt"], 0): way(line["takes"]) for line in lines} for name, way in ways.items()}


def long(lines: Lines) -> Ways:
    """Long videos of the first seed and of the chosen one."""
    taken = len(lines[0]["takes"])
    return {
        name: {(line["prompt"], 0): line[word] for line in lines}
        for name, word in (("first", "first"), (f"best of {taken}", "chosen"))
    }


def of(way: Mapping[tuple[int, int], Mapping[str, float]], measure: str) -> dict[tuple[int, int], float]:
    return {cell: scores[measure] for cell, scores in way.items() if measure in scores}


def table(row: str, ways: Ways, measures: Sequence[str], prompts: int) -> str:
    out = [["", *measures]]
    for name, way in ways.items():
        found = [of(way, measure) for measure in measures]
        whole = [measure in SHARES and name != "any" for measure in measures]
        cells = [
            str(share(one)) if is_share else str(Cells.of({name: one}).mean(name)) if one else "-"
            for one, is_share in zip(found, whole, strict=True)
        ]
        out.append([name, *cells])
    return f"{row}, {prompts} prompts\n" + aligned(out)


def ranks(lines: Lines) -> str:
    """Of pairs of takes of which one is right, in how many it is ranked first; prompts count alike."""
    found = {}
    for line in lines:
        right, wrong = (
            [take["evidence"] for take in line["takes"] if take["scores"]["right"] == is_] for is_ in (1, 0)
        )
        if right and wrong:
            found[line["prompt"], 0] = fmean(float(one > other) for one in right for other in wrong)
    if not found:
        return "no prompt has both takes that are right and takes that are not"
    told = f"of two takes, the one that is right is ranked first in {Cells.of({'': found}).mean('')} of pairs"
    return f"{told} ({len(found)} prompts that have both)"


def cost(lines: Lines) -> str:
    """What judging adds to the takes themselves."""
    timed = [line for line in lines if "judging" in line]
    if not timed:
        return "no times"
    added = fmean(line["judging"] / (line["seconds"] - line["judging"]) for line in timed)
    return f"judging takes {added:.2f} of the time that the takes themselves do ({len(timed)} prompts)"


def claims(ways: Ways, best: str, other: str, measures: Sequence[str]) -> list[Claim]:
    """The chosen one less another, measure by measure."""
    found = []
    for measure in measures:
        both = {name: of(ways[name], measure) for name in (best, other)}
        if not all(both.values()):
            continue
        cells = Cells.of(both)
        gap, differences = cells.difference(best, other), cells.differences(best, other)
        better, worse = (sum(sign * each > 1e-9 for each in differences) for sign in (1, -1))
        verdict = "better" if gap.low > 0 else "worse" if gap.high < 0 else "no difference seen"
        text = f"{measure}: {gap}, {better} prompts better and {worse} worse of {len(differences)}"
        found.append(Claim(text, verdict, sign_flip(differences)))
    return found
