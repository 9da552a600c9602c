"""How a network is compiled: for which machine, at which widths, by which rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from sw.config import MachineConfig
from sw.format import MIN_BITS, SFx
from sw.scale import EXPONENT_RULES, ExponentRule

WeightGranularity = Literal["channel", "tensor"]
ActivationMode = Literal["auto", "static", "dynamic"]
WEIGHT_GRANULARITIES: Final[tuple[WeightGranularity, ...]] = ("channel", "tensor")
ACTIVATION_MODES: Final[tuple[ActivationMode, ...]] = ("auto", "static", "dynamic")
#: Exponents that may be given: far beyond every finite binary32 value.
EXPONENT_LIMIT: Final = 256


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What a compilation is asked for.

    Parameters
    ----------
    machine : MachineConfig
    weight_bits : int, optional
        Width to which weights are rounded, 3 to the machine's; their words are then widened.
        The machine's if omitted.
    weight_granularity : {"channel", "tensor"}
        Whether each output channel of a weight has an exponent of its own.
    weight_rule, activation_rule : {"maximum", "squared_error"}
        How exponents of weights, and static ones of activations, are found. Dynamic ones are by
        maximum.
    activations : {"auto", "static", "dynamic"}
        ``static``: all activations have calibrated exponents. ``dynamic``: linear layers and
        products of two activations have exponents that the host finds per row as it encodes, and
        give exact sums; convolutions stay static. ``auto``: dynamic where all layers that read a
        value give exact sums anyway.
    exponents : mapping of str to int
        Exponents of values of the graph, by name; they override calibration.
    host_only : iterable of str
        Names of nodes, or of the modules they came from, that stay on the host in float.

    Raises
    ------
    TypeError, ValueError
        For an option of the wrong kind or out of range.
    """

    machine: MachineConfig = field(default_factory=MachineConfig)
    weight_bits: int | None = None
    weight_granularity: WeightGranularity = "channel"
    weight_rule: ExponentRule = "squared_error"
    activations: ActivationMode = "auto"
    activation_rule: ExponentRule = "squared_error"
    exponents: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    host_only: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.machine, MachineConfig):
            raise TypeError(f"machine must be a MachineConfig, not {self.machine!r}")
        for name, choices in (
            ("weight_granularity", WEIGHT_GRANULARITIES),
            ("weight_rule", EXPONENT_RULES),
            ("activations", ACTIVATION_MODES),
            ("activation_rule", EXPONENT_RULES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}"
                )
        self._check_weight_bits()
        self._check_exponents()
        if isinstance(self.host_only, str):
            raise TypeError(f"host_only must be names, not the string {self.host_only!r}")
        names = frozenset(self.host_only)
        for entry in names:
            if not isinstance(entry, str) or not entry:
                raise TypeError(f"host_only must be names, not {entry!r}")
        object.__setattr__(self, "host_only", names)

    @property
    def weight_format(self) -> SFx:
        """The format that weights are rounded to."""
        bits = self.machine.bits if self.weight_bits is None else self.weight_bits
        return SFx(bits, self.machine.unity)

    def _check_weight_bits(self) -> None:
        bits = self.weight_bits
        if bits is None:
            return
        if isinstance(bits, bool) or not isinstance(bits, int):
            raise TypeError(f"weight_bits must be an integer, not {bits!r}")
        if not MIN_BITS <= bits <= self.machine.bits:
            raise ValueError(f"weight_bits must be {MIN_BITS} to {self.machine.bits}, not {bits!r}")

    def _check_exponents(self) -> None:
        for name, exponent in self.exponents.items():
            if isinstance(exponent, bool) or not isinstance(exponent, int):
                raise TypeError(f"exponent of {name} must be an integer, not {exponent!r}")
            if not -EXPONENT_LIMIT <= exponent <= EXPONENT_LIMIT:
                raise ValueError(
                    f"exponent of {name} must be {-EXPONENT_LIMIT} to {EXPONENT_LIMIT}, "
                    f"not {exponent!r}"
                )
        object.__setattr__(self, "exponents", MappingProxyType(dict(self.exponents)))
