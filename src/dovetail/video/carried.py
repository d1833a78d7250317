"""The settings that files carry, and manifests beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dovetail.video.places import manifest_of


def settings_in(text: str) -> dict[str, Any]:
    """The settings in a comment or a manifest; those of other programs say nothing to us."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    made = found.get("recipe") if isinstance(found, dict) else None
    return found if isinstance(made, dict) and isinstance(made.get("video", {}), dict) else {}


def beside(path: Path) -> dict[str, Any]:
    """The settings in a video's manifest; none where it has none."""
    manifest = manifest_of(path)
    return settings_in(text_of(manifest)) if manifest.is_file() else {}


def speed_of(settings: Mapping[str, Any]) -> float:
    """Frames per second by the settings; 8 where they say nothing."""
    return float(settings.get("recipe", {}).get("video", {}).get("fps", 8.0))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
