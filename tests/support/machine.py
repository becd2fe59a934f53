"""The machine that a figure was measured on."""

import os
import platform
from pathlib import Path

LEVELS = {"AMX": "amx_int8", "AVX-512 VNNI": "avx512_vnni", "AVX VNNI": "avx_vnni"}
"""Instructions for 8-bit products, best first, and the flag in /proc/cpuinfo of a CPU that has them."""


def machine() -> str:
    """Example: ``AMD EPYC, 2 cores``; without its name on arm64, where Linux does not say it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def level(*, masked: bool = False) -> str:
    """The best of LEVELS, or ``AVX2``, or what kind of CPU it is; ``masked``: without AMX."""
    flags = Path("/proc/cpuinfo").read_text().split()
    without = "AVX2" if "avx2" in flags else platform.machine()
    return next((name for name, flag in LEVELS.items() if flag in flags and not (masked and name == "AMX")), without)
