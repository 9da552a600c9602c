"""The compiled kernels: one C++ library, built on first use, cached, called through ctypes.

The kernels give the same bits as the plain torch code beside each call. They are left out when
``ATREIDES_NATIVE=0`` is set, inside :func:`plain`, and (with one warning) when no C++ compiler
works.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from sw.format import Rounding, SFx

KERNELS: Final = Path(__file__).parent / "kernels"
#: Contraction and unsafe mathematics stay off: the kernels' results are defined bit by bit.
FLAGS: Final = (
    *("-std=c++20", "-O3", "-march=native"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    *("-fPIC", "-fopenmp", "-Wall", "-Wextra"),
)
LINK_FLAGS: Final = ("-shared", "-fopenmp")
#: Kernels that return how many elements they refuse.
COUNTING: Final = (
    *("encode_float32_uint8", "encode_float32_uint16"),
    *("encode_float64_uint8", "encode_float64_uint16"),
    *("fake_quantize_float32", "fake_quantize_float64"),
    *("decode_uint8", "decode_uint16"),
)

_plain: contextvars.ContextVar[bool] = contextvars.ContextVar("plain", default=False)


class Format(ctypes.Structure):
    """``struct Format`` of ``kernels/words.h``."""

    _fields_ = (
        ("bits", ctypes.c_int32),
        ("unity", ctypes.c_int32),
        ("nearest", ctypes.c_int32),
    )

    @classmethod
    def of(cls, format: SFx, rounding: Rounding = "nearest") -> Format:
        return cls(format.bits, format.unity, rounding == "nearest")


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Within it, tensors on the CPU take the plain torch code as if there were no compiler."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where the plain code is to be used."""
    if _plain.get() or os.environ.get("ATREIDES_NATIVE", "1") == "0":
        return None
    return _load()


def compiler() -> str | None:
    """The C++ compiler's path: ``$CXX``, else g++, else None."""
    return shutil.which(os.environ.get("CXX", "g++"))


def pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    """The address of a tensor's first element."""
    return ctypes.c_void_p(tensor.data_ptr())


def threads() -> ctypes.c_int:
    """How many threads a kernel may use: what torch itself would use."""
    return ctypes.c_int(torch.get_num_threads())


def build(flags: tuple[str, ...] = ()) -> Path:
    """Compile the kernels if the cache lacks them.

    Parameters
    ----------
    flags : tuple of str
        For the compiler, after :data:`FLAGS`.

    Returns
    -------
    Path
        The shared library, named by a hash of sources, compiler, flags and processor.

    Raises
    ------
    OSError
        If there is no compiler, it fails, or the cache directory cannot be written.
    """
    command = compiler()
    if command is None:
        raise OSError("no C++ compiler found: install g++ or set CXX")
    sources = sorted(KERNELS.glob("*.cpp"))
    digest = hashlib.sha256(" ".join((command, *FLAGS, *flags)).encode())
    for path in sorted(KERNELS.iterdir()):
        digest.update(path.read_bytes())
    digest.update(_version(command) + _processor())
    target = _cache_directory() / f"kernels-{digest.hexdigest()[:24]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        objects = [Path(scratch) / f"{path.stem}.o" for path in sources]
        running = [
            subprocess.Popen(
                [command, *FLAGS, *flags, "-c", str(source), "-o", str(built)],
                stderr=subprocess.PIPE,
                text=True,
            )
            for source, built in zip(sources, objects, strict=True)
        ]
        for process in running:
            _check(command, process.communicate()[1], process.returncode)
        result = Path(scratch) / target.name
        link = subprocess.run(
            [command, *LINK_FLAGS, *map(str, objects), "-o", str(result)],
            capture_output=True,
            text=True,
            check=False,
        )
        _check(command, link.stderr, link.returncode)
        os.replace(result, target)
    return target


def load(path: Path) -> ctypes.CDLL:
    """The library that :func:`build` made, its functions declared."""
    loaded = ctypes.CDLL(str(path))
    for name in COUNTING:
        getattr(loaded, name).restype = ctypes.c_long
    return loaded


@functools.cache
def _load() -> ctypes.CDLL | None:
    try:
        return load(build())
    except OSError as error:
        warnings.warn(f"compiled kernels are left out, plain torch is used: {error}", stacklevel=4)
        return None


def _check(command: str, message: str, status: int) -> None:
    if status:
        raise OSError(f"{command} failed on the kernels:\n{message}")


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "atreides"


def _version(command: str) -> bytes:
    return subprocess.run([command, "--version"], capture_output=True, check=False).stdout


def _processor() -> bytes:
    """What ``-march=native`` depends on: the processor's model and feature flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor().encode()
    wanted = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)})).encode()
