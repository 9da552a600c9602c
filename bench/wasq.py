"""Quantized SmolLM2-135M against its float model: seconds of a pass, and of quantizing it.

    python -m bench.wasq [--device cuda] [--windows 1] [--length 512] [--repeats 3] [--random]

Prints a table and writes build/bench/wasq.json. On the CPU a pass is compared with float32, all
rows in turn in one run. On CUDA it is compared with bfloat16: quantized layers in the float32 model
first, then in the bfloat16 model, where everything but words is what the rival has. Each row is
timed as launched by Python and, beside it, as a CUDA graph that holds the same launches, rivals
alike. The first figures are of vanilla quantization: seconds for all weights, and the most memory
that was held meanwhile, against the bytes of the float32 model. ``--random`` takes random weights
of the same sizes.
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
from sw.wasq.modules import QuantizedLayer

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


def networks(model: nn.Module, device: torch.device) -> dict[str, nn.Module]:
    """What is timed."""
    found = {"float32": model}
    around = {"": model}
    if device.type == "cuda":
        found["bfloat16"] = copy.deepcopy(model).bfloat16()
        around[", in bfloat16"] = found["bfloat16"]
    for ending, network in around.items():
        for name, config in CONFIGS.items():
            found[name + ending] = quantize_(copy.deepcopy(network), config)
    return found


def launched(
    network: nn.Module, tokens: torch.Tensor, device: torch.device
) -> Callable[[], object]:
    """A pass as Python launches it."""

    def once() -> None:
        with torch.no_grad(), cached():
            network(tokens)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return once


def captured(network: nn.Module, tokens: torch.Tensor) -> Callable[[], object]:
    """A pass as a CUDA graph; what its layers could not round is looked at behind it."""
    faults = {id(m.faults): m.faults for m in network.modules() if isinstance(m, QuantizedLayer)}
    with torch.no_grad(), cached():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                network(tokens)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            network(tokens)

    def once() -> None:
        graph.replay()
        for found in faults.values():
            if found is not None:
                found.check()
        torch.cuda.synchronize()

    return once


#: Beside each other: as Python launches a pass, and as a graph.
CUDA_COLUMNS: Final = ("ms", "time / bfloat16's", "as a graph, ms", "time / bfloat16's")


def measure(
    found: dict[str, nn.Module], tokens: torch.Tensor, device: torch.device, repeats: int
) -> list[dict[str, Any]]:
    """Seconds of each network and what they are to the float one's."""
    on_cuda = device.type == "cuda"
    seconds = medians({n: launched(m, tokens, device) for n, m in found.items()}, repeats)
    base = "bfloat16" if on_cuda else "float32"
    rows: list[dict[str, Any]] = [
        {"name": name, "seconds": taken, "ratio": taken / seconds[base]}
        for name, taken in seconds.items()
    ]
    if on_cuda:
        graphs = medians({n: captured(m, tokens) for n, m in found.items()}, repeats)
        for row in rows:
            taken = graphs[row["name"]]
            row |= {"graph_seconds": taken, "graph_ratio": taken / graphs[base]}
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
    rows = measure(networks(model, device), tokens.to(device), device, options.repeats)
    table = Table("", *(("ms", "time / float's") if device.type == "cpu" else CUDA_COLUMNS))
    for row in rows:
        cells = [f"{row['seconds'] * 1e3:,.2f}", f"{row['ratio']:.2f}"]
        if "graph_seconds" in row:
            cells += [f"{row['graph_seconds'] * 1e3:,.2f}", f"{row['graph_ratio']:.2f}"]
        table.add_row(row["name"], *cells)
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
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
