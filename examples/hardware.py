"""The machine and the source that results were made with, and what helps on it."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import latentflow

BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # without one of them it is widened and rounded, number by number
TELLING = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")  # what decides the speed of a product


def hardware(device: torch.device | None = None, devices: int = 1) -> dict[str, Any]:
    """What a reader needs to judge absolute times; ratios of one run need less. To be called before what is measured runs."""
    model, flags = _processor()
    return {
        "machine": platform.machine(),
        "processor": model,
        "instructions": [flag for flag in TELLING if flag in flags],
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None,
        "devices": devices,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _commit(),
    }


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one, which would fault it in again otherwise, 4 KiB at a time.

    Blocks beyond 32 MiB still go back: few of them fit into the gaps that others leave, so keeping them may take several times
    the memory.
    """
    if sys.platform == "linux" and hasattr(allocator := ctypes.CDLL(None), "mallopt"):
        allocator.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: smaller blocks are not the system's own, to go back one by one
        allocator.mallopt(-1, -1)  # M_TRIM_THRESHOLD: nor does what is free at the end of the heap go back


def multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it, or does not tell which it has."""
    _, flags = _processor()
    return not flags or bool(BFLOAT16 & flags)


def _processor() -> tuple[str, set[str]]:
    """Name and instruction sets, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor(), set()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", "") or fields.get("Features", "")
    return fields.get("model name", platform.processor()), set(flags.split())


def _commit() -> str | None:
    """The commit of the library that was measured, marked if files had changed since; None where git does not know it."""
    library = Path(latentflow.__file__)
    # A hook of another repository would have its commands look there.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        for command in (("ls-files", "--error-unmatch", library.name), ("describe", "--always", "--dirty")):
            told = subprocess.run(
                ("git", *command), cwd=library.parent, env=outside, capture_output=True, text=True, check=True
            )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()
