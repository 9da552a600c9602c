"""A netlist as C, 256 vectors at a time: every pair of a 15-bit multiplier in seconds.

The reference is C's own ``*`` on 32-bit integers. Both sides meet as bit slices: a matrix
transposition, checked against itself before every run, turns 32 integers into 32 slices.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from string import Template

from sim.netlist import GATES, Netlist

_PROGRAM = Template(
    r"""
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef uint32_t word __attribute__((vector_size(32), aligned(32)));
enum { WIDTH = $width, OUTPUTS = $outputs, LANES = 8, VECTORS = 32 * LANES };

/* Bit i of column j goes to bit j of column i, in each of the lanes. */
static inline void transpose(word m[32]) {
    uint32_t mask = 0x0000ffff;
    for (int step = 16; step; step >>= 1, mask ^= mask << step)
        for (int k = 0; k < 32; k = (k + step + 1) & ~step) {
            word t = ((m[k] >> step) ^ m[k + step]) & mask;
            m[k] ^= t << step;
            m[k + step] ^= t;
        }
}

static int transposition_is_broken(void) {
    word m[32];
    for (int j = 0; j < 32; j++) for (int l = 0; l < LANES; l++)
        m[j][l] = 2654435761u * (LANES * j + l + 1);
    transpose(m);
    for (int i = 0; i < 32; i++) for (int j = 0; j < 32; j++) for (int l = 0; l < LANES; l++)
        if ((m[i][l] >> j & 1) != ((2654435761u * (LANES * j + l + 1)) >> i & 1)) return 1;
    return 0;
}

static inline void netlist(const word *restrict a, const word *restrict b, word *restrict product) {
    const word n0 = {0}, n1 = ~n0;
    (void)n0; (void)n1;
$gates
}

static word slices[(1 << WIDTH) / VECTORS + 1][WIDTH];

int main(void) {
    if (transposition_is_broken()) { puts("broken"); return 3; }
    const uint32_t count = 1u << WIDTH, used = count < VECTORS ? count : VECTORS;
    for (uint32_t base = 0; base < count; base += VECTORS) {
        word b[32];
        for (int j = 0; j < 32; j++) for (int l = 0; l < LANES; l++) b[j][l] = base + 32 * l + j;
        transpose(b);
        memcpy(slices[base / VECTORS], b, sizeof slices[0]);
    }
    uint64_t pairs = 0;
    for (uint32_t a = 0; a < count; a++) {
        word as[WIDTH];
        for (int i = 0; i < WIDTH; i++) as[i] = (word){0} - (a >> i & 1);
        for (uint32_t base = 0; base < count; base += VECTORS, pairs += used) {
            word want[32], got[OUTPUTS], wrong = {0};
            for (int j = 0; j < 32; j++)
                for (int l = 0; l < LANES; l++) want[j][l] = a * (base + 32 * l + j);
            transpose(want);
            netlist(as, slices[base / VECTORS], got);
            for (int i = 0; i < OUTPUTS; i++) wrong |= got[i] ^ want[i];
            uint32_t any = 0;
            for (int l = 0; l < LANES; l++) any |= wrong[l];
            if (!any) continue;
            for (uint32_t v = 0; v < used; v++) {
                int l = v / 32, j = v % 32;
                if (!(wrong[l] >> j & 1)) continue;
                uint32_t product = 0;
                for (int i = 0; i < OUTPUTS; i++) product |= (got[i][l] >> j & 1) << i;
                printf("wrong %u %u %u\n", a, base + v, product);
                return 0;
            }
        }
    }
    printf("right %llu\n", (unsigned long long)pairs);
    return 0;
}
"""
)


@dataclass(frozen=True, slots=True)
class WrongProduct:
    """A pair of operands whose product is wrong.

    Parameters
    ----------
    a, b, got : int
    """

    a: int
    b: int
    got: int

    def __str__(self) -> str:
        return f"a={self.a:#x} b={self.b:#x}: got {self.got:#x}, want {self.a * self.b:#x}"


def find_wrong_product(netlist: Netlist, width: int) -> WrongProduct | None:
    """Compare a multiplier with ``a * b`` on every pair of operands.

    Parameters
    ----------
    netlist : Netlist
        Inputs ``a`` and ``b``, output ``product``, no registers.
    width : int
        F, 2 to 15 bits.

    Returns
    -------
    WrongProduct or None
        The first wrong pair; None after all ``2**(2 * width)`` pairs were right.

    Raises
    ------
    ValueError
        If the ports are not a multiplier's.
    RuntimeError
        If g++ is missing or the program did not check what it should.
    """
    netlist.check_ports({"a": width, "b": width}, {"product": 2 * width})
    if netlist.registers:
        raise ValueError(f"multiplier must have no registers, not {len(netlist.registers)}")
    if shutil.which("g++") is None:
        raise RuntimeError("g++ must be installed: apt-get install g++")
    with tempfile.TemporaryDirectory(prefix="atreides-bitslice-") as directory:
        source, program = Path(directory, "check.cpp"), Path(directory, "check")
        source.write_text(_source(netlist, width), encoding="utf-8")
        flags = ["-O3", "-march=native", "-w", "-Drestrict=__restrict__"]
        subprocess.run(["g++", *flags, "-o", program, source], check=True)
        ran = subprocess.run([program], capture_output=True, text=True, check=True)
    verdict, *numbers = ran.stdout.split()
    if verdict == "wrong":
        return WrongProduct(*map(int, numbers))
    if verdict != "right" or int(numbers[0]) != 1 << (2 * width):
        raise RuntimeError(f"check must cover {1 << (2 * width)} pairs, not {ran.stdout!r}")
    return None


def _source(netlist: Netlist, width: int) -> str:
    lines = []
    for port in ("a", "b"):
        for position, net in enumerate(netlist.inputs[port]):
            lines.append(f"    const word n{net} = {port}[{position}];")
    for gate in netlist.gates:
        expression = GATES[gate.kind][1].format(*(f"n{net}" for net in gate.inputs))
        lines.append(f"    const word n{gate.output} = {expression};")
    for position, net in enumerate(netlist.outputs["product"]):
        lines.append(f"    product[{position}] = n{net};")
    return _PROGRAM.substitute(width=width, outputs=2 * width, gates="\n".join(lines))
