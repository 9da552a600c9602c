"""The machine's ports as a host sees them: where each field of each stream lies."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from amaranth.hdl import Shape
from amaranth.lib import wiring

from sim.lanes import layout_of
from sim.layout import Field, Layout

#: Streams of the top by direction; the order of payloads in a driver's files.
SOURCES: Final = ("host", "instructions")
SINKS: Final = ("results", "status")


@dataclass(frozen=True, slots=True)
class Ports:
    """The host's side of a machine.

    Parameters
    ----------
    layout : Layout
        Of all ports, as in a harness.
    payloads : dict of str to tuple of Field
        The fields of each stream's payload.
    """

    layout: Layout
    payloads: dict[str, tuple[Field, ...]]

    @classmethod
    def of(cls, component: wiring.Component) -> Ports:
        """The ports of a component with the machine's four streams."""
        payloads = {}
        for name in (*SOURCES, *SINKS):
            shape = component.signature.members[name].signature.members["payload"].shape
            payloads[name] = tuple(
                Field(str(key), Shape.cast(field.shape).width, field.offset) for key, field in shape
            )
        return cls(layout_of(component), payloads)

    def width(self, stream: str) -> int:
        """Bits of a stream's payload."""
        ports = (*self.layout.inputs, *self.layout.outputs)
        return next(port.width for port in ports if port.name == f"{stream}_payload")

    def bytes(self, stream: str) -> int:
        """Bytes of a stream's payload in a driver's files."""
        return -(-self.width(stream) // 8)

    def field(self, stream: str, name: str) -> Field:
        """One field of a stream's payload."""
        return next(field for field in self.payloads[stream] if field.name == name)

    def pack(self, stream: str, **values: int) -> int:
        """A payload; values are not negative."""
        payload = 0
        for name, value in values.items():
            field = self.field(stream, name)
            if value >> field.width:
                raise ValueError(f"{stream}.{name} must have {field.width} bits, not {value!r}")
            payload |= value << field.offset
        return payload

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Ports:
        found: dict[str, Any] = json.loads(text)
        sides = (tuple(Field(**f) for f in found["layout"][s]) for s in ("inputs", "outputs"))
        streams = found["payloads"].items()
        return cls(Layout(*sides), {s: tuple(Field(**f) for f in fields) for s, fields in streams})
