"""Many units side by side behind one input bus and one output bus.

Python costs tens of microseconds per access to a simulated signal and a Verilator build costs
seconds, whatever the size of the design. So one harness holds every variant of a unit, and one
write and one read per step serve them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.emit import ports
from sim.layout import Field, Layout

#: Module name of every harness, in Amaranth and in Verilog.
HARNESS = "harness"


def layout_of(component: wiring.Component) -> Layout:
    """The layout of a component's lane, from its signature.

    Streams appear as their payload, valid and ready.
    """
    inputs: list[Field] = []
    outputs: list[Field] = []
    for port in ports(component):
        chosen = inputs if port.direction == "input" else outputs
        offset = chosen[-1].offset + chosen[-1].width if chosen else 0
        chosen.append(Field(port.name, port.width, offset))
    return Layout(tuple(inputs), tuple(outputs))


class Lanes(wiring.Component):
    """Components side by side. Latency: each lane's own.

    Parameters
    ----------
    components : sequence of Component
        The units, all different objects.

    Members
    -------
    i : In
        All inputs; lane 0 in the lowest bytes.
    o : Out
        All outputs; lane 0 in the lowest bytes.
    """

    def __init__(self, components: Sequence[wiring.Component]) -> None:
        self.components = tuple(components)
        self.layouts = tuple(layout_of(c) for c in self.components)
        super().__init__(
            {
                "i": In(8 * sum(layout.input_bytes for layout in self.layouts)),
                "o": Out(8 * sum(layout.output_bytes for layout in self.layouts)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        start = 0
        outputs = []
        for number, (component, layout) in enumerate(
            zip(self.components, self.layouts, strict=True)
        ):
            m.submodules[f"lane{number}"] = component
            members = {
                "_".join(map(str, path)): Value.cast(value)
                for path, _, value in component.signature.flatten(component)
            }
            for field in layout.inputs:
                offset = start + field.offset
                m.d.comb += members[field.name].eq(self.i[offset : offset + field.width])
            start += 8 * layout.input_bytes
            lane = Cat(*(members[field.name] for field in layout.outputs))
            outputs.append(Cat(lane, (8 * layout.output_bytes - len(lane)) * [0]))
        m.d.comb += self.o.eq(Cat(*outputs))
        return m


def wrap(modules: Iterable[str], layout: Layout, *, clocked: bool, name: str = HARNESS) -> str:
    """A Verilog harness like :class:`Lanes` around modules that share one layout.

    Parameters
    ----------
    modules : iterable of str
        Module names, one per lane, whose ports are those of the layout.
    layout : Layout
        Of every lane.
    clocked : bool
        Whether the modules have ``clk`` and ``rst``.

    Returns
    -------
    str
        Verilog of the harness alone.
    """
    names = tuple(modules)
    clock = ".clk(clk), .rst(rst), " if clocked else ""
    lines = [
        f"module {name}({'input clk, input rst, ' if clocked else ''}"
        f"input [{8 * len(names) * layout.input_bytes - 1}:0] i, "
        f"output [{8 * len(names) * layout.output_bytes - 1}:0] o);"
    ]
    padding = 8 * layout.output_bytes - sum(field.width for field in layout.outputs)
    for number, module in enumerate(names):
        connections = [
            f".{f.name}({bus}[{8 * number * size + f.offset} +: {f.width}])"
            for bus, size, fields in (
                ("i", layout.input_bytes, layout.inputs),
                ("o", layout.output_bytes, layout.outputs),
            )
            for f in fields
        ]
        lines.append(f"  {module} lane{number}({clock}{', '.join(connections)});")
        if padding:
            top = 8 * (number + 1) * layout.output_bytes - 1
            lines.append(f"  assign o[{top} -: {padding}] = 0;")
    return "\n".join([*lines, "endmodule", ""])
