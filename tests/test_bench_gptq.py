"""The benchmark of one GPTQ step: what it compares, without what only an index of packages has."""

from __future__ import annotations

import importlib
import json
import sys
import types

import pytest
import torch

from bench import gptq
from bench.gptq_public import Public, stand_in
from sw.wasq.compensate import output_error


def to_nearest(weight, hessian, group):
    """Rounding to nearest in the place of a public implementation."""
    groups = weight.unflatten(-1, (-1, group or weight.shape[-1]))
    unit = groups.abs().amax(-1, keepdim=True) / 7.5
    return ((groups / unit).round().clamp(-8, 7) * unit).flatten(-2)


def broken():
    raise ImportError("no such thing\nand more")


def test_every_row_has_seconds_and_the_error_of_its_output(tmp_path, monkeypatch, capsys):
    publics = (Public("nearest", ("nearest==1",), lambda: to_nearest), Public("x", (), broken))
    monkeypatch.setattr(gptq, "PUBLIC", publics)
    monkeypatch.setattr(gptq, "SIZES", ((8, 64), (4, 96)))
    path = tmp_path / "gptq.json"
    monkeypatch.setattr(sys, "argv", ["gptq", "--repeats", "1", "-o", str(path)])
    gptq.main()
    assert "left out: x (ImportError: no such thing)" in capsys.readouterr().out
    result = json.loads(path.read_text())
    assert result["left_out"] == {"x": "ImportError: no such thing"}
    rows = result["rows"]
    assert len(rows) == 2 * 2 * 3
    for case in {(row["inputs"], row["group"]) for row in rows}:
        error = {r["name"]: r["error"] for r in rows if (r["inputs"], r["group"]) == case}
        assert 0 < error["ours, default"] < error["nearest"]
        ratio = {r["name"]: r["ratio"] for r in rows if (r["inputs"], r["group"]) == case}
        assert ratio["nearest"] == 1
    weight, moments = gptq.problem(8, 64, torch.device("cpu"))
    hessian = moments.hessian
    left = weight - to_nearest(weight, hessian, 32)
    want = torch.trace(left.double() @ hessian @ left.double().T)
    want /= torch.trace(weight.double() @ hessian @ weight.double().T)
    got = [r["error"] for r in rows if (r["inputs"], r["group"], r["name"]) == (64, 32, "nearest")]
    assert got == [pytest.approx(float(want))]


def test_without_any_public_implementation_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(gptq, "PUBLIC", (Public("x", ("x==3", "y==1"), broken),))
    monkeypatch.setattr(sys, "argv", ["gptq"])
    with pytest.raises(SystemExit) as end:
        gptq.main()
    assert end.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("bench.gptq: a public implementation must be importable: ")
    assert complaint.endswith("build/gptq-env/site x==3 y==1\n")
    assert complaint.count("\n") == 1


def test_alone_it_needs_no_public_implementation_and_tells_its_stages(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(gptq, "SIZES", ((8, 64), (4, 96)))
    path = tmp_path / "gptq.json"
    monkeypatch.setattr(sys, "argv", ["gptq", "--alone", "--repeats", "1", "-o", str(path)])
    gptq.main()
    assert "two passes of refinement" in capsys.readouterr().out
    result = json.loads(path.read_text())
    assert {row["name"] for row in result["rows"]} == set(gptq.OURS)
    assert {row["ratio"] for row in result["rows"]} == {None}
    for stages in result["stages"].values():
        assert min(stages.values()) > 0
        assert "all of it" in stages


def test_an_implementation_that_fails_as_it_runs_is_left_out(monkeypatch):
    def fails(weight, hessian, group):
        raise RuntimeError("no kernel")

    device = torch.device("cpu")
    rows, failed = gptq.measure((4, 64), 32, {"nearest": to_nearest, "bad": fails}, 1, device)
    assert failed == {"bad": "RuntimeError: no kernel"}
    assert {row["name"] for row in rows} == {*gptq.OURS, "nearest"}


def test_a_problem_is_correlated_and_the_same_in_every_run():
    (weight, moments), (again, other) = (
        gptq.problem(8, 64, torch.device("cpu")),
        gptq.problem(8, 64, torch.device("cpu")),
    )
    assert torch.equal(weight, again)
    assert torch.equal(moments.hessian, other.hessian)
    diagonal = moments.hessian.diagonal()
    assert output_error(weight, torch.zeros_like(weight), moments.hessian) > 0
    beside = moments.hessian / (diagonal[:, None] * diagonal).sqrt() - torch.eye(64).double()
    assert float(beside.abs().amax()) > 0.3
    assert float(torch.linalg.eigvalsh(moments.hessian)[0]) > 0


def test_a_stand_in_gives_submodules_without_running_the_package(tmp_path, monkeypatch):
    inner = tmp_path / "heavy_package" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("raise ImportError('heavy')\n")
    (inner / "__init__.py").write_text("raise ImportError('heavy too')\n")
    (inner / "step.py").write_text("VALUE = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        stand_in("heavy_package", "heavy_package.inner")
        step = importlib.import_module("heavy_package.inner.step")
        assert isinstance(step, types.ModuleType)
        assert step.VALUE == 7
        assert sys.modules["heavy_package"].inner.step is step
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "heavy_package"]:
            del sys.modules[name]
    with pytest.raises(ModuleNotFoundError, match="nosuch_package"):
        stand_in("nosuch_package")
