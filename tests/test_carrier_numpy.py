"""numpy's side of the casting table, through ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tensor_paths import FORMATS, every_word

from sw import tensor
from sw.format import SFx

TYPES = {3: ml_dtypes.float8_e4m3fn, 5: ml_dtypes.bfloat16, 9: np.float16, 12: np.float32}


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_numpy_types_carry_every_value_exactly(format):
    kind = TYPES[max(bits for bits in TYPES if bits <= format.bits)]
    words = every_word(format)
    carried = tensor.decode(words, format, dtype=kind)
    assert carried.dtype == kind
    exact = [float(format.decode(w)) for w in words.tolist()]
    assert carried.astype(np.float64).tolist() == exact


def test_encode_takes_numpy_bfloat16():
    values = np.array([0.5, -0.75, 3.0], ml_dtypes.bfloat16)
    assert tensor.encode(values, SFx(8)).tolist() == [64, 224, 127]
