"""``atreides assemble`` and ``atreides disassemble``."""

from __future__ import annotations

from pathlib import Path

import pytest

from atreides.cli import main

TEXT = "LDR 0, 8, 8\nLDC 1, 8, 8\nMATMUL\nLIN\nSTR 2, 8, 8\nSET K0, 64\nGEMM stream, relu\n"
WORDS = "2088\n3188\n4000\n6000\n1288\n7002\n0040\n0000\n8110\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "hello.s"
    path.write_text(TEXT)
    return path


def test_assemble_and_disassemble_are_inverse(program: Path, tmp_path: Path) -> None:
    words, listing, text = (tmp_path / name for name in ("hello.hex", "hello.lst", "again.s"))
    assert main(["assemble", str(program), "-o", str(words), "--listing", str(listing)]) == 0
    assert words.read_text() == WORDS
    assert listing.read_text().splitlines()[4] == "0004  1288      5  STR 2, 8, 8"
    assert main(["disassemble", str(words), "-o", str(text)]) == 0
    assert text.read_text() == TEXT


def test_without_output_words_are_printed(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["assemble", str(program)]) == 0
    assert capsys.readouterr().out == WORDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "4"], "hello.s:1:1: size larger than the array (2088)"),
        (["--slots", "1"], "hello.s:2:1: address beyond the tile memory: tile slot must be 0 to 0"),
        (["--rows", "33"], "rows must be 1 to 32, not 33"),
        (["--bits", "x"], "Invalid value for '--bits': "),
    ],
)
def test_mistakes_are_one_sentence_and_leave_files_alone(
    program: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    words = tmp_path / "hello.hex"
    words.write_text("kept")
    assert main(["assemble", str(program), "-o", str(words), *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert words.read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hello.hex", "hello.s"]


def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.hex"
    bad.write_text("2088\nxyz\n")
    assert main(["disassemble", str(bad)]) == 2
    assert "bad.hex:2: line must be one four-digit hexadecimal word" in capsys.readouterr().err
    assert main(["assemble", str(tmp_path / "none.s")]) == 2
    assert "none.s must be a readable file: No such file" in capsys.readouterr().err
    assert main(["assemble", str(program), "-o", str(tmp_path / "no" / "x.hex")]) == 2
    assert "x.hex must be a writable file: No such file" in capsys.readouterr().err
