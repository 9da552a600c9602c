"""Superfloat on numpy arrays and torch tensors: the same functions, the same bits, for both.

Every function takes numpy arrays or torch tensors, on the CPU or CUDA, and returns the kind it was
given. Results equal the integer model of :mod:`sw.format` and :mod:`sw.scale` bit for bit. On the
CPU compiled kernels do the work (:mod:`sw.native`); plain torch gives the same bits elsewhere.
"""

from sw.casting import carrier
from sw.convert import decode, encode
from sw.drain import BlockAccumulator, drain, to_binary32
from sw.exponents import expand_blocks, exponents, from_mxint8, limit_spread, to_mxint8
from sw.fake_quantize import fake_quantize
from sw.matmul import matmul
from sw.packing import pack, unpack
from sw.words import word_dtype

__all__ = [
    "BlockAccumulator",
    "carrier",
    "decode",
    "drain",
    "encode",
    "expand_blocks",
    "exponents",
    "fake_quantize",
    "from_mxint8",
    "limit_spread",
    "matmul",
    "pack",
    "to_binary32",
    "to_mxint8",
    "unpack",
    "word_dtype",
]
