"""Clocks: settings of the families' phase-locked loops, exactly, and the loops as components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from amaranth.hdl import Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

_MHZ: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Ranges in Hz, both ends included: of the reference, after its divider, of the oscillator
    within, of the output.
    """

    reference: tuple[int, int]
    detector: tuple[int, int]
    oscillator: tuple[int, int]
    output: tuple[int, int]

    def allow(self, setting: Setting) -> bool:
        """Whether all frequencies of a setting lie in their range."""
        pairs = (
            (self.reference, setting.reference),
            (self.detector, setting.detector),
            (self.oscillator, setting.oscillator),
            (self.output, setting.output),
        )
        return all(low <= frequency <= high for (low, high), frequency in pairs)


@dataclass(frozen=True, slots=True)
class Setting:
    """A loop's dividers and the frequencies that they make, in Hz.

    Parameters
    ----------
    reference : int
    detector, oscillator, output : Fraction
        After the reference's divider; of the oscillator; of the output.
    dividers : tuple of int
        As the family's loop has them: ``(reference, feedback, first output, second output)`` on
        ECP5, whose first output is fed back; ``(reference, feedback, output)`` on the others, on
        iCE40 the last as a power of two.
    """

    reference: int
    detector: Fraction
    oscillator: Fraction
    output: Fraction
    dividers: tuple[int, ...]


def _megahertz(*ranges: tuple[float, float]) -> Limits:
    return Limits(*((round(low * _MHZ), round(high * _MHZ)) for low, high in ranges))


#: ECP5: Lattice FPGA-DS-02012, "sysCLOCK PLL timing". iCE40: FPGA-DS-02008 and FPGA-DS-02029, the
#: same. Gowin: DS117 for C6/I5, DS102 for C8/I7.
LIMITS: Final[dict[str, Limits]] = {
    "ecp5": _megahertz((8, 400), (10, 400), (400, 800), (3.125, 400)),
    "ice40": _megahertz((10, 133), (10, 133), (533, 1066), (16, 275)),
    "GW1NR-9C": _megahertz((3, 400), (3, 400), (400, 1200), (3.125, 600)),
    "GW2A-18C": _megahertz((3, 500), (3, 500), (500, 1250), (3.90625, 625)),
}
_GOWIN_OUTPUTS: Final = (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)


def loop_kind(device_name: str, family: str) -> str:
    """The key of LIMITS for a device: its family, of Gowin's the device itself."""
    return device_name if family == "gowin" else family


def settings(kind: str, reference: int, goal: int | None = None) -> Iterator[Setting]:
    """Every setting that a loop of this kind allows for a reference in Hz.

    With a goal in Hz, some of those above it and far below it are left out.
    """
    limits = LIMITS[kind]
    if kind == "ecp5":
        made = _ecp5_settings(reference, limits, goal)
    else:
        made = (_ice40_settings if kind == "ice40" else _gowin_settings)(reference, limits)
    yield from filter(limits.allow, made)


def choose(kind: str, reference: int, goal: int) -> Setting:
    """The setting of the highest output that is not above the goal.

    Among equal ones: the smallest divider of the reference, then the fastest oscillator.

    Parameters
    ----------
    kind : str
        A key of LIMITS.
    reference, goal : int
        In Hz.

    Raises
    ------
    ValueError
        If the loop cannot run so slowly, or not from this reference.
    """
    limits = LIMITS[kind]
    if not limits.reference[0] <= reference <= limits.reference[1]:
        low, high = (end / _MHZ for end in limits.reference)
        raise ValueError(f"reference must be {low:g} to {high:g} MHz, not {reference / _MHZ:g}")
    below = [setting for setting in settings(kind, reference, goal) if setting.output <= goal]
    if not below:
        least = float(min(setting.output for setting in settings(kind, reference))) / _MHZ
        raise ValueError(f"frequency must be at least {least:g} MHz, not {goal / _MHZ:g}")
    return max(below, key=lambda s: (s.output, -s.dividers[0], s.oscillator))


def _detectors(reference: int, limits: Limits, most: int) -> Iterator[tuple[int, Fraction]]:
    """Dividers of the reference, and what they make of it, not below what the detector takes."""
    for divider in range(1, min(most, reference // limits.detector[0]) + 1):
        yield divider, Fraction(reference, divider)


def _ecp5_settings(reference: int, limits: Limits, goal: int | None) -> Iterator[Setting]:
    """The output is the second one, divided from the oscillator; the first is fed back."""
    most = limits.output[1] if goal is None else goal
    for divider, detector in _detectors(reference, limits, 128):
        for feedback in range(1, int(min(80, limits.output[1] // detector)) + 1):
            first = detector * feedback
            least = -(-limits.oscillator[0] // first)
            for first_divider in range(least, int(limits.oscillator[1] // first) + 1):
                oscillator = first * first_divider
                nearest = max(1, int(-(-oscillator // most)))
                end = nearest if goal is not None else int(oscillator // limits.output[0])
                for second in range(nearest, min(128, end) + 1):
                    dividers = (divider, feedback, first_divider, second)
                    yield Setting(reference, detector, oscillator, oscillator / second, dividers)


def _ice40_settings(reference: int, limits: Limits) -> Iterator[Setting]:
    for divider, detector in _detectors(reference, limits, 16):
        least = int(limits.oscillator[0] // detector)
        for feedback in range(max(1, least), int(min(128, limits.oscillator[1] // detector)) + 1):
            oscillator = detector * feedback
            for power in range(1, 7):
                dividers = (divider, feedback, power)
                yield Setting(reference, detector, oscillator, oscillator / (1 << power), dividers)


def _gowin_settings(reference: int, limits: Limits) -> Iterator[Setting]:
    for divider, detector in _detectors(reference, limits, 64):
        for feedback in range(1, int(min(64, limits.output[1] // detector)) + 1):
            output = detector * feedback
            for division in _GOWIN_OUTPUTS:
                dividers = (divider, feedback, division)
                yield Setting(reference, detector, output * division, output, dividers)


class Clock(wiring.Component):
    """A board's clock as it comes: no loop.

    Members
    -------
    input : In(1)
    output : Out(1)
    locked : Out(1)
        ``output`` runs at its frequency.
    """

    def __init__(self) -> None:
        super().__init__({"input": In(1), "output": Out(1), "locked": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += [self.output.eq(self.input), self.locked.eq(1)]
        return m


class PhaseLockedLoop(Clock):
    """A family's loop with a setting.

    Parameters
    ----------
    kind : str
        A key of LIMITS.
    setting : Setting
    pad : bool
        On iCE40: the input is the pin that belongs to the loop.
    """

    def __init__(self, kind: str, setting: Setting, *, pad: bool = False) -> None:
        self.kind, self.setting, self.pad = kind, setting, pad
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        make = {"ecp5": self._ecp5, "ice40": self._ice40}.get(self.kind, self._gowin)
        m.submodules.loop = make()
        return m

    def _ecp5(self) -> Instance:
        divider, feedback, first, second = self.setting.dividers
        fed_back = Signal()
        # The loop filter's settings are those that the trellis project's tools use.
        analogue: dict[str, Any] = {
            "ICP_CURRENT": "12",
            "LPF_RESISTOR": "8",
            "MFG_ENABLE_FILTEROPAMP": "1",
            "MFG_GMCREF_SEL": "2",
        }
        outputs = {"CLKOP": (first, fed_back), "CLKOS": (second, self.output)}
        arguments: dict[str, Any] = {}
        for name, (division, signal) in outputs.items():
            arguments |= {
                f"p_{name}_ENABLE": "ENABLED",
                f"p_{name}_DIV": division,
                f"p_{name}_CPHASE": division - 1,
                f"p_{name}_FPHASE": 0,
                f"o_{name}": signal,
            }
        for letter in "ABCD":
            arguments[f"p_OUTDIVIDER_MUX{letter}"] = f"DIV{letter}"
        for name in ("PLLRST_ENA", "INTFB_WAKE", "STDBY_ENABLE", "DPHASE_SOURCE"):
            arguments[f"p_{name}"] = "DISABLED"
        for name in ("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PLLWAKESYNC", "ENCLKOP"):
            arguments[f"i_{name}"] = Const(0)
        for name in ("PHASEDIR", "PHASESTEP", "PHASELOADREG"):
            arguments[f"i_{name}"] = Const(1)
        return Instance(
            "EHXPLLL",
            **{f"a_{name}": value for name, value in analogue.items()},
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=divider,
            p_CLKFB_DIV=feedback,
            i_CLKI=self.input,
            i_CLKFB=fed_back,
            o_LOCK=self.locked,
            **arguments,
        )

    def _ice40(self) -> Instance:
        divider, feedback, power = self.setting.dividers
        # The loop filter by the detector's frequency in MHz, as icepll has it.
        ends = (17, 26, 44, 66, 101)
        filter_range = 1 + sum(self.setting.detector >= end * _MHZ for end in ends)
        reference = {"i_PACKAGEPIN" if self.pad else "i_REFERENCECLK": self.input}
        return Instance(
            "SB_PLL40_PAD" if self.pad else "SB_PLL40_CORE",
            p_FEEDBACK_PATH="SIMPLE",
            p_PLLOUT_SELECT="GENCLK",
            p_DIVR=Const(divider - 1, 4),
            p_DIVF=Const(feedback - 1, 7),
            p_DIVQ=Const(power, 3),
            p_FILTER_RANGE=Const(filter_range, 3),
            i_RESETB=Const(1),
            i_BYPASS=Const(0),
            o_PLLOUTGLOBAL=self.output,
            o_LOCK=self.locked,
            **reference,
        )

    def _gowin(self) -> Instance:
        divider, feedback, division = self.setting.dividers
        dynamic = {f"p_DYN_{name}_SEL": "false" for name in ("IDIV", "FBDIV", "ODIV")}
        zeros = ("RESET", "RESET_P", "CLKFB", "FBDSEL", "IDSEL", "ODSEL", "PSDA", "DUTYDA", "FDLY")
        widths = {"FBDSEL": 6, "IDSEL": 6, "ODSEL": 6, "PSDA": 4, "DUTYDA": 4, "FDLY": 4}
        return Instance(
            "rPLL",
            p_DEVICE=self.kind,
            p_FCLKIN=f"{self.setting.reference / _MHZ:g}",
            p_IDIV_SEL=divider - 1,
            p_FBDIV_SEL=feedback - 1,
            p_ODIV_SEL=division,
            p_PSDA_SEL="0000",
            p_DYN_DA_EN="false",
            p_CLKFB_SEL="internal",
            p_DUTYDA_SEL="1000",
            p_DYN_SDIV_SEL=2,
            i_CLKIN=self.input,
            o_CLKOUT=self.output,
            o_LOCK=self.locked,
            **dynamic,
            **{f"i_{name}": Const(0, widths.get(name, 1)) for name in zeros},
        )
