"""The cycles of a GEMM by compiled recurrences, ``kernels/machine.cpp``."""

from __future__ import annotations

import ctypes

import numpy as np

from sw import native
from sw import timing as t
from sw.machine_load import GemmCycles, Load

_FLAGS = ("a_in_lanes", "b_in_lanes", "b_reads", "skip", "to_stream")


class _Arguments(ctypes.Structure):
    """``struct Arguments`` of ``kernels/machine.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batches", "rows", "tiles", "last_columns")),
        *((name, ctypes.c_int64) for name in ("side", "lanes")),
        ("slices", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("slice_batches", "slice_tiles", "chunks")),
        ("ends", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in _FLAGS),
        *((name, ctypes.c_int64) for name in ("depth", "pages", "result_depth", "row_latency")),
        *((name, ctypes.c_int64) for name in ("look", "looked_up", "chunk_queue", "tile_queue")),
        *((name, ctypes.c_int64) for name in ("read", "slice_push", "lanes_push", "left_over")),
        *((name, ctypes.c_int64) for name in ("transposed", "shift_buffer")),
    )


class _Result(ctypes.Structure):
    """``struct Result`` of ``kernels/machine.cpp``."""

    _fields_ = tuple((name, ctypes.c_int64) for name in GemmCycles.__dataclass_fields__)


def recur_gemm(load: Load) -> GemmCycles | None:
    """The cycles of a GEMM, or None without compiled kernels."""
    library = native.library()
    if library is None:
        return None
    walk = load.walk
    slices = np.ascontiguousarray(load.slices, dtype=np.int32)
    ends = np.ascontiguousarray(load.ends, dtype=np.uint8)
    arguments = _Arguments(
        batches=walk["G"],
        rows=walk.rows,
        tiles=walk.tiles,
        last_columns=walk["NL"],
        side=walk.side,
        lanes=walk.lanes,
        slices=slices.ctypes.data,
        slice_batches=slices.shape[0],
        slice_tiles=slices.shape[1],
        chunks=slices.shape[2],
        ends=ends.ctypes.data,
        a_in_lanes=load.a_in_lanes,
        b_in_lanes=load.b_in_lanes,
        b_reads=load.b_reads,
        skip=walk.skips,
        to_stream=load.to_stream,
        depth=load.timing.depth,
        pages=load.timing.pages,
        result_depth=load.timing.result_depth,
        row_latency=load.timing.row_latency(walk.destination),
        look=t.LOOK,
        looked_up=t.LOOKED_UP,
        chunk_queue=t.CHUNK_QUEUE,
        tile_queue=t.TILE_QUEUE,
        read=t.READ,
        slice_push=t.SLICE_PUSH,
        lanes_push=t.LANES_PUSH,
        left_over=t.LEFT_OVER,
        transposed=t.TRANSPOSED,
        shift_buffer=t.SHIFT_BUFFER,
    )
    result = _Result()
    library.gemm_cycles(ctypes.byref(arguments), ctypes.byref(result))
    return GemmCycles(*(getattr(result, name) for name in GemmCycles.__dataclass_fields__))
