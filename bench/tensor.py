"""encode, decode and fake_quantize of float32 against copy_ and torch's own fake quantization.

    python -m bench.tensor [--millions 16] [--repeats 11]

Prints a table and writes build/bench/tensor.json. The ratio is bytes read and written per second
against ``Tensor.copy_`` of the same float32 tensor in the same run; results go to tensors that
exist already, as copy_'s do, except in the rows marked "new".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.arguments import Parser, count, writable
from bench.timing import machine, medians, write_json
from sw.format import SFx
from sw.tensor import decode, encode, fake_quantize, word_dtype


def make_rows(count: int) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """What is timed, and how many bytes each reads and writes."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(values)
    matrix, matrix_out = values.view(4096, -1), out.view(4096, -1)
    channels = torch.randint(-2, 3, (4096, 1), generator=torch.Generator().manual_seed(1))
    rows: dict[str, Callable[[], object]] = {"copy_": lambda: out.copy_(values)}
    size = {"copy_": 8 * count, "clone (new)": 8 * count}
    rows["clone (new)"] = values.clone
    name = "torch.fake_quantize_per_tensor_affine (new)"
    rows[name] = lambda: torch.fake_quantize_per_tensor_affine(values, 1 / 128, 0, -127, 127)
    size[name] = 8 * count
    for bits in (4, 8, 16):
        format = SFx(bits)
        words = torch.empty(count, dtype=word_dtype(format))
        encode(values, format, 1, out=words)

        def add(label: str, run: Callable[[], object], bytes_each: int, bits: int = bits) -> None:
            rows[f"SF{bits} {label}"] = run
            size[f"SF{bits} {label}"] = bytes_each * count

        word = words.dtype.itemsize
        add("fake_quantize", lambda f=format: fake_quantize(values, f, 1, out=out), 8)
        add(
            "fake_quantize per channel",
            lambda f=format: fake_quantize(matrix, f, channels, out=matrix_out),
            8,
        )
        add("fake_quantize (new)", lambda f=format: fake_quantize(values, f, 1), 8)
        add("encode", lambda f=format, w=words: encode(values, f, 1, out=w), 4 + word)
        add(
            "encode per channel",
            lambda f=format, w=words: encode(matrix, f, channels, out=w.view(4096, -1)),
            4 + word,
        )
        add("decode", lambda f=format, w=words: decode(w, f, 1, out=out), 4 + word)
    return rows, size


def main() -> None:
    parser = Parser("tensor", __doc__)
    parser.add_argument("--millions", type=count, default=16, help="values, in units of 2**20")
    parser.add_argument("--repeats", type=count, default=11)
    parser.add_argument("-o", "--output", type=writable, default=Path("build/bench/tensor.json"))
    options = parser.parse_args()
    rows, size = make_rows(options.millions << 20)
    seconds = medians(rows, options.repeats)
    copy, theirs = seconds["copy_"], seconds["torch.fake_quantize_per_tensor_affine (new)"]
    results = []
    table = Table("", "ms", "GB/s", "bandwidth / copy_", "time of torch's / own")
    for name, taken in seconds.items():
        speed = size[name] / taken
        ratio = speed / (size["copy_"] / copy)
        results.append(
            {
                "name": name,
                "seconds": taken,
                "bytes_per_second": speed,
                "bandwidth_to_copy": ratio,
                "speedup_to_torch_fake_quantize": theirs / taken,
            }
        )
        table.add_row(
            name,
            f"{taken * 1e3:.2f}",
            f"{speed / 1e9:.1f}",
            f"{ratio:.2f}",
            f"{theirs / taken:.1f}",
        )
    Console().print(table)
    write_json(
        options.output,
        {"machine": machine(), "values": options.millions << 20, "rows": results},
    )


if __name__ == "__main__":
    main()
