"""The compiled kernels: built once, cached whole, left out with one warning when they cannot be."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from sw import native, tensor
from sw.format import SFx


def test_the_kernels_build_and_are_cached():
    assert native.compiler() is not None, "g++ must be installed"
    first = native.build()
    stamp = first.stat().st_mtime_ns
    assert native.build() == first
    assert first.stat().st_mtime_ns == stamp
    assert native.library() is not None


def test_plain_and_the_environment_switch_the_kernels_off(monkeypatch):
    with native.plain():
        assert native.library() is None
    assert native.library() is not None
    monkeypatch.setenv("ATREIDES_NATIVE", "0")
    assert native.library() is None


def run_without(compiler: str, cache: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import torch; from sw.tensor import encode; from sw.format import SFx\n"
        "for _ in range(3): print(encode(torch.tensor([0.5, -1.0]), SFx(8)).tolist())"
    )
    environment = {"CXX": compiler, "XDG_CACHE_HOME": cache, "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_plain_torch_gives_the_same_words_after_one_warning(compiler, tmp_path):
    run = run_without(compiler, str(tmp_path))
    assert run.stdout.splitlines() == ["[64, 255]"] * 3
    assert run.stderr.count("compiled kernels are left out") == 1
    assert not list(tmp_path.rglob("*.so")), "a failed build must leave nothing behind"


def test_subnormals_survive_a_host_that_flushes_them():
    values = torch.tensor([2.0**-140, -(2.0**-149)])
    want = tensor.encode(values, SFx(8), -138).tolist()
    if not torch.set_flush_denormal(True):
        pytest.fail("this processor cannot flush subnormals, so nothing was tested")
    try:
        assert tensor.encode(values, SFx(8), -138).tolist() == want == [32, 0]
    finally:
        torch.set_flush_denormal(False)


def test_a_good_build_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tensor.encode(torch.ones(3), SFx(8)).tolist() == [127] * 3
