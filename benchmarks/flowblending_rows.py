"""Who takes each step, by name: what calibration chose, what the paper compares with, and every boundary there is."""

from collections.abc import Mapping
from dataclasses import dataclass

from dovetail.calibrate import Calibration
from dovetail.calibrate.choose import interval, mixture
from dovetail.calibrate.running import errors_of, small_of
from dovetail.methods.placements import WAN_22, interleaved, sandwich, scattered, stitched

MAIN, SECOND = "unipc", "euler"
"""Solvers; most is asked of the first."""
BUDGET = 0.55
"""Of the large expert's operations, at most, for the schedule that the claims are about."""
CURVE = (0.3, 0.4, 0.55, 0.7)
"""Budgets at which any schedule is compared with one interval of the small expert."""
ENDS = ("LLL", "SSS", "other seed", "nudged")
"""Who is never missing: the large expert alone, the small one alone, and the large one from other noise and from
noise that is changed by 1 %, between which likeness is normalised."""
EQUAL = ("LSS", "SLL", "random", "interleaved")
"""As many large steps as the automatic LSL has, elsewhere."""
FIXED = f"LSS at {WAN_22:g}"
"""Wan 2.2's boundary, wherever that is on the ladder: as many large steps as lie above it."""
RULES = ("budget", "fit", "sweep")
"""Those that know two experts."""
FEWER = "fewer steps"
"""What every schedule has to be worth more than: the large expert alone, in as many steps as the same operations pay."""
BRIEF = 0.7
"""Of the steps, on a ladder for which the same operations pay more large steps than small ones. Of several it was the
best on prompts that no table uses (docs/log.md)."""
DISTILLED = "LDL"
"""The large steps of the automatic LSL, and a distilled expert between; of experts that have one."""


@dataclass(frozen=True)
class Way:
    """A video's solver, the places of the candidates that take its steps, and what is done to its first noise.

    A choice of another length is of the same ladder in as many steps. distilled: large steps before and behind the
    distilled expert, which takes its own levels between; no `choice` then.
    """

    solver: str
    choice: tuple[int, ...]
    start: str = ""
    distilled: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The same for every row that is made so."""
        who = "".join("abcdefghijklmnop"[place] for place in self.choice)
        if self.distilled is not None:
            who = "LDL {}+{}".format(*self.distilled)
        return " ".join(part for part in (self.solver, who, self.start) if part)


def rows(found: Mapping[str, Calibration], prompt: int, brief: Calibration | None = None) -> dict[str, Way]:
    """Every row by name, for a prompt: its steps differ from prompt to prompt only where they are random.

    found: the calibration of each solver; brief: that of the first on a ladder of fewer steps.
    """
    made = of_solver(found[MAIN], MAIN) | compared(found[MAIN], prompt)
    if brief is not None:
        made |= in_fewer(brief)
    return made | {f"{SECOND}: {name}": way for name, way in of_solver(found[SECOND], SECOND).items()}


def of_solver(found: Calibration, solver: str) -> dict[str, Way]:
    """The ends, the automatic boundaries, and every boundary with as many large steps as `LSL budget` has."""
    steps, n = found.ladder.steps, large_steps(found)
    whole, small = Way(solver, (0,) * steps), Way(solver, placed(found, "S" * steps))
    made = {"LLL": whole, "SSS": small} | {start: Way(solver, whole.choice, start) for start in ENDS[2:]}
    made |= {f"LSL {rule}": Way(solver, found.choices[rule].choice) for rule in RULES if rule in found.choices}
    for early in range(n + 1):
        made[f"search {early}+{n - early}"] = Way(solver, placed(found, sandwich(steps, early, n - early)))
    return made


def compared(found: Calibration, prompt: int) -> dict[str, Way]:
    """What LSL is compared with at equal operations, Wan 2.2's boundary, and schedules of any candidates at several
    budgets."""
    steps, n = found.ladder.steps, large_steps(found)
    letters = {
        "LSS": sandwich(steps, n, 0),
        "SLL": stitched(steps, steps - n),
        "random": scattered(steps, n, prompt),
        "interleaved": interleaved(steps, n),
        FIXED: sandwich(steps, sum(t > WAN_22 for t in found.ladder.levels[:-1]), 0),
    }
    made = {name: Way(MAIN, placed(found, word)) for name, word in letters.items()}
    made[DISTILLED] = Way(MAIN, (), distilled=around(found.choices["budget"].choice))
    return made | chosen(found)


def chosen(found: Calibration) -> dict[str, Way]:
    """One interval of the small expert, and any candidates or fewer steps of the large one for no more than that, at
    every budget that reaches."""
    case, errors, made = found.case, errors_of(found.case, found.weighted), dict[str, Way]()
    for share in CURVE:
        budget = share * case.costs[0] * found.ladder.steps
        try:
            one = interval(case.costs, errors, budget=budget, small=small_of(case))
            made[f"one interval {share}"] = Way(MAIN, one.choice)
            made[f"{FEWER} {share}"] = Way(MAIN, (0,) * int(one.cost / case.costs[0]))
            any_ = mixture(case.costs, errors, budget=one.cost, follows=case.follows)
            made[f"any schedule {share}"] = Way(MAIN, any_.choice)
        except ValueError:  # even the cheapest costs more
            continue
    return made


def in_fewer(found: Calibration) -> dict[str, Way]:
    """The automatic boundaries on a ladder of fewer steps, and any candidates for no more than that."""
    case, steps, lsl = found.case, found.ladder.steps, found.choices["budget"]
    any_ = mixture(case.costs, errors_of(case, found.weighted), budget=lsl.cost, follows=case.follows)
    return {name: Way(MAIN, each.choice) for name, each in zip(brief_names(steps), (lsl, any_), strict=True)}


def brief_names(steps: int) -> tuple[str, str]:
    return f"LSL budget, {steps} steps", f"any schedule {BUDGET}, {steps} steps"


def around(choice: tuple[int, ...]) -> tuple[int, int]:
    """Large steps before and behind all others."""
    small = [k for k, place in enumerate(choice) if place != 0]
    return (small[0], len(choice) - 1 - small[-1]) if small else (len(choice), 0)


def large_steps(found: Calibration) -> int:
    return found.choices["budget"].choice.count(0)


def placed(found: Calibration, letters: str) -> tuple[int, ...]:
    """Letters, a step each, as places of candidates."""
    small = small_of(found.case)
    return tuple(0 if letter == "L" else small for letter in letters)
