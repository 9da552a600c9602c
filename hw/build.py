"""Emit tops as Verilog with manifests: ``python -m hw.build [TOP] [options] [-o DIR]``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from hw.emit import CLOCK, RESET, EmissionError, emit, ports
from hw.fusesoc import Beats, Steps, core_text, make_testbench, testbench_name
from hw.multiplier import MULTIPLIER_NAMES, TARGETS
from hw.tops import TOPS, Options, build_top
from sw.config import CONTROLS, COUNTERS
from sw.format import ROUNDINGS

_DEFAULTS: Final = Options()
#: Options that every top accepts, so that one line of options serves them all; where one makes no
#: difference, a note says so.
_COMMON_OPTIONS: Final = ("bits", "columns", "multiplier", "rounding", "rows", "target", "unity")
#: Options that are on unless told otherwise, and what tells.
_SWITCHED_OFF: Final = {"unity": "no-unity", "skipping": "no-skipping", "wide": "narrow"}
_EXAMPLES: Final = """\
examples:
  python -m hw.build                                every top at SF8, into build/
  python -m hw.build fma --bits 16                  build/fma.v and build/fma.json
  python -m hw.build multiplier --bits 8 --multiplier dadda -o out
  python -m hw.build drain --bits 8 --output-bits 16 --bias-bits 16 --max-terms 4096
  python -m hw.build atreides --bits 8 --rows 8 --columns 8 --slots 256 --table
  python -m hw.build atreides --bits 4 --rows 2 --columns 2 --narrow --no-skipping --counters none
  python -m hw.build mac --bits 8 --core -o out     also out/mac.core and out/mac_tb.v for FuseSoC
  python -m hw.build convert-binary32 --bits 4 --no-unity --rounding truncate

Each top becomes TOP.v and a manifest TOP.json with its parameters, ports and latency. The module
is called like the top, with _ for -. With --core a FuseSoC core file TOP.core comes beside it, with
targets lint (Verilator) and sim (Icarus): fusesoc --cores-root DIR run --target=sim
atreides:hw:TOP. The testbench TOP_tb.v has its stimulus and the model's words in it; the
coprocessor, which a core drives, has none.
Only --target ecp5 and ice40 may use primitives of a vendor.
--bits, --no-unity, --rounding, --multiplier, --target, --rows and --columns are accepted by every
top, with a note where one makes no difference; any other option by those tops that depend on it.
Mistakes end with exit status 2 and leave DIR as it was.
"""


@dataclass(frozen=True, slots=True)
class Emission:
    """What a top becomes: the texts of its Verilog file, its manifest and its package."""

    name: str
    verilog: str
    manifest: str
    core: str = ""
    testbench: str = ""

    @property
    def files(self) -> dict[str, str]:
        """Texts by file name."""
        found = {f"{self.name}.v": self.verilog, f"{self.name}.json": self.manifest}
        more = {f"{self.name}.core": self.core, testbench_name(self.name): self.testbench}
        return found | {name: text for name, text in more.items() if text}


def emission(name: str, options: Options) -> Emission:
    """Build a top and emit it, without writing anything."""
    module_name = name.replace("-", "_")
    component = build_top(name, options)
    description = TOPS[name].description
    verilog = f"// {name}: {description}. Emitted by hw.build.\n"
    if module_name != name:  # a module's name cannot have the hyphen that the file's has
        verilog += "/* verilator lint_off DECLFILENAME */\n"
    verilog += emit(component, module_name)
    clocked = re.search(rf"^  input {CLOCK};$", verilog, re.MULTILINE) is not None
    manifest = {
        "top": name,
        "description": description,
        "module": module_name,
        "verilog": f"{name}.v",
        "parameters": parameters(name, options),
        "clock": CLOCK if clocked else None,
        "reset": RESET if clocked else None,
        # null: the number of cycles is not fixed
        "latency_cycles": getattr(component, "latency", 0),
        "ports": [
            {
                "name": port.name,
                "direction": port.direction,
                "width": port.width,
                "signed": port.signed,
                "meaning": TOPS[name].meanings[port.name],
            }
            for port in ports(component)
        ],
    }
    return Emission(name, verilog, json.dumps(manifest, indent=2) + "\n")


def packaged(plain: Emission, options: Options) -> Emission:
    """The emission with a FuseSoC core file and, where there is a model, a testbench.

    Another process says what words are expected: they come from the model, which hardware does
    not import.
    """
    manifest = json.loads(plain.manifest)
    command = [sys.executable, "-m", "sim.fusesoc_stimulus", plain.name]
    asked = json.dumps(asdict(options))
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.strip().splitlines()[-1:])
        raise EmissionError(f"testbench of {plain.name} must have expected words: {reason}")
    found = json.loads(done.stdout)
    text = ""
    for name, kind in (("Steps", Steps), ("Beats", Beats)):
        if found and name in found:
            text = make_testbench(manifest, kind(**found[name]))
    return replace(plain, core=core_text(manifest, bool(text)), testbench=text)


def parameters(name: str, options: Options) -> dict[str, Any]:
    """The options that a top was built with, none left open."""
    found = {option: getattr(options, option) for option in TOPS[name].options}
    for option in ("output_bits", "bias_bits"):
        if option in found:
            found[option] = found[option] or options.bits
    if "multiplier" in found:
        found["multiplier"] = options.resolved_multiplier
    return found


def write(emissions: Sequence[Emission], directory: Path) -> list[Path]:
    """Write all files, each under a temporary name first; existing ones are replaced whole.

    Raises
    ------
    OSError
        If a file cannot be written; then none has changed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    texts = {name: text for e in emissions for name, text in e.files.items()}
    targets = [directory / name for name in texts]
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(21, "Is a directory", str(target))
    with tempfile.TemporaryDirectory(dir=directory, prefix=".emission-") as unfinished:
        for name, text in texts.items():
            Path(unfinished, name).write_text(text, encoding="utf-8", newline="\n")
        for target in targets:
            os.replace(Path(unfinished, target.name), target)
    return targets


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one sentence."""

    def error(self, message: str) -> NoReturn:
        _fail(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m hw.build",
        description="Emit tops as Verilog, one file each, with a JSON manifest beside it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("top", nargs="?", metavar="TOP", help="see --list; every top if omitted")
    parser.add_argument("--list", action="store_true", help="name the tops and leave")
    parser.add_argument("--core", action="store_true", help="also a FuseSoC core file, testbench")
    parser.add_argument("-o", dest="directory", metavar="DIR", help="where to (default: build)")
    numbers = {
        "bits": "x, bits of a word, 3 to 16",
        "rows": "rows or lanes",
        "columns": "columns of an array",
        "depth": "words per lane of a shift register",
        "size-bits": "bits of a matrix size",
        "max-terms": "longest dot product",
        "output-bits": "bits of a drain's result (default: --bits)",
        "bias-bits": "bits of a drain's bias (default: --bits)",
        "slots": "tile slots of the machine's memory",
        "parameters": "entries of the machine's column parameters, a power of two",
        "row-parameters": "entries of its row parameters, a power of two",
    }
    for name, meaning in numbers.items():
        default = getattr(_DEFAULTS, name.replace("-", "_"))
        note = "" if default is None else f" (default: {default})"
        parser.add_argument(f"--{name}", type=_integer, metavar="N", help=meaning + note)
    for name, meaning in (
        ("unity", "all ones is (2**F - 1) / 2**F"),
        ("skipping", "slices of zeros cost the machine cycles like others; smaller"),
        ("wide", "the machine's memory gives the array's side per cycle, not twice it; smaller"),
    ):
        parser.add_argument(
            f"--{_SWITCHED_OFF[name]}", dest=name, action="store_false", help=meaning
        )
    for name, meaning in (
        ("blocks", "the machine has scales per block of 32 terms"),
        ("table", "the machine has the piecewise-linear activation"),
        ("hold", "lanes of the machine keep their operand where the next one is zero"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=meaning)
    choices = {
        **{"rounding": ROUNDINGS, "multiplier": MULTIPLIER_NAMES, "target": TARGETS},
        **{"counters": COUNTERS, "control": CONTROLS},
    }
    for name, values in choices.items():
        note = f"{', '.join(values)} (default: {getattr(_DEFAULTS, name)})"
        parser.add_argument(f"--{name}", metavar="NAME", help=note)
    return parser


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, not {text!r}") from None


def _fail(message: str) -> NoReturn:
    print(f"hw.build: {message}", file=sys.stderr)
    raise SystemExit(2)


def _flag(option: str) -> str:
    return f"--{_SWITCHED_OFF.get(option, option.replace('_', '-'))}"


def _check_options_apply(names: Sequence[str], given: Mapping[str, Any]) -> None:
    where = names[0] if len(names) == 1 else "any top"
    takes = {option for name in names for option in TOPS[name].options}
    for option in sorted(given.keys() - takes):
        if option not in _COMMON_OPTIONS:
            flags = ", ".join(sorted(_flag(o) for o in takes.union(_COMMON_OPTIONS)))
            _fail(f"{_flag(option)} does not apply to {where}, which takes {flags}")
    ignored = [_flag(option) for option in sorted(given.keys() - takes)]
    if ignored:
        print(
            f"hw.build: note: {', '.join(ignored)} makes no difference to {where}", file=sys.stderr
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exits with status 2 after one sentence if the user made a mistake."""
    given = vars(_parser().parse_args(arguments))
    if given.pop("list", False):
        width = max(map(len, TOPS))
        for name, top in TOPS.items():
            print(f"{name:{width}}  {top.description}")
        return
    directory = Path(given.pop("directory", "build"))
    core = given.pop("core", False)
    top = given.pop("top", None)
    if top is not None and top not in TOPS:
        _fail(f"top must be one of {', '.join(TOPS)}, not {top!r}")
    names = [top] if top is not None else list(TOPS)
    _check_options_apply(names, given)
    assert given.keys() <= {f.name for f in fields(Options)}
    try:
        options = Options(**given)
        made = [emission(name, options) for name in names]
        written = write([packaged(e, options) for e in made] if core else made, directory)
    except (ValueError, EmissionError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{directory} must be a writable directory: {error.strerror or error}")
    for path in written:
        print(path)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
