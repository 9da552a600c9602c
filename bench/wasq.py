"""Quantized SmolLM2-135M against its float model: seconds of a pass, and of quantizing it.

    python -m bench.wasq [--device cuda] [--windows 1] [--length 512] [--repeats 3] [--random]

Prints a table and writes build/bench/wasq.json. On the CPU a pass is compared with float32, on CUDA
with bfloat16 (float32 stands beside it), all rows in turn in one run. The first figures are of
vanilla quantization: seconds for all weights, and the most memory that was held meanwhile, against
the bytes of the float32 model. ``--random`` takes random weights of the same sizes.
"""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bench.arguments import Parser, count, writable
from bench.timing import machine, medians, write_json
from sw.datasets import DatasetError
from sw.models.llama import Llama, LlamaConfig
from sw.wasq import SFConfig, quantize_
from sw.wasq.gemm import cached

#: Sizes of SmolLM2-135M, as its file gives them.
SIZES: Final = LlamaConfig(576, 1536, 30, 9, 3, 49152, 2048, 100000.0, 1e-5)
CONFIGS: Final = {
    "W8 A8, channel and token": SFConfig(),
    "the same with the head": SFConfig(head=8),
    "the same with attention products": SFConfig(head=8, products=8),
    "W8 A8, 32-block": SFConfig(weight_scale="block", activation_scale="block"),
    "W4 A16, 32-block and token": SFConfig(weights=4, activations=16, weight_scale="block"),
}


def network(random: bool, device: torch.device) -> nn.Module:
    """SmolLM2, or random weights of its sizes, in float32."""
    if not random:
        from sw.importers import load  # which needs packages that random weights do not

        return load("smollm2-135m").module.to(device)
    torch.manual_seed(0)
    model = Llama(SIZES).to(device).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.04)
    return model


def weights_of(model: nn.Module) -> int:
    """Different parameters."""
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())


def time_quantization(random: bool, device: torch.device) -> dict[str, Any]:
    """Vanilla quantization, head included; memory from before the model was loaded on."""
    before = resident()
    model = network(random, device)
    size = 4 * weights_of(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start, busy = time.perf_counter(), time.process_time()
    quantize_(model, SFConfig(head=8))
    seconds, processor = time.perf_counter() - start, time.process_time() - busy
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "weights": size // 4,
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_bytes": peak,
        "float_bytes": size,
        "peak_to_float": peak / size,
    }


def resident() -> int:
    """Bytes of this process that lie in memory at present; 0 where that is not told."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() if status.exists() else 0


def passes(
    model: nn.Module, tokens: torch.Tensor, device: torch.device
) -> dict[str, Callable[[], object]]:
    """What is timed."""

    def run(network: nn.Module) -> Callable[[], object]:
        def once() -> None:
            with torch.inference_mode(), cached():
                network(tokens)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return once

    rows = {"float32": run(model)}
    if device.type == "cuda":
        rows["bfloat16"] = run(copy.deepcopy(model).bfloat16())
    for name, config in CONFIGS.items():
        rows[name] = run(quantize_(copy.deepcopy(model), config))
    return rows


def main() -> None:
    parser = Parser("wasq", __doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--windows", type=count, default=1)
    parser.add_argument("--length", type=count, default=512)
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("-o", "--output", type=writable, default=Path("build/bench/wasq.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device must be cpu where there is no CUDA device")
    try:
        quantization = time_quantization(options.random, device)
        model = network(options.random, device)
    except DatasetError as error:
        print(f"bench.wasq: {error}", file=sys.stderr)
        sys.exit(2)
    generator = torch.Generator().manual_seed(0)
    shape = (options.windows, options.length)
    tokens = torch.randint(0, SIZES.vocabulary, shape, generator=generator)
    seconds = medians(passes(model, tokens.to(device), device), options.repeats)
    base = seconds["bfloat16" if device.type == "cuda" else "float32"]
    table = Table("", "ms", "time / float's")
    for name, taken in seconds.items():
        table.add_row(name, f"{taken * 1e3:,.1f}", f"{taken / base:.2f}")
    Console().print(table)
    Console().print(
        f"vanilla quantization of {quantization['weights'] / 1e6:.1f} M weights: "
        f"{quantization['seconds']:.1f} s, at most {quantization['peak_to_float']:.2f}x the bytes "
        "of the float model",
        highlight=False,
    )
    write_json(
        options.output,
        {
            "machine": machine(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "windows": options.windows,
            "length": options.length,
            "quantization": quantization,
            "rows": [
                {"name": name, "seconds": taken, "ratio": taken / base}
                for name, taken in seconds.items()
            ],
        },
    )


if __name__ == "__main__":
    main()
