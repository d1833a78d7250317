"""Which machine a number was measured on."""

import platform
import sys
from pathlib import Path

import diffusers
import torch


def machine() -> str:
    """One line: processor, threads, versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = f"{names[0]}, {len(names)} logical cores" if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{cpu}{gpu}; {torch.get_num_threads()} threads; Python {sys.version.split()[0]}, "
        f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    )
