"""A recipe of your own: plain data, checked, run, and written down as YAML that says everything.

An unknown key or word is an error that names its path and the nearest spelling.
"""

from pathlib import Path

import dovetail
from dovetail import recipe

mine = recipe.checked(
    {
        "about": "Two exact experts take one look each: coarse structure from the one, fine detail from the other.",
        "prompt": "a yellow ring moving left on a black striped background",
        "video": {"frames": 16, "seed": 4},
        "experts": {
            "control": {"family": "exact", "kind": "control"},
            "spatial": {"family": "exact", "kind": "spatial"},
            "temporal": {"family": "exact", "kind": "temporal"},
        },
        "codec": {"pixels": 2},
        "chain": [
            {
                "stage": "structure",
                "ladder": {"trailing": {"of": "control", "steps": 6}},
                "solver": "dpm++2m",
                "denoise": "control",
            },
            {
                "stage": "refine",
                "ladder": {"below": {"of": "spatial", "timestep": 100, "steps": 4}},
                "denoise": {"fused": {"spatial": {"framewise": "spatial"}, "temporal": "temporal", "blur": 1.5}},
            },
        ],
    }
)

path = Path("out/mine.yaml")
path.parent.mkdir(exist_ok=True)
path.write_text(recipe.dump(mine))

for name, count in dovetail.plan(path).counts.items():  # what it will cost, before anything is loaded
    print(f"{name}: {count.calls} calls")
video = dovetail.generate(recipe=path)
video.save("out/mine.gif")
