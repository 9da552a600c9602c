"""What the project says of itself: pins, versions, targets and files agree with each other."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from atreides import __version__

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)["project"]
RUNTIME = PROJECT["dependencies"]
DEVELOPMENT = PROJECT["optional-dependencies"]["dev"]
OWN = {"sw", "hw", "sim", "atreides", "bench", "tests"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages(*folders: str) -> set[str]:
    """The distributions that the Python files below some folders import."""
    distributions = importlib.metadata.packages_distributions()
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in {name.split(".")[0] for name in names}:
                # Files beside a script, and what is not installed, are told by other tests.
                if name not in OWN and name not in sys.stdlib_module_names:
                    found |= {canonical(found) for found in distributions.get(name, [])}
    return found


def test_version_is_stated_alike() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)
    assert newest, "CHANGELOG.md names no release"
    assert PROJECT["version"] == __version__ == newest[1]


def test_python_is_the_oldest_that_every_tool_is_told() -> None:
    settings = tomllib.loads(PYPROJECT)["tool"]
    assert PROJECT["requires-python"] == ">=3.11"
    assert settings["ruff"]["target-version"] == "py311"
    assert settings["mypy"]["python_version"] == "3.11"


@pytest.mark.parametrize("requirement", [*RUNTIME, *DEVELOPMENT])
def test_dependency_is_pinned_exactly_and_explained(requirement: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", requirement)
    lines = [line.strip() for line in PYPROJECT.splitlines()]
    above = lines[lines.index(f'"{requirement}",') - 1]
    assert above.startswith("# "), f"{requirement} must have a reason above it"


def test_what_is_imported_is_declared() -> None:
    runtime = {canonical(pin.split("==")[0]) for pin in RUNTIME}
    development = {canonical(pin.split("==")[0]) for pin in DEVELOPMENT}
    undeclared = imported_packages("sw", "hw", "sim", "atreides", "bench") - runtime
    assert not undeclared, f"not in dependencies: {sorted(undeclared)}"
    undeclared = imported_packages("tests") - runtime - development
    assert not undeclared, f"not in dependencies or dev: {sorted(undeclared)}"


def test_constraints_pin_what_is_installed_besides_the_dependencies() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins == sorted(pins)
    names = {pin.split("==")[0] for pin in pins}
    direct = {canonical(pin.split("==")[0]) for pin in (*RUNTIME, *DEVELOPMENT)}
    assert not names & direct
    needed = set()
    for name in direct | names:
        for line in importlib.metadata.requires(name) or []:
            if ";" not in line:
                needed.add(canonical(re.split(r"[^A-Za-z0-9_.-]", line)[0]))
    assert needed <= names | direct, f"not pinned: {sorted(needed - names - direct)}"


def make(*arguments: str) -> str:
    command = ["make", "--no-print-directory", *arguments]
    # Flags of the make that may be running these tests are not for this one.
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_make_alone_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):(?!=)", makefile, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    assert sorted(phony[1].split()) == sorted(targets)
    shown = make()
    assert re.findall(r"^  make (\w+) +\S", shown, re.MULTILINE) == targets


@pytest.mark.parametrize("target", ["demo", "test", "prove", "mutate", "bench", "verilog"])
def test_target_sees_to_the_tools_first(target: str) -> None:
    commands = make("--dry-run", target).splitlines()
    assert commands[0].endswith("scripts/setup.sh")
    assert len(commands) > 1


def test_documents_name_only_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text()
        named = set(re.findall(r"(?:`|^|    )make ([a-z]+)", text, re.MULTILINE))
        assert named, f"{document} must say how to run something"
        assert named <= targets, f"{document} names {sorted(named - targets)}"


def test_example_in_the_readme_runs() -> None:
    blocks = re.findall(r"(?:^    .*\n|^\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    (example,) = [block for block in blocks if "import SFx" in block]
    code = textwrap.dedent(example)
    assert "assert" in code
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_links_in_documents_lead_to_files() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / document).read_text()):
            if not link.startswith("http"):
                assert (ROOT / link).exists(), f"{document} links to {link}"


def test_ci_runs_the_quick_and_the_slow_tests_strictly() -> None:
    script = (ROOT / ".ci/run").read_text()
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)
    assert "set -euo pipefail" in script
    assert re.findall(r"^make (\w+)", script, re.MULTILINE) == ["test", "prove"]


@pytest.mark.skipif(
    not shutil.which("nix-instantiate"), reason="nix is optional: apt-get install nix-bin"
)
def test_flake_parses() -> None:
    command = ["nix-instantiate", "--parse", ROOT / "flake.nix"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for tool in ("iverilog", "gcc", "gnumake", "perl"):
        assert f"(pkgs).{tool}" in result.stdout
