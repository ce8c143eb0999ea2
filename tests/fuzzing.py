"""Damage to files, drawn from a seed: to their bytes, to what is packed in them, and to the folder that they lie in."""

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

Files = dict[str, bytes | None]  # of a folder, by their paths in it; None is an empty folder
Random = np.random.Generator


class Code:
    """What makes a folder if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def read_files(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_files(files: Files, folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            (folder / name).mkdir(exist_ok=True)
        else:
            (folder / name).write_bytes(content)


def mutated(sound: Files, rng: Random, marker: Path) -> Files:
    """Other files than the sound ones, by at least one to three damages.

    Unpickling anything hostile in them makes the folder `marker`.
    """
    files, damages = dict(sound), rng.choice(3, p=[0.7, 0.2, 0.1]) + 1
    while damages > 0 or files == sound:
        _damage(files, rng, marker)
        damages -= 1
    return files


def _damage(files: Files, rng: Random, marker: Path) -> None:
    name, way = _one_of(sorted(files), rng), rng.random()
    content = files[name]
    if content is None or way < 0.15:
        _one_of(FOLDER, rng)(files, name, rng)
    elif way < 0.25:
        files[name] = _one_of(HOSTILE, rng)(marker)
    elif way < 0.55 and content[:2] in INSIDE:
        files[name] = INSIDE[content[:2]](content, rng, marker)
    else:
        files[name] = _one_of(BYTES, rng)(content, rng)


def _one_of(choices, rng: Random):
    return choices[rng.integers(len(choices))]


def _piece(content: bytes, rng: Random) -> slice:
    """A place of any size, small ones being as likely as large ones."""
    start = int(rng.integers(len(content) + 1))
    return slice(start, min(start + int(2 ** (rng.random() * np.log2(len(content) + 2))), len(content)))


def _put(content: bytes, place: slice, what: bytes) -> bytes:
    return content[: place.start] + what + content[place.stop :]


def flip_bits(content: bytes, rng: Random) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 9)) if content else []:
        damaged[place] ^= 1 << rng.integers(8)
    return bytes(damaged)


def flip_a_bit_of_the_header(content: bytes, rng: Random) -> bytes:
    return flip_bits(content[:64], rng) + content[64:]


def overwrite(content: bytes, rng: Random) -> bytes:
    place = _piece(content, rng)
    return _put(content, place, rng.bytes(place.stop - place.start))


def truncate(content: bytes, rng: Random) -> bytes:
    return content[: rng.integers(len(content) + 1)]


def extend(content: bytes, rng: Random) -> bytes:
    return content + _one_of([rng.bytes(int(rng.integers(1, 999))), content, bytes(int(rng.integers(1, 9999)))], rng)


def splice(content: bytes, rng: Random) -> bytes:
    """A piece of the file over another place of it."""
    what, place = content[_piece(content, rng)], int(rng.integers(len(content) + 1))
    return _put(content, slice(place, place + len(what)), what)[: len(content)]


def insert(content: bytes, rng: Random) -> bytes:
    place = int(rng.integers(len(content) + 1))
    return _put(content, slice(place, place), content[_piece(content, rng)])


def delete(content: bytes, rng: Random) -> bytes:
    return _put(content, _piece(content, rng), b"")


def zero(content: bytes, rng: Random) -> bytes:
    place = _piece(content, rng)
    return _put(content, place, bytes(place.stop - place.start))


def swap(content: bytes, rng: Random) -> bytes:
    a, size = _piece(content, rng), int(rng.integers(1, 4097))
    b = slice(a.stop, min(a.stop + size, len(content)))
    return content[: a.start] + content[b] + content[a] + content[b.stop :]


def change_an_integer(content: bytes, rng: Random) -> bytes:
    """To 0, to neighbours, to the largest and beyond, most often near the start, where headers are."""
    code = _one_of(["B", "H", "I", "Q"], rng)
    order, size = _one_of(["<", ">"], rng), struct.calcsize(code)
    if len(content) < size:
        return content
    end = len(content) - size + 1
    place = int(rng.integers(min(end, 2048) if rng.random() < 0.7 else end))
    (number,) = struct.unpack_from(order + code, content, place)
    most = 256**size - 1
    number = _one_of(
        [0, 1, number + 1, number - 1, 2 * number, number // 2, most, most // 2, most // 2 + 1, 1 << 20], rng
    )
    return _put(content, slice(place, place + size), struct.pack(order + code, number & most))


def drop_file(files: Files, name: str, rng: Random) -> None:
    del files[name]
    if not files:
        files["empty"] = b""


def rename_file(files: Files, name: str, rng: Random) -> None:
    other = _one_of(
        [f"{name}.1", f"{name[:-1]}", name.upper(), name[::-1].replace("/", "-"), _one_of(sorted(files), rng)], rng
    )
    files[other or "nameless"] = files.pop(name)
    _free_of_files_as_folders(files)


def copy_file(files: Files, name: str, rng: Random) -> None:
    other = _one_of([_one_of(sorted(files), rng), f"{name}.copy", f"copy-{name}", name.replace("0", "1")], rng)
    files[other] = files[name]
    _free_of_files_as_folders(files)


def exchange_files(files: Files, name: str, rng: Random) -> None:
    other = _one_of(sorted(files), rng)
    files[name], files[other] = files[other], files[name]


def empty_file(files: Files, name: str, rng: Random) -> None:
    files[name] = b""


def folder_for_file(files: Files, name: str, rng: Random) -> None:
    files[name] = None


def _free_of_files_as_folders(files: Files) -> None:
    for name in [name for name in files if any(str(parent) in files for parent in Path(name).parents)]:
        del files[name]


def hostile_pickle(marker: Path) -> bytes:
    return pickle.dumps(Code(marker))


def hostile_npy(marker: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(Code(marker), dtype=object), allow_pickle=True)
    return file.getvalue()


def hostile_npz(marker: Path) -> bytes:
    file = io.BytesIO()
    hostile = np.array(Code(marker), dtype=object)
    np.savez(file, imgs=hostile, latents_classes=hostile, labels=hostile)
    return file.getvalue()


def hostile_torch_file(marker: Path) -> bytes:
    import torch  # here, as only checkpoints need it

    file = io.BytesIO()
    torch.save({"step": Code(marker), "optimiser": Code(marker), "schedule": Code(marker)}, file)
    return file.getvalue()


def inside_gzip(content: bytes, rng: Random, marker: Path) -> bytes:
    try:
        return gzip.compress(_one_of(BYTES, rng)(gzip.decompress(content), rng), 1, mtime=0)
    except (OSError, EOFError, zlib.error):
        return content


def inside_zip(content: bytes, rng: Random, marker: Path) -> bytes:
    """One member damaged, its checksum right."""
    packed = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
            victim = _one_of(old.namelist(), rng)
            for name in old.namelist():
                member = old.read(name)
                if name == victim:
                    hostile = rng.random() < 0.2
                    member = _one_of(HOSTILE, rng)(marker) if hostile else _one_of(BYTES, rng)(member, rng)
                new.writestr(zipfile.ZipInfo(name), member)  # a name alone would be dated by the clock
    except Exception:  # what to damage was damaged before
        return content
    return packed.getvalue()


def inside_png(content: bytes, rng: Random, marker: Path) -> bytes:
    """One chunk damaged, its length and its checksum right."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    if not chunks:
        return content
    victim, packed = int(rng.integers(len(chunks))), content[:8]
    for number, (kind, data) in enumerate(chunks):
        if number == victim:
            kind = flip_bits(kind, rng)[:4] if rng.random() < 0.1 else kind
            data = _one_of(BYTES, rng)(data, rng)
        packed += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return packed


BYTES: list[Callable[[bytes, Random], bytes]] = [
    flip_bits, flip_a_bit_of_the_header, overwrite, truncate, extend, splice, insert, delete, zero, swap,
    change_an_integer, change_an_integer, change_an_integer,
]  # fmt: skip
FOLDER: list[Callable[[Files, str, Random], None]] = [
    drop_file, rename_file, copy_file, exchange_files, empty_file, folder_for_file,
]  # fmt: skip
HOSTILE: list[Callable[[Path], bytes]] = [hostile_pickle, hostile_npy, hostile_npz, hostile_torch_file]
INSIDE: dict[bytes, Callable[[bytes, Random, Path], bytes]] = {
    b"\x1f\x8b": inside_gzip,
    b"PK": inside_zip,
    b"\x89P": inside_png,
}
