"""The boards' table: rows that amaranth-boards agrees with, and sentences for those it lacks."""

from __future__ import annotations

import pytest

from hw.boards import BOARDS, LED_MEANINGS, find_board

#: Frequency in MHz and the ball of the clock of boards, read from their schematics.
CLOCKS = {
    "ulx3s-85f": (25, "G2"),
    "orangecrab-25f": (48, "A9"),
    "icebreaker": (12, "35"),
    "tang-nano-9k": (27, "52"),
    "ecpix5-45f": (100, "K23"),
    "ice40-hx8k-evn": (12, "J3"),
}


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_has_a_clock_a_line_and_leds_on_pins_of_their_own(name: str) -> None:
    board = BOARDS[name]
    pins = board.pins()
    assert board.name == name
    assert {"clk", "rx", "tx"} <= set(pins) <= {"clk", "rx", "tx", *LED_MEANINGS}
    assert len({pin.location for pin in pins.values()}) == len(pins)
    for pin in pins.values():
        assert all(value.isidentifier() or value.isdigit() for _, value in pin.attributes)


@pytest.mark.parametrize(("name", "clock"), CLOCKS.items())
def test_clocks_are_those_of_the_schematics(name: str, clock: tuple[int, str]) -> None:
    board = BOARDS[name]
    assert (board.oscillator, board.pins()["clk"].location) == (clock[0] * 10**6, clock[1])


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_has_the_device_that_amaranth_boards_says(name: str) -> None:
    board = BOARDS[name]
    platform = board._platform()
    if board.device.family == "gowin":
        assert (platform.part, platform.family) == (board.package, board.device.name)
    else:
        assert platform.device == board.device.name
    if board.device.family == "ecp5":
        assert platform._nextpnr_device_options[platform.device] == board.device.place[0]
        packages = platform._nextpnr_package_options
        assert packages[platform.package].upper() == board.package
        assert platform.speed == board.speed
    if board.device.family == "ice40":
        assert platform.package.lower() == board.package


def test_memory_is_counted_in_bits() -> None:
    assert BOARDS["ulx3s-85f"].device.memory_bits == 3744 * 1024
    assert BOARDS["icebreaker"].device.memory_bits == 120 * 1024
    assert BOARDS["tang-nano-9k"].device.memory_bits == 468 * 1024


def test_an_unknown_board_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"^board must be one of ulx3s-12f, .*, not 'ulx4'$"):
        find_board("ulx4")
