"""Stories: events with times, over one text that they share. What a time says, where events lie, and how that looks.

Times are text: `2s` seconds, `0:02` minutes and seconds, `16f` frames of the video, `25%` of the video. Nothing here
imports torch.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import dedent
from typing import Any, Protocol

UNITS = "seconds|second|secs|sec|s|frames|frame|f|%"
CLOCK = r"\d+:[0-5]\d(?:\.\d+)?"
MOMENT = rf"(?:{CLOCK}|\d+(?:\.\d+)?\s*(?:{UNITS}))"
"""A time, as people write it."""

WIDTH = 64
"""Columns of a drawn timeline."""

MARKS = "123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What stands for each event in a drawing; later ones share the last."""


class Told(Protocol):
    """An event as it is told: its text, and where it begins and ends, if that is said."""

    @property
    def text(self) -> str: ...
    @property
    def at(self) -> str | None: ...
    @property
    def to(self) -> str | None: ...


@dataclass(frozen=True)
class Span:
    """An event in frames of the video; it stops before `stop`. open: its end was not said."""

    text: str
    start: int
    stop: int
    open: bool = True


@dataclass(frozen=True)
class Gap:
    """Frames of which no event tells; the text of `of`, a neighbour, stands there."""

    start: int
    stop: int
    of: Span


# --- times -------------------------------------------------------------------------------------------------------


def moment(text: str) -> str:
    """A time in its shortest form. Raises ValueError for what is none.

    >>> moment("2.5 seconds"), moment("16 frames"), moment("25 %"), moment("1:30")
    ('2.5s', '16f', '25%', '90s')
    """
    if re.fullmatch(CLOCK, text.strip()):
        minutes, _, rest = text.partition(":")
        return f"{60 * int(minutes) + float(rest):g}s"
    read = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*({UNITS})\s*", text)
    if read is None:
        raise ValueError(f"{text!r} is no time; times have a unit: 2s (seconds), 16f (frames), 25% (of the video)")
    return read[1] + read[2][0]


def frame(time: str, frames: int, fps: float) -> int:
    """The frame of a video at which a time lies.

    >>> frame("2s", 96, 8.0), frame("16f", 96, 8.0), frame("25%", 96, 8.0)
    (16, 16, 24)
    """
    number = float(time[:-1])
    return round({"s": number * fps, "f": number, "%": number / 100 * frames}[time[-1]])


def in_shares(event: Told) -> bool:
    """Whether an event's times are shares of the video, so that they move with its length."""
    return any(time is not None and time.endswith("%") for time in (event.at, event.to))


def seconds(frames: float, fps: float) -> str:
    """So many frames, in seconds.

    >>> seconds(12, 8.0)
    '1.5s'
    """
    return f"{round(frames / fps, 2):g}s"


# --- events as text ----------------------------------------------------------------------------------------------


_SPAN = rf"({MOMENT})(?:\s*(?:[-\u2013]|to)\s*({MOMENT}))?"
_TIMED = (rf"\s*(?:at\s+)?{_SPAN}\s*:\s*(.*)", rf"\s*[(\[]\s*{_SPAN}\s*[)\]]\s*:?\s*(.*)")
"""An event with its time, as it is written and as language models like to write it."""
_NUMBERED = r"\s*(?:event|scene|shot)\s+\d+\s*(?:[:.\u2013-]\s*|(?=[(\[]))"
"""What they put before it."""


def event(text: str) -> dict[str, str]:
    """An event from text: `2s: it turns`, `2s-4s: it turns`, `[2s] it turns`, or without a time; a number, as in
    `Event 1: ..`, is passed over. Raises ValueError.

    >>> event("2s: it turns: down"), event("it turns")
    ({'at': '2s', 'text': 'it turns: down'}, {'text': 'it turns'})
    """
    bare = re.sub(r"^(\s*)(\*\*|__)(.*?)\2", r"\1\3", text)
    bare = re.sub(rf"^{_NUMBERED}", "", bare, flags=re.IGNORECASE)
    for pattern in _TIMED:
        if (read := re.fullmatch(pattern, bare, re.DOTALL)) is not None:
            times = {"at": moment(read[1])} | ({"to": moment(read[2])} if read[2] else {})
            return {**times, "text": read[3].strip()}
    head, colon, _ = bare.partition(":")
    if colon and re.match(r"\s*[-+.]?\d", head):
        raise ValueError(
            f"{head.strip()!r} is no time; an event is written '2s: it turns', '2s-4s: ..', '16f: ..' (frames) or '25%: "
            "..' (of the video); if this is the text itself, a time goes before it, as in '0s: ..'"
        )
    if (forgot := re.match(rf"\s*(?:at\s+)?{_SPAN}(?=\s|$)", bare)) is not None:
        time = forgot[0].strip()
        raise ValueError(
            f"{text.strip()!r} begins with a time and has no colon behind it, as in '{time}: ..'; if this is the text itself, a "
            "time goes before it, as in '0s: ..'"
        )
    return {"text": bare.strip()}


def joined(shared: str, local: str) -> str:
    """What an expert is told: the shared text, and an event's.

    >>> joined("a red circle", "it moves left"), joined("A room. Night.", "It rains.")
    ('a red circle, it moves left', 'A room. Night. It rains.')
    """
    shared, local = shared.strip(), local.strip()
    if not shared or not local:
        return shared or local
    return f"{shared} {local}" if shared[-1] in ".,;:!?" else f"{shared}, {local}"


@dataclass(frozen=True)
class Scenario:
    """A story as it is told. events: texts, or mappings with text, at and to; shared: None where it is not said;
    seconds: how long the video is; by: who takes an event, as in a recipe, which the plain format does not say."""

    events: tuple[Any, ...]
    shared: str | None = None
    fade: str | None = None
    seconds: float | None = None
    by: str | None = None


KEYS = ("shared", "fade", "seconds", "by")
STRANGE = (
    "title",
    "name",
    "story",
    "scenario",
    "scene",
    "prompt",
    "negative",
    "negative prompt",
    "shared text",
    "length",
    "duration",
    "event",
)
"""What else people and language models put before a colon, and what is no event."""


def scenario(text: str, source: str = "story") -> Scenario:
    """Read the plain format of stories (docs/stories.md): `shared:`, `fade:`, `seconds:` and `by:` once each, and one event
    a line. A line that is indented more than the others, and is no event with a time, goes on with the one before; # begins
    a comment; marks of a list and of bold letters are passed over, and so is `events:`. Raises ValueError with the line.

    >>> scenario("shared: a red circle\\n- 0s: it moves left\\n- 2s: it moves right").events[1]
    {'at': '2s', 'text': 'it moves right'}
    """
    said: dict[str, str] = {}
    events = []
    for number, line in _lines(text):
        key, colon, value = (part.strip(" *_") for part in line.partition(":"))
        if colon and key.lower() in KEYS:
            if key.lower() in said:
                raise ValueError(f"{source}, line {number}: '{key}' is said twice")
            said[key.lower()] = value
            continue
        if colon and key.lower() == "events" and not value:
            continue
        if colon and key.lower() in STRANGE:
            raise ValueError(
                f"{source}, line {number}: '{key}' is no key; known: {', '.join(KEYS)}. All else is an event a line"
            )
        try:
            if line.startswith("|") or (colon and not value):
                raise ValueError(f"{line!r} is no event; an event is a line such as '2s: it turns down', in no table")
            events.append(event(line))
        except ValueError as error:
            raise ValueError(f"{source}, line {number}: {error}") from None
    if not events:
        raise ValueError(f"{source}: no event in it; an event is a line such as '2s: it turns down'")
    length = said.get("seconds")
    if length is not None and not re.fullmatch(r"\d+(\.\d+)?\s*s?", length):
        raise ValueError(f"{source}: seconds are a number, as in 'seconds: 12', not {length!r}")
    try:
        fade = moment(said["fade"]) if "fade" in said else None
    except ValueError as error:
        raise ValueError(f"{source}: fade: {error}") from None
    if (by := said.get("by")) not in (None, "window", "frame"):
        raise ValueError(f"{source}: by is window or frame, not {by!r}")
    lasts = None if length is None else float(length.rstrip("s ").strip())
    return Scenario(tuple(events), said.get("shared"), fade, lasts, by)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line of a file with its number: without comments and marks of a list, and with what goes on below it."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(dedent(text.expandtabs()).splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith(("#", "```")):
            continue
        item = re.sub(r"^(?:[-*\u2022]\s+|\d+[.)]\s+)", "", bare)
        if line[0].isspace() and item == bare and found and not any(re.fullmatch(one, bare) for one in _TIMED):
            found[-1] = (found[-1][0], f"{found[-1][1]} {bare}")
        else:
            found.append((number, item))
    return iter(found)


# --- where events lie --------------------------------------------------------------------------------------------


def laid(events: Sequence[Told], frames: int, fps: float, fade: str | None = None) -> tuple[Span, ...]:
    """The events in frames of the video. Those without a time stand evenly between their neighbours, all of them even
    over the video. Raises ValueError, with the timeline drawn, for events that overlap, go back or lie outside.
    """
    spans = _spread(events, frames, fps)
    # Where events are in no order the video's length, if it follows from the last one, means nothing.
    order = [*_disorder(spans, fps)] or [*_outside(spans, frames, fps)]
    if wrong := [*order, *_fading(spans, frames, fps, fade)]:
        raise ValueError("\n".join([*wrong, "", *drawn(spans, frames, fps)]))
    return spans


def _spread(events: Sequence[Told], frames: int, fps: float) -> tuple[Span, ...]:
    told = [None if one.at is None else frame(one.at, frames, fps) for one in events]
    stops = [None if one.to is None else frame(one.to, frames, fps) for one in events]
    starts: list[float] = []
    for i, start in enumerate(told):
        if start is not None:
            starts.append(start)
            continue
        # The next that is told, or the end; those between share the way there, from where the last one ended.
        ahead = next((k for k in range(i, len(told)) if told[k] is not None), len(told))
        goal = frames if ahead == len(told) else told[ahead]
        assert goal is not None
        before = stops[i - 1] if i else 0
        if before is not None:
            starts.append(before)
        else:
            starts.append(starts[-1] + (goal - starts[-1]) / (ahead - i + 1))
    ends = [*starts[1:], frames]
    return tuple(
        Span(one.text, round(start), round(end) if stop is None else stop, stop is None)
        for one, start, end, stop in zip(events, starts, ends, stops, strict=True)
    )


def _disorder(spans: Sequence[Span], fps: float) -> Iterator[str]:
    """What is wrong with the order of events."""
    for i, span in enumerate(spans, 1):
        if not span.open and span.stop <= span.start:
            yield f"event {i} ends at {seconds(span.stop, fps)}, not after its start at {seconds(span.start, fps)}"
    for i, (one, other) in enumerate(pairwise(spans), 1):
        start = seconds(other.start, fps)
        if other.start < one.start:
            yield f"events follow one another, but event {i + 1} begins at {start}, before event {i}; put them in order"
        elif other.start == one.start:
            yield f"events {i} and {i + 1} begin at the same frame, at {start}; one of them would have no time"
        elif one.stop > other.start:
            yield (
                f"events {i} and {i + 1} overlap: one ends at {seconds(one.stop, fps)}, the other begins at {start}; for "
                "one that passes into the next, leave out the end and say fade: 1s"
            )


def _outside(spans: Sequence[Span], frames: int, fps: float) -> Iterator[str]:
    """Which events lie outside the video."""
    for i, span in enumerate(spans, 1):
        where = f"begins at {seconds(span.start, fps)}" if span.start >= frames else ""
        if not where and not span.open and span.stop > frames:
            where = f"ends at {seconds(span.stop, fps)}"
        if where:
            yield (
                f"event {i} {where}, but the video ends at {seconds(frames, fps)} ({frames} frames at {fps:g} fps); put the "
                "event earlier, or make the video longer"
            )


def _fading(spans: Sequence[Span], frames: int, fps: float, fade: str | None) -> Iterator[str]:
    """Whether the cross-fades have room: what is wrong first, and the longest fade of which nothing is."""
    changes = [span.start for span in spans[1:]]
    if fade is None or not changes:
        return
    length, (first, last) = frame(fade, frames, fps), (changes[0], changes[-1])
    rooms = [
        (2 * first, f"around the change at {seconds(first, fps)} does not begin within the video"),
        (2 * (frames - last), f"around the change at {seconds(last, fps)} does not end within the video"),
    ]
    for a, b in pairwise(changes):
        rooms.append((b - a, f"is longer than an event of {seconds(b - a, fps)}, so three texts would stand at once"))
    rooms = [(room, wrong) for room, wrong in rooms if room > 0]
    for room, wrong in rooms:
        if room < length:
            most = seconds(min(room for room, _ in rooms), fps)
            yield f"a fade of {seconds(length, fps)} {wrong}; take fade {most} or less"
            return


def gaps(spans: Sequence[Span], frames: int) -> Iterator[Gap]:
    """Frames of which no event tells: before the first, between, after the last. The one before goes on there; before
    the first, the first is there already."""
    if spans[0].start > 0:
        yield Gap(0, spans[0].start, spans[0])
    for one, start in zip(spans, [*(span.start for span in spans[1:]), frames], strict=True):
        if one.stop < start:
            yield Gap(one.stop, start, one)


# --- how that looks ----------------------------------------------------------------------------------------------


def mark(number: int) -> str:
    """What stands for an event in a drawing; numbers from 0."""
    return MARKS[min(number, len(MARKS) - 1)]


def drawn(spans: Sequence[Span], frames: int, fps: float, width: int = WIDTH) -> list[str]:
    """The timeline as text: the video, and a row for each event with its time and its text.

    >>> for row in drawn([Span("it moves left", 0, 16), Span("it stands still", 16, 32)], 32, 8.0, width=20):
    ...     print(row)
    video |--------------------| 0s to 4s
    1      1111111111            0s to 2s  it moves left
    2                2222222222  2s to 4s  it stands still
    """
    extent = max([frames, *(max(span.start + 1, span.stop) for span in spans)])
    times = [f"{seconds(span.start, fps)} to {seconds(max(span.start, span.stop), fps)}" for span in spans]
    column = max(map(len, times))
    rows = [
        f"video |{bar([(0, frames, '-')], extent, width).rstrip()}|".ljust(width + 8) + f" 0s to {seconds(frames, fps)}"
    ]
    for i, (span, time) in enumerate(zip(spans, times, strict=True)):
        shown = bar([(span.start, max(span.start + 1, span.stop), mark(i))], extent, width)
        text = span.text if len(span.text) <= 60 else f"{span.text[:57]}..."
        rows.append(f"{mark(i):<5}  {shown}  {time:<{column}}  {text}")
    return rows


def bar(parts: Sequence[tuple[float, float, str]], extent: int, width: int = WIDTH) -> str:
    """A row of a drawing: each part (start, stop, mark) of `extent` frames, in so many columns.

    >>> bar([(0, 2, "a"), (3, 4, "b")], 4, width=8)
    'aaaa  bb'
    """
    row = [" "] * width
    for start, stop, what in parts:
        first = min(round(start / extent * width), width - 1)
        for column in range(first, max(first + 1, round(stop / extent * width))):
            row[min(column, width - 1)] = what
    return "".join(row)
