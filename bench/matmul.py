"""Exact products of words against torch's float32 ``@`` of the same size.

    python -m bench.matmul [--size 1024] [--repeats 15]

Prints a table and writes build/bench/matmul.json. Each timed call takes words and gives words:
conversion to operands, the exact product and the drain are all inside; "exact" rows give int64.
The inputs are random words, or words of which half are plus or minus one ("unity-heavy").
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
from sw.tensor import matmul, word_dtype


def random_words(
    format: SFx, size: int, generator: torch.Generator, unity_share: float = 0.0
) -> torch.Tensor:
    """A square matrix of uniform words, some of them replaced by plus or minus all ones."""
    words = torch.randint(0, 1 << format.bits, (size, size), generator=generator)
    ones = words & format.sign_bit | format.max_code
    chosen = torch.rand(size, size, generator=generator) < unity_share
    return torch.where(chosen, ones, words).to(torch.int32).to(word_dtype(format))


def make_rows(size: int) -> dict[str, Callable[[], object]]:
    """What is timed."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(size, size, generator=generator) for _ in range(2))
    wide_x, wide_y = x.double(), y.double()
    rows: dict[str, Callable[[], object]] = {
        "float32 @": lambda: x @ y,
        "float64 @": lambda: wide_x @ wide_y,
    }
    for bits in range(3, 17):
        f = SFx(bits)
        a, b = (random_words(f, size, generator) for _ in range(2))
        rows[f"SF{bits}"] = lambda a=a, b=b, f=f: matmul(a, b, f, row_shift=5)
        if bits in (4, 8, 16):
            rows[f"SF{bits} exact"] = lambda a=a, b=b, f=f: matmul(a, b, f, output="exact")
            c, d = (random_words(f, size, generator, 0.5) for _ in range(2))
            rows[f"SF{bits} unity-heavy"] = lambda c=c, d=d, f=f: matmul(c, d, f, row_shift=5)
            g = SFx(bits, unity=False)
            rows[f"SF{bits} without unity"] = lambda a=a, b=b, g=g: matmul(a, b, g, row_shift=5)
    for bits, other in ((8, 4), (16, 4), (16, 8)):
        f, h = SFx(bits), SFx(other)
        a, b = random_words(f, size, generator), random_words(h, size, generator)
        rows[f"SF{bits} x SF{other}"] = lambda a=a, b=b, f=f, h=h: matmul(a, b, f, h, row_shift=5)
    parts = torch.randint(-6, 1, (size, -(-size // 32)), generator=generator)
    f = SFx(8)
    a, b = (random_words(f, size, generator) for _ in range(2))
    turned = parts.T.contiguous()
    rows["SF8 blocks of 32"] = lambda: matmul(
        a, b, f, row_shift=parts, column_shift=turned, block=32
    )
    return rows


def main() -> None:
    parser = Parser("matmul", __doc__)
    parser.add_argument("--size", type=count, default=1024, help="M, K and N")
    parser.add_argument("--repeats", type=count, default=15)
    parser.add_argument("-o", "--output", type=writable, default=Path("build/bench/matmul.json"))
    options = parser.parse_args()
    seconds = medians(make_rows(options.size), options.repeats)
    table = Table("", "ms", "G terms/s", "speed / float32 @")
    results = []
    for name, taken in seconds.items():
        ratio = seconds["float32 @"] / taken
        rate = options.size**3 / taken
        results.append(
            {"name": name, "seconds": taken, "terms_per_second": rate, "speed_to_float32": ratio}
        )
        table.add_row(name, f"{taken * 1e3:.2f}", f"{rate / 1e9:.1f}", f"{ratio:.2f}")
    Console().print(table)
    write_json(options.output, {"machine": machine(), "size": options.size, "rows": results})


if __name__ == "__main__":
    main()
