"""What commands have in common: their arguments and options."""

from pathlib import Path
from typing import Annotated

import typer

PromptArgument = Annotated[
    str | None,
    typer.Argument(help="What to show; of a story, what all events share. Without it, the recipe's own example."),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-r", help="A shipped recipe's name, or a .yaml file; sprites without it.", show_default=False
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        help="Where to write: .mp4, .gif, .webp, .npz, or a folder for PNG. An older video is replaced; a run that is kept beside it is gone on with.",
    ),
]
FramesOption = Annotated[int | None, typer.Option("--frames", help="How many frames.")]
SecondsOption = Annotated[float | None, typer.Option("--seconds", help="How long, instead of --frames.")]
EventOption = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        metavar="'2s: TEXT'",
        help="What happens from then on, once for each event; times as 2s, 16f, 25%, 2s-4s, or none.",
    ),
]
SharedOption = Annotated[
    str | None, typer.Option("--shared", metavar="TEXT", help="What all events share; the prompt in another place.")
]
FadeOption = Annotated[
    str | None, typer.Option("--fade", metavar="TIME", help="How long each event passes into the next, as in 1s.")
]
StoryOption = Annotated[
    Path | None, typer.Option("--story", metavar="FILE", help="A file with the shared text and the events.")
]
SizeOption = Annotated[
    str | None, typer.Option("--size", metavar="WxH", help="How large, in pixels, as in 640x480.", show_default=False)
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Same seed, same video.")]
JudgeOption = Annotated[
    str | None,
    typer.Option("--by", metavar="EXPERT", help="Who judges takes; the last stage's first expert unless said."),
]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Keep what is finished there, so that `resume` can go on. OUT.run without it, if the video comes in pieces.",
    ),
]
PreviewOption = Annotated[bool, typer.Option("--preview", help="Write OUT-preview.png anew after every piece.")]
VramOption = Annotated[
    str | None,
    typer.Option("--vram", metavar="8GB", help="The memory that the device is taken to have; what is free without it."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change any value of the recipe.")
]
