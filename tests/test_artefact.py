"""Artefacts on disk: they come back as they were, byte for byte the same, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sw.config import MachineConfig
from sw.runtime import artefact_files
from sw.runtime.artefact import FILES, MANIFEST, Artefact, DamagedArtefact, Example, load, save
from sw.runtime.session import Session
from tests.compiled import INNER, ROWS, artefact, commands, network


def whole(config: MachineConfig | None = None) -> Artefact:
    made = artefact() if config is None else artefact(config)
    example = Example((torch.ones(ROWS, INNER),), {"first": 1, "second": 2}, (3, 4))
    return Artefact(made.plan, made.schedule, example, {"nodes": []}, "text\n")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "net", whole())
    return tmp_path / "net"


@pytest.mark.parametrize("bits", [5, 8, 12, 16])
def test_artefact_comes_back_as_it_was(bits: int, tmp_path: Path) -> None:
    config = MachineConfig(bits=bits, rows=4, columns=4, slots=16)
    want = whole(config)
    save(tmp_path / "net", want)
    got = load(tmp_path / "net")
    assert got.config == want.config
    assert got.plan.graph.nodes == want.plan.graph.nodes
    assert got.plan.steps == want.plan.steps
    assert got.plan.placements == want.plan.placements
    assert got.plan.tensors == want.plan.tensors
    assert list(got.plan.layers) == ["first", "second"]
    for name, layer in want.plan.layers.items():
        assert torch.equal(got.plan.layers[name].weights.words, layer.weights.words)
        assert torch.equal(got.plan.layers[name].weights.exponents, layer.weights.exponents)
        assert torch.equal(got.plan.layers[name].weights.bias, layer.weights.bias)
    assert got.schedule.setup == want.schedule.setup
    assert got.schedule.steps == want.schedule.steps
    assert got.schedule.places == want.schedule.places
    for name, words in want.schedule.constants.items():
        assert np.array_equal(got.schedule.constants[name], words)
    assert got.example is not None
    assert want.example is not None
    assert got.example.layers == want.example.layers
    assert (got.report, got.text) == (want.report, want.text)
    with Session(want, "model") as one, Session(got, "model") as other:
        given = torch.randn(ROWS, INNER)
        assert torch.equal(one.run(given)[1], other.run(given)[1])


def test_equal_networks_give_equal_bytes(saved: Path, tmp_path: Path) -> None:
    save(tmp_path / "again", whole())
    for name in (*FILES, MANIFEST):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_weights_are_stored_once_and_without_gaps(tmp_path: Path) -> None:
    save(tmp_path / "net", whole(MachineConfig(bits=5, rows=4, columns=4, slots=16)))
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "net" / "tensors.safetensors")
    assert [n for n in tensors if "weights" in n and n.endswith("words")] == [
        "layers.first.weights.words",
        "layers.second.weights.words",
    ]
    assert tensors["layers.first.weights.words"].numel() == -(-5 * 5 * 7 // 8)
    assert not [name for name in tensors if name.startswith("constants.weights")]


def test_nothing_is_pickled(saved: Path) -> None:
    for name in FILES:
        content = (saved / name).read_bytes()
        assert not content.startswith((b"\x80", b"PK")), name


def test_artefact_is_replaced_as_a_whole(saved: Path) -> None:
    other = artefact(seed=1)
    save(saved, other)
    got = load(saved).plan.layers["first"].weights.words
    assert torch.equal(got, other.plan.layers["first"].weights.words)
    assert [path.name for path in saved.parent.iterdir()] == ["net"]


def test_full_disk_leaves_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place in ("save_file", "replace_directory"):
        with monkeypatch.context() as patch:
            target = artefact_files if place == "save_file" else "sw.runtime.artefact"
            if place == "save_file":
                patch.setattr(target, place, full)
            else:
                patch.setattr(f"{target}.{place}", full)
            with pytest.raises(ValueError, match="No space left on device"):
                save(saved, artefact(seed=1))
            with pytest.raises(ValueError, match="No space left on device"):
                save(saved.parent / "other", artefact(seed=1))
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
        assert [path.name for path in saved.parent.iterdir()] == ["net"]


def test_other_directories_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="must be an artefact or not there yet"):
            save(target, whole())
    with pytest.raises(ValueError, match="must be in a folder that exists"):
        save(tmp_path / "none" / "net", whole())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_damage_is_one_sentence(name: str, damage: str, saved: Path) -> None:
    path = saved / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "flip":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:-2])
        case "remove":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
    with pytest.raises(DamagedArtefact) as caught:
        load(saved)
    message = str(caught.value)
    assert "net" in message
    assert "\n" not in message


def reseal(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as someone would who knows how its hash is made."""
    path = directory / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    for name in manifest["files"]:
        content = (directory / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"bytes": len(content), "sha256": digest}
    change(manifest)
    text = json.dumps(manifest, sort_keys=True).encode()
    manifest["sha256"] = hashlib.sha256(text).hexdigest()
    path.write_text(json.dumps(manifest))


def test_another_format_is_one_sentence(saved: Path) -> None:
    reseal(saved, lambda manifest: manifest.update(format=99, tool="atreides 9.9"))
    with pytest.raises(DamagedArtefact, match=r"format 1, not 99 \(made by atreides 9.9\)"):
        load(saved)


def edit(directory: Path, name: str, change: Callable[[Any], None]) -> None:
    data = json.loads((directory / name).read_text())
    change(data)
    (directory / name).write_text(json.dumps(data))
    reseal(directory, lambda manifest: None)


def put(*keys: Any, to: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = to

    return change


NETWORK, SCHEDULE = "network.json", "schedule.json"
LIES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "operation must be one of ATen": (
        NETWORK,
        put("graph", "nodes", 5, "target", to="aten.from_file.default"),
    ),
    "p must read what steps before it made, not 'unknown'": (
        NETWORK,
        put("graph", "nodes", 5, "args", 0, to={"ref": "unknown"}),
    ),
    "a1 must read values before it, not 'p'": (
        NETWORK,
        put("graph", "nodes", 1, "args", 0, to={"ref": "p"}),
    ),
    "must be an argument of a graph's node": (
        NETWORK,
        put("graph", "nodes", 5, "args", 0, to={"call": "os.system"}),
    ),
    "first must have weights for 6 channels": (
        NETWORK,
        put("tensors", "x", "shape", to=[1, 1, ROWS, 6]),
    ),
    "h must have an exponent": (NETWORK, put("tensors", "h", "exponent", to=None)),
    "x must have exponents of -512 to 512": (NETWORK, put("tensors", "x", "exponent", to=10**9)),
    "tensors.x.shape must have 4 entries": (NETWORK, put("tensors", "x", "shape", to=[1])),
    "layers.first must be one of Convolution": (NETWORK, put("layers", "first", "is", to="Evil")),
    "second must read what steps before it made": (
        NETWORK,
        lambda d: d["steps"].insert(1, d["steps"].pop(2)),
    ),
    "first must have strides of at least 1": (NETWORK, put("layers", "first", "stride", to=[0, 1])),
    "must have the shape [1000000": (
        NETWORK,
        put("layers", "first", "weights", "words", "shape", to=[1000000, 1000000, 1, 1, 1]),
    ),
    "must stay within 256 words of memory": (SCHEDULE, put("setup", 0, "address", to=250)),
    "must stay within 256 entries": (SCHEDULE, put("setup", 2, "entry", to=255)),
    "must have words of the program": (SCHEDULE, put("steps", 1, 0, "words", to=[0, 10**6])),
    "sections must make up a program": (
        SCHEDULE,
        put("steps", 1, 0, "sections", 0, "end", to=10**6),
    ),
    "must fit its layer": (
        SCHEDULE,
        put("steps", 1, 0, "sections", 1, "collects", 0, "rows", to=ROWS + 1),
    ),
    "h must lie within 256 words": (SCHEDULE, put("places", "h", "address", to=250)),
    "schedule must have 4 steps, not 0": (SCHEDULE, put("steps", to=[])),
    "source of a write must be known": (SCHEDULE, put("setup", 0, "source", to="passwords")),
}


@pytest.mark.parametrize("message", LIES)
def test_lies_are_found_even_under_a_right_hash(message: str, saved: Path) -> None:
    edit(saved, *LIES[message])
    with pytest.raises(DamagedArtefact) as caught:
        load(saved)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_program_words_beyond_the_hexadecimal_are_refused(saved: Path) -> None:
    (saved / "program.hex").write_text("zz\n")
    reseal(saved, lambda manifest: None)
    with pytest.raises(DamagedArtefact):
        load(saved)


def test_words_beyond_the_format_are_refused(tmp_path: Path) -> None:
    config = MachineConfig(bits=12, rows=4, columns=4, slots=16)
    plan = network(config)
    save(tmp_path / "net", Artefact(plan, commands(plan)))
    reseal(tmp_path / "net", lambda manifest: manifest["machine"].update(bits=3))
    with pytest.raises(DamagedArtefact):
        load(tmp_path / "net")
