"""Files of ``atreides run``: programs, memory images, dumps."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from atreides.mistakes import FileMistake
from sw.activation import SLOPE_BITS, START_BITS
from sw.assembler import AssemblyError, assemble, parse_hexadecimal
from sw.config import MachineConfig
from sw.machine_state import LIFT_BITS, Parameters
from sw.paths import is_writable
from sw.scale import SHIFT_BITS

#: Arrays of a memory image besides ``tiles``, by the attribute of Parameters that they become.
PARAMETERS: Final = (
    *("biases", "column_shifts", "column_lifts"),
    *("row_shifts", "row_lifts", "starts", "slopes"),
)


def load_program(path: Path, config: MachineConfig) -> tuple[int, ...]:
    """The words of an assembly text, checked, or of a ``.hex`` file, as they are."""
    if path.suffix not in (".s", ".hex"):
        raise FileMistake(f"program must end in .s or .hex, not {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise FileMistake(f"{path} must be a readable program: {reason}") from error
    try:
        if path.suffix == ".hex":
            words = parse_hexadecimal(text, str(path))
        else:
            words = assemble(text, str(path), config=config).words
    except AssemblyError as error:
        raise FileMistake(str(error)) from error
    if not words:
        raise FileMistake(f"{path} must have at least one instruction, not 0")
    return words


def load_memory(path: Path, config: MachineConfig) -> tuple[npt.NDArray[np.uint16], Parameters]:
    """The tile memory and the parameters of an ``.npz`` file.

    Parameters
    ----------
    path : Path
        Holds ``tiles``, uint16 words of shape (slots, rows, columns), and, where a program needs
        them, integer arrays ``biases``, ``column_shifts``, ``column_lifts`` (parameters, columns),
        ``row_shifts``, ``row_lifts`` (row parameters), ``starts``, ``slopes`` (32).
    config : MachineConfig
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise FileMistake(f"{path} must be an npz archive, not a single array")
            arrays = {name: archive[name] for name in archive.files}
    except FileMistake:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "not an npz archive of plain arrays"
        raise FileMistake(f"{path} must be a readable npz archive: {reason}") from error
    tiles = arrays.pop("tiles", None)
    if tiles is None:
        raise FileMistake(f"{path} must have the array tiles, not only {sorted(arrays)}")
    unknown = sorted(set(arrays) - set(PARAMETERS))
    if unknown:
        names = ", ".join(("tiles", *PARAMETERS))
        raise FileMistake(f"{path} must have arrays of the names {names}, not {unknown[0]!r}")
    return _words(path, tiles, config), _parameters(path, arrays, config)


def _words(
    path: Path, tiles: npt.NDArray[np.generic], config: MachineConfig
) -> npt.NDArray[np.uint16]:
    shape = (config.slots, config.rows, config.columns)
    if tiles.dtype != np.uint16:
        raise FileMistake(f"{path}: tiles must be uint16, not {tiles.dtype}")
    if tiles.shape != shape:
        raise FileMistake(f"{path}: tiles must have the shape {shape}, not {tiles.shape}")
    limit = 1 << config.bits
    wrong = np.argwhere(tiles.astype(np.int64) >= limit)
    if len(wrong):
        place = tuple(map(int, wrong[0]))
        raise FileMistake(
            f"{path}: tiles must be 0 to {limit - 1} for {config.format}, "
            f"not {int(tiles[place])} at {place}"
        )
    words = np.zeros(config.memory_words, np.uint16)
    words[: tiles.size] = tiles.ravel()
    return words


def _parameters(
    path: Path, arrays: dict[str, npt.NDArray[np.generic]], config: MachineConfig
) -> Parameters:
    found = Parameters(config)
    shift = 1 << SHIFT_BITS - 1
    start, slope = 1 << START_BITS - 1, 1 << SLOPE_BITS - 1
    limits = {
        "biases": (0, 1 << config.bias_format.bits),
        "column_shifts": (-shift, shift),
        "row_shifts": (-shift, shift),
        "column_lifts": (0, 1 << LIFT_BITS),
        "row_lifts": (0, 1 << LIFT_BITS),
        "starts": (-start, start),
        "slopes": (-slope, slope),
    }
    needs = {"column_lifts": "blocks", "row_lifts": "blocks", "starts": "table", "slopes": "table"}
    for name, array in arrays.items():
        target, (low, high) = getattr(found, name), limits[name]
        if not np.issubdtype(array.dtype, np.integer):
            raise FileMistake(f"{path}: {name} must be integers, not {array.dtype}")
        if array.shape != target.shape:
            raise FileMistake(
                f"{path}: {name} must have the shape {target.shape}, not {array.shape}"
            )
        if array.size and not (low <= int(array.min()) and int(array.max()) < high):
            worst = int(array.min()) if int(array.min()) < low else int(array.max())
            raise FileMistake(f"{path}: {name} must be {low} to {high - 1}, not {worst}")
        option = needs.get(name)
        if option and array.any() and not getattr(config, option):
            raise FileMistake(f"{path}: {name} must have a machine with --{option}")
        target[...] = array
    return found


def check_writable(path: Path | None) -> None:
    """See that a file can be put where it is to be, before any work."""
    if path is None:
        return
    if path.is_dir():
        raise FileMistake(f"{path} must be a file, not a folder")
    if not path.parent.is_dir() or not is_writable(path.parent):
        raise FileMistake(f"{path} must be in a folder that exists and can be written to")


def load_array(path: Path) -> npt.NDArray[Any]:
    """The array of an ``.npy`` file."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "not an npy file of plain numbers"
        raise FileMistake(f"{path} must be a readable npy file: {reason}") from error
    if not isinstance(array, np.ndarray):
        raise FileMistake(f"{path} must be a single array, not an npz archive")
    return array


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an ``.npy`` file, whole or not at all."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_bytes(path, content.getvalue())


def write_tiles(path: Path, memory: npt.NDArray[np.uint16], config: MachineConfig) -> None:
    """Write the tiles, whole or not at all."""
    used = memory[: config.slots * config.slot_words]
    content = io.BytesIO()
    np.savez(content, tiles=used.reshape(config.slots, config.rows, config.columns))
    write_bytes(path, content.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise FileMistake(f"{path} must be writable: {error.strerror}") from error
