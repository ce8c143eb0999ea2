"""What the examples do for the machine that they run on."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import hardware
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# Of five blocks of 16 MiB: how many glibc has mapped by themselves, to go back to the system when they are freed; and by how
# much its heap shrinks when they are.
TOLD = """
import ctypes
import json
from hardware import keep_freed_memory

class Told(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Told
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
{first}
before = libc.mallinfo2()
blocks = [libc.malloc(2**24) for _ in range(5)]
between = libc.mallinfo2()
for block in blocks:
    libc.free(block)
print(json.dumps([between.hblks - before.hblks, between.arena - libc.mallinfo2().arena]))
"""


def told(first: str) -> tuple[int, int]:
    code = TOLD.format(first=first)
    said = subprocess.run((sys.executable, "-c", code), cwd=EXAMPLES, capture_output=True, text=True, check=True)
    mapped, shrunk = json.loads(said.stdout)
    return mapped, shrunk


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or later"
)
def test_the_memory_of_a_step_is_kept_for_the_next() -> None:
    assert told("pass")[0] == 5, "what it is there for"
    assert told("keep_freed_memory()") == (0, 0)
    assert told("libc.mallopt(-3, 2**25)")[1] > 2**24, "what the other setting is there for"


def test_the_commit_is_that_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of whatever repository its folder happens to lie in, as that of a project whose environment it is installed in."""

    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*command: str) -> str:
        given = ("git", "-c", "user.name=x", "-c", "user.email=x", *command)
        return subprocess.run(
            given, cwd=tmp_path, env=outside, capture_output=True, text=True, check=True
        ).stdout.strip()

    file = tmp_path / "latentflow" / "__init__.py"
    file.parent.mkdir()
    file.write_text("")
    monkeypatch.setattr("latentflow.__file__", str(file))
    git("init")
    monkeypatch.setenv("GIT_DIR", str(Path(__file__).parents[1] / ".git"))  # as in a hook of another repository
    git("commit", "--allow-empty", "-m", "without it")
    assert hardware.hardware()["commit"] is None
    git("add", ".")
    git("commit", "-m", "with it")
    assert hardware.hardware()["commit"] == git("rev-parse", "--short", "HEAD")
    file.write_text("changed = True")
    assert hardware.hardware()["commit"].endswith("-dirty")


@pytest.mark.parametrize(
    ("flags", "multiplies"),
    [({"avx2", "avx512f"}, False), ({"avx512f", "avx512_bf16"}, True), ({"asimd", "bf16"}, True), (set(), True)],
)
def test_a_processor_is_said_to_lack_bfloat16_only_where_it_tells(
    flags: set[str], multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_processor", lambda: ("some processor", flags))
    assert hardware.multiplies_bfloat16() == multiplies
