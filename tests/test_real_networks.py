"""The published vision networks and LeNet on the whole path, as accurate as promised."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from bench import networks
from bench.network_runs import NETWORKS, Differs, Wanted, account, compare, measure, prepare
from sim.machine_device import make_device
from sw.compiler.compile import DEFAULT_MACHINE
from sw.runtime.artefact import load
from sw.runtime.check import Mismatch
from sw.runtime.session import Session

pytestmark = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)
BY_NAME = {network.name: network for network in NETWORKS}


@contextmanager
def silent(name):
    yield lambda done, whole: None


@pytest.fixture(scope="module")
def resnet8():
    """ResNet8, its exponents found on few images."""
    return prepare(replace(BY_NAME["resnet8"], batch=4), samples=4)


@pytest.fixture(scope="module")
def saved(resnet8, tmp_path_factory):
    """ResNet8 for one image on the default machine, as it comes back from disk."""
    folder = tmp_path_factory.mktemp("networks") / "resnet8"
    resnet8.artefact(DEFAULT_MACHINE, 1).save(folder)
    return load(folder)


def test_every_layer_of_resnet8_is_the_same_on_tensors_and_on_the_machine_model(resnet8):
    artefact = resnet8.artefact(replace(DEFAULT_MACHINE, slots=8192), 4)
    found = compare(artefact, "model", "machine model", resnet8.images[:4])
    assert found.results == len(artefact.plan.layers) == 14
    # An image's results: three and an addition of 32 x 32 x 16, four and one of 16 x 16 x 32 ...
    sizes = 4 * 32 * 32 * 16 + 4 * 16 * 16 * 32 + 4 * 8 * 8 * 64 + 64 + 10
    assert found.words == 4 * sizes
    with torch.no_grad():
        floats = torch.cat([resnet8.loaded.module(i) for i in resnet8.images[:4].split(1)])
    assert torch.equal(found.outputs.argmax(1), floats.argmax(1))


@pytest.mark.slow
def test_an_image_through_resnet8_is_the_same_on_tensors_and_on_rtl(resnet8, saved):
    device = make_device(saved.config, "verilator")
    found = compare(saved, device, "RTL", resnet8.images[:1])
    assert (found.images, found.results) == (1, 14)


def test_a_wrong_weight_in_the_machine_is_found_with_its_layer(resnet8, saved):
    name = list(saved.plan.layers)[1]
    constant = next(n for n in saved.schedule.constants if n == f"weights.{name}")
    words = saved.schedule.constants[constant].copy()
    words.reshape(-1)[0] ^= 0x40
    constants = {**saved.schedule.constants, constant: words}
    broken = replace(saved, schedule=replace(saved.schedule, constants=constants))
    with pytest.raises(Mismatch, match=rf"^layer {name} "):
        compare(broken, "model", "machine model", resnet8.images[:1])


def test_cycles_that_are_not_the_compilers_are_refused(saved):
    with Session(saved, "model") as session:
        session.run(torch.zeros(1, 32, 32, 3))
        (tally,) = session.tallies.values()
    cycles = next(n for counter, n in tally.counters.items() if counter.name == "CYCLES")
    assert account(saved, cycles)["cycles_per_image"] == cycles
    with pytest.raises(Differs, match=f"cycles must be {cycles} by the compiler, not {cycles + 1}"):
        account(saved, cycles + 1)


@pytest.mark.slow
def test_resnet8_loses_at_most_a_point_on_all_cifar_images():
    row = measure(BY_NAME["resnet8"], Wanted(), silent)
    model, rtl = row["model"], row["rtl"]
    assert row["float_accuracy"] == 0.7640
    assert model["images"] == 2000
    assert model["accuracy"] >= row["float_accuracy"] - 0.01
    assert rtl["images"] == 20
    assert model["results"] == 14 * 2000 // 8
    for found in (model, rtl):
        assert found["macs_per_image"] == 12_501_632 + 64 * 64
        assert found["utilisation"] >= 0.8


@pytest.mark.slow
def test_lenet_is_as_good_in_words_on_all_mnist_images():
    row = measure(BY_NAME["lenet"], Wanted(), silent)
    model, rtl = row["model"], row["rtl"]
    assert row["float_accuracy"] >= 0.985
    assert (model["images"], rtl["images"]) == (10_000, 200)
    assert model["accuracy"] >= row["float_accuracy"] - 0.002
    assert model["cpu_seconds"] < 2 * 300, "both cores for five minutes"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers", "macs"),
    [("autoencoder", 10, 264_192), ("mobilenet-vww", 29, 7_489_664), ("ds-cnn", 11, 2_656_768)],
)
def test_a_network_with_made_input_agrees_on_model_and_rtl(name, layers, macs):
    row = measure(BY_NAME[name], Wanted(images=1, rtl_images=1), silent)
    for found in (row["model"], row["rtl"]):
        assert found["images"] == 1
        assert found["results"] == layers
        assert macs <= found["macs_per_image"] < 1.01 * macs


@pytest.mark.slow
def test_the_benchmark_writes_what_it_shows(tmp_path, monkeypatch, capsys):
    path = tmp_path / "networks.json"
    arguments = ["--model", "autoencoder", "--images", "2", "--rtl-images", "1", "-o", str(path)]
    monkeypatch.setattr("sys.argv", ["bench.networks", *arguments])
    assert networks.main() == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["name"], row["model"]["images"], row["rtl"]["images"]) == ("autoencoder", 2, 1)
    assert "autoencoder" in capsys.readouterr().out


def test_a_difference_ends_the_benchmark_with_status_1(tmp_path, monkeypatch, capsys):
    def differs(*_):
        raise Differs("cycles must be 1 by the compiler, not 2")

    path = tmp_path / "networks.json"
    monkeypatch.setattr("sys.argv", ["bench.networks", "--model", "lenet", "-o", str(path)])
    monkeypatch.setattr(networks, "measure", differs)
    assert networks.main() == 1
    assert json.loads(path.read_text())["differences"]
    assert "lenet: cycles must be 1" in capsys.readouterr().err
