#!/usr/bin/env bash
# Makes this checkout ready to use: system packages, .venv and the pinned Python packages.
#
# `make` calls it before every target that needs it. It is quick when nothing is to do, safe to
# interrupt (the stamp is written last, and an installation that was cut short is made anew) and
# safe to run twice at once. What it cannot do itself it prints as a line to run, and fails.
#
#   PYTHON=python3.12 scripts/setup.sh     choose the interpreter (3.11 or newer)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=.venv
readonly stamp=$venv/.installed        # what was installed, written last
readonly unfinished=$venv/.installing  # there while an installation runs or was cut short
readonly torch_cpu_index=https://download.pytorch.org/whl/cpu

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# The interpreter to build .venv with: $PYTHON, else the first new enough one on PATH.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        # Its real path: the one on PATH may be a link inside the very .venv that is made anew.
        "$candidate" - 2>/dev/null <<'PYTHON' && return
import os, sys
sys.exit(1) if sys.version_info < (3, 11) else print(os.path.realpath(sys.executable))
PYTHON
    done
    fail "Python must be 3.11 or newer, not ${PYTHON:-$(python3 --version 2>&1 || true)};" \
        "name another one with PYTHON=/path/to/python3"
}

# Debian packages that are missing, given an interpreter and whether .venv has to be made.
missing_packages() {
    local python=$1 make_venv=$2 version
    command -v iverilog >/dev/null && command -v vvp >/dev/null || echo iverilog
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    # Verilator's front end is a Perl script, and Debian's perl-base lacks the modules it needs.
    perl -MPod::Usage -MGetopt::Long -MIO::File -e 1 2>/dev/null || echo perl
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    # Simulators embed Python through its shared library, which Debian packs on its own.
    "$python" - <<'PYTHON' 2>/dev/null || echo "libpython$version"
import ctypes, os, sysconfig
name = sysconfig.get_config_var("INSTSONAME") or ""
path = os.path.join(sysconfig.get_config_var("LIBDIR") or "", name)
ctypes.CDLL(path if os.path.exists(path) else name)
PYTHON
    if [ "$make_venv" = yes ]; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
    fi
}

install_packages() {
    local packages=("$@") run=()
    local get="apt-get install -y --no-install-recommends ${packages[*]}"
    command -v apt-get >/dev/null || fail "these packages (Debian's names) must be installed" \
        "first: ${packages[*]}; or run 'nix develop'"
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            run=(sudo -n)
        else
            fail "system packages are missing; run this line, then make again:"$'\n'$'\n'"$(
                printf "    sudo apt-get update && sudo %s" "$get")"$'\n'
        fi
    fi
    export DEBIAN_FRONTEND=noninteractive
    say "installing system packages: ${packages[*]}"
    # Fresh images carry no package lists; old lists name versions that are gone. So: try, update
    # the lists, try again.
    if compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null &&
        ${run[@]+"${run[@]}"} $get >/dev/null 2>&1 </dev/null; then
        return
    fi
    { ${run[@]+"${run[@]}"} apt-get update && ${run[@]+"${run[@]}"} $get; } >/dev/null 2>&1 \
        </dev/null || fail "apt-get could not install them; to see why, run: apt-get update && $get"
}

has_nvidia_gpu() { [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; }

# torch, exactly as pinned. PyPI's wheel for Linux brings gigabytes of CUDA, so without a GPU
# PyTorch's own index of CPU builds is asked first: briefly, it may be out of reach.
install_torch() {
    local pin
    pin=$(grep -oE '"torch==[^"]+"' pyproject.toml | tr -d '"')
    if "$venv/bin/python" - "${pin#*==}" 2>/dev/null <<'PYTHON'; then
import importlib.metadata, sys
sys.exit(importlib.metadata.version("torch").split("+")[0] != sys.argv[1])
PYTHON
        return
    fi
    if has_nvidia_gpu; then
        say "installing $pin with CUDA (some gigabytes)"
    else
        say "installing $pin, CPU build (about 200 MB)"
        if "$venv/bin/pip" install -qq --no-deps --retries 0 --timeout 10 \
            --index-url "$torch_cpu_index" "$pin" >"$venv/torch.log" 2>&1; then
            return
        fi
        say "PyTorch's CPU index did not answer; taking $pin from the default index"
    fi
    "$venv/bin/pip" install -qq -c constraints.txt "$pin"
}

wanted_stamp() { { pwd -P; cat pyproject.toml constraints.txt scripts/setup.sh; } | sha256sum; }

usable_venv() { [ ! -e "$unfinished" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

main() {
    trap 'exit 130' INT TERM  # pip answers an interrupt by failing, which must not look like an answer
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    # One installation at a time; the lock goes with the process.
    if command -v flock >/dev/null; then exec 9<. && flock 9; fi

    local python make_venv=no missing started=$SECONDS
    if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted_stamp)" ] && [ ! -e "$unfinished" ] &&
        "$venv/bin/python" -c '' 2>/dev/null; then
        missing=$(missing_packages "$venv/bin/python" no)
        [ -z "$missing" ] && return
        install_packages $missing
        return
    fi

    if usable_venv; then python=$venv/bin/python; else python=$(find_python) make_venv=yes; fi
    missing=$(missing_packages "$python" "$make_venv")
    [ -z "$missing" ] || install_packages $missing
    if [ "$make_venv" = yes ]; then
        [ ! -e "$venv" ] || say "$venv is incomplete; making it anew"
        # Out of the way in one step: a removal cut short must not leave half an environment.
        rm -rf "$venv.old"
        [ ! -e "$venv" ] || mv "$venv" "$venv.old"
        rm -rf "$venv.old"
        mkdir "$venv"
        : >"$unfinished"
        say "creating $venv with $("$python" --version)"
        "$python" -m venv "$venv"
    fi
    : >"$unfinished"
    install_torch
    say "installing the pinned Python packages (a few minutes on the first run)"
    "$venv/bin/pip" install -qq -c constraints.txt -e '.[dev]'
    wanted_stamp >"$stamp.new"
    mv "$stamp.new" "$stamp"
    rm -f "$unfinished"
    say "ready after $((SECONDS - started)) s"
}

main
