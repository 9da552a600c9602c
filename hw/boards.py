"""The boards: a row each, with what its device holds and where its clock, line and LEDs are."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final

#: What shows how the self-test ended, in the order of a row's ``leds``.
LED_MEANINGS: Final = ("passed", "failed", "running")


@dataclass(frozen=True, slots=True)
class Device:
    """What an FPGA holds, as its data sheet and the open tools' database have it.

    Parameters
    ----------
    name : str
    family : {"ecp5", "ice40", "gowin"}
    lut4, registers : int
    block_rams, block_ram_bits : int
        Number, and bits of each.
    multipliers : int
        DSP multipliers: of 18 x 18 bits, on iCE40 of 16 x 16.
    sprams : int
        Single-port memories of 256 Kibit.
    place : tuple of str
        How nextpnr is told the device.
    """

    name: str
    family: str
    lut4: int
    registers: int
    block_rams: int
    block_ram_bits: int
    multipliers: int
    place: tuple[str, ...]
    sprams: int = 0

    @property
    def memory_bits(self) -> int:
        """Bits of all block RAM."""
        return self.block_rams * self.block_ram_bits

    @property
    def target(self) -> str:
        """The ``--target`` of units for this family."""
        return target_of(self.family)


def target_of(family: str) -> str:
    """The ``--target`` of units for a family."""
    return family if family in ("ecp5", "ice40") else "generic"


def _ecp5(name: str, lut4: int, block_rams: int, multipliers: int, place: str) -> Device:
    """Lattice FPGA-DS-02012, table 1.1; look-up tables as the placer's database counts them."""
    return Device(name, "ecp5", lut4, lut4, block_rams, 18 * 1024, multipliers, (place,))


# The 12F is sold as 12k look-up tables; its die, and what the open tools place, is the 25F's.
ECP5_12F: Final = _ecp5("LFE5U-12F", 24288, 56, 28, "--12k")
ECP5_25F: Final = _ecp5("LFE5U-25F", 24288, 56, 28, "--25k")
ECP5_45F: Final = _ecp5("LFE5U-45F", 43848, 108, 72, "--45k")
ECP5_85F: Final = _ecp5("LFE5U-85F", 83640, 208, 156, "--85k")
ECP5_UM5G_45F: Final = _ecp5("LFE5UM5G-45F", 43848, 108, 72, "--um5g-45k")
ECP5_UM5G_85F: Final = _ecp5("LFE5UM5G-85F", 83640, 208, 156, "--um5g-85k")
# Lattice FPGA-DS-02008 (UltraPlus) and FPGA-DS-02029 (LP/HX).
ICE40_UP5K: Final = Device("iCE40UP5K", "ice40", 5280, 5280, 30, 4096, 8, ("--up5k",), 4)
ICE40_HX8K: Final = Device("iCE40HX8K", "ice40", 7680, 7680, 32, 4096, 0, ("--hx8k",))
# Gowin DS117 and DS102.
GW1NR_9C: Final = Device("GW1NR-9C", "gowin", 8640, 6480, 26, 18 * 1024, 20, ("GW1N-9C",))
GW2A_18C: Final = Device("GW2A-18C", "gowin", 20736, 15552, 46, 18 * 1024, 48, ("GW2A-18C",))


@dataclass(frozen=True, slots=True)
class Pin:
    """A pin of a device on a board.

    Parameters
    ----------
    location : str
        Name of the ball or pin.
    inverted : bool
        Active low.
    attributes : tuple of (str, str)
        Of the pin's buffer: ``("IO_TYPE", "LVCMOS33")``.
    """

    location: str
    inverted: bool
    attributes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Board:
    """A board that a bitstream can be built for.

    Parameters
    ----------
    name : str
        On the command line.
    title : str
    device : Device
    package, speed : str
        As nextpnr names them; the speed grade is empty where the device's name has it.
    platform : str
        Module and class of amaranth-boards, which has the pins.
    loader : str
        What openFPGALoader calls the board.
    leds : tuple of str
        Resources for LED_MEANINGS. With two, both are lit while the test runs; with one, it is lit
        once the test has passed.
    uart : tuple of str
        Resources for the line's receiver and transmitter, seen from the FPGA.
    loop_pin : bool
        The clock comes on the pin that belongs to an iCE40's phase-locked loop.
    pack : tuple of str
        Options of the packer: on Gowin, pins of the configuration port that the board uses.
    """

    name: str
    title: str
    device: Device
    package: str
    speed: str
    platform: str
    loader: str
    leds: tuple[str, ...]
    uart: tuple[str, str] = ("uart.0.rx", "uart.0.tx")
    loop_pin: bool = False
    pack: tuple[str, ...] = ()

    @property
    def oscillator(self) -> int:
        """Frequency of the board's clock, in Hz."""
        platform = self._platform()
        return round(platform.lookup(platform.default_clk).clock.frequency)

    @property
    def extension(self) -> str:
        """Of a bitstream's file name."""
        return {"ecp5": "bit", "ice40": "bin", "gowin": "fs"}[self.device.family]

    def pins(self) -> dict[str, Pin]:
        """Where ``clk``, ``rx``, ``tx`` and each of the LEDs' meanings are."""
        platform = self._platform()
        places = {"clk": f"{platform.default_clk}.0", "rx": self.uart[0], "tx": self.uart[1]}
        places |= dict(zip(LED_MEANINGS, self.leds, strict=False))
        return {port: _find(platform, place) for port, place in places.items()}

    def _platform(self) -> Any:
        module, name = self.platform.split(":")
        return getattr(importlib.import_module(f"amaranth_boards.{module}"), name)()


def _find(platform: Any, place: str) -> Pin:
    """The pin of ``resource.number[.subsignal]``, or of ``connector.number:pin``."""
    path, _, connector_pin = place.partition(":")
    name, number, *subsignals = path.split(".")
    if connector_pin:
        pins = dict(platform.connectors[name, int(number)])
        location = pins[f"{name}_{number}:{connector_pin}"]
        return Pin(location, False, (("IO_TYPE", "LVCMOS33"),))
    resource = platform.lookup(name, int(number))
    attributes = dict(resource.attrs)
    found = resource
    for subsignal in subsignals:
        (found,) = (io for io in found.ios if getattr(io, "name", None) == subsignal)
        attributes |= found.attrs
    (pins,) = found.ios
    settled = {key: v(platform) if callable(v) else v for key, v in attributes.items()}
    texts = tuple(sorted((key, str(value)) for key, value in settled.items()))
    return Pin(pins.names[0], pins.invert, texts)


_THREE_LEDS: Final = ("led.0", "led.1", "led.2")
_RGB_LED: Final = ("rgb_led.0.g", "rgb_led.0.r", "rgb_led.0.b")


def _ulx3s(device: Device, size: str) -> Board:
    platform = f"ulx3s:ULX3S_{size}_Platform"
    return Board(
        f"ulx3s-{size.lower()}",
        f"ULX3S {size}",
        *(device, "CABGA381", "6", platform, "ulx3s", _THREE_LEDS),
    )


def _orangecrab(device: Device, size: str) -> Board:
    """Its line is on the pins that Feather boards call RX and TX: 0 and 1."""
    return Board(
        f"orangecrab-{size.lower()}",
        f"OrangeCrab r0.2 {size}",
        *(device, "CSFBGA285", "8", f"orangecrab_r0_2:OrangeCrabR0_2_{size}Platform"),
        *("orangeCrab", _RGB_LED, ("io.0:0", "io.0:1")),
    )


def _ecpix5(device: Device, size: str) -> Board:
    platform = f"ecpix5:ECPIX5{size}Platform"
    return Board(
        f"ecpix5-{size}f",
        f"ECPIX-5 {size}F",
        *(device, "CABGA554", "8", platform, "ecpix5", _RGB_LED),
    )


_ROWS: Final = (
    _ulx3s(ECP5_12F, "12F"),
    _ulx3s(ECP5_25F, "25F"),
    _ulx3s(ECP5_45F, "45F"),
    _ulx3s(ECP5_85F, "85F"),
    _orangecrab(ECP5_25F, "25F"),
    _orangecrab(ECP5_85F, "85F"),
    _ecpix5(ECP5_UM5G_45F, "45"),
    _ecpix5(ECP5_UM5G_85F, "85"),
    Board(
        "colorlight-5a-75b",
        "Colorlight 5A-75B 7.0 (the line takes its LED and button)",
        *(ECP5_25F, "CABGA256", "6", "colorlight_5a75b_r7_0:Colorlight_5A75B_R70Platform"),
        *("colorlight", ()),
    ),
    Board(
        "ecp5-evn",
        "Lattice ECP5 evaluation board (its line takes a swap of two resistors)",
        *(ECP5_UM5G_85F, "CABGA381", "8", "ecp5_5g_evn:ECP55GEVNPlatform"),
        *("ecp5_evn", _THREE_LEDS),
    ),
    Board(
        "icebreaker",
        "iCEBreaker",
        *(ICE40_UP5K, "sg48", "", "icebreaker:ICEBreakerPlatform"),
        *("ice40_generic", ("led_g.0", "led_r.0")),
        loop_pin=True,
    ),
    Board(
        "ice40-hx8k-evn",
        "Lattice iCE40-HX8K breakout board",
        *(ICE40_HX8K, "ct256", "", "ice40_hx8k_b_evn:ICE40HX8KBEVNPlatform"),
        *("ice40_generic", _THREE_LEDS),
    ),
    Board(
        "tang-nano-9k",
        "Tang Nano 9k",
        *(GW1NR_9C, "GW1NR-LV9QN88PC6/I5", "", "tang_nano_9k:TangNano9kPlatform"),
        *("tangnano9k", _THREE_LEDS),
        pack=("--sspi_as_gpio", "--mspi_as_gpio"),
    ),
    Board(
        "tang-primer-20k",
        "Tang Primer 20k on its dock",
        *(GW2A_18C, "GW2A-LV18PG256C8/I7", "", "tang_primer_20k:TangPrimer20kDockPlatform"),
        *("tangprimer20k", _THREE_LEDS),
        pack=("--mspi_as_gpio", "--sspi_as_gpio", "--ready_as_gpio", "--done_as_gpio"),
    ),
)
#: Every board by its name on the command line.
BOARDS: Final[dict[str, Board]] = {board.name: board for board in _ROWS}


def find_board(name: str) -> Board:
    """The board of this name.

    Raises
    ------
    ValueError
        If there is none; the sentence lists those that there are.
    """
    if name not in BOARDS:
        raise ValueError(f"board must be one of {', '.join(BOARDS)}, not {name!r}")
    return BOARDS[name]
