"""``atreides study`` and ``atreides report``: rows into a log, a log into a page."""

from __future__ import annotations

import html.parser
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from atreides import results_page, results_rows, study_kinds, wasq_plots
from atreides.cli import main
from bench import wasq_tables
from sw.models.llama import Llama, LlamaConfig
from sw.wasq import inhouse
from sw.wasq.language import LanguageModel
from sw.wasq.records import Record, append_record
from sw.wasq.studies.log import append_row, has_row, read_log


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        **{"model": "net<1>", "model_sha256": "a", "data": "text", "split": "test"},
        **{"data_sha256": "b", "window": 64, "windows": 9, "predicted": 567, "perplexity": 20.0},
        **changes,
    }
    return Record(loss=math.log(fields["perplexity"]), **fields)


def quantized(method: str, bits: int, perplexity: float, **changes: Any) -> Record:
    return record(
        **{"method": method, "weight_bits": bits, "activation_bits": 8, "perplexity": perplexity},
        **{"effective_bits": bits + 0.25, "reference_perplexity": 20.0, "seconds": 3.0 * bits},
        **{"config": {"weight_scale": "block"}, "interval": (perplexity - 1, perplexity + 1)},
        **changes,
    )


class Page(html.parser.HTMLParser):
    """Cells of tables, tags that were opened and closed, addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "img", "path", "use", "rect", "circle", "line"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag in self.open:
            assert self.open[-1] == tag, f"{tag} closed inside {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


RESULTS = [record(), quantized("vanilla", 8, 20.5), quantized("opt", 4, 24.0)]


def test_page_has_every_result_and_needs_no_other_file(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for row in RESULTS:
        append_record(log, row)
    assert main(["report", str(log), "-o", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert not page.open
    assert all(link.startswith("#") for link in page.links)
    body = [row for row in page.rows if row[0] in ("float", "vanilla", "opt")]
    assert [row[0] for row in body] == ["float", "vanilla", "opt"]
    assert body[1][2:8] == ["8", "8", "8.25", "20.500", "19.50 to 21.50", "+2.50%"]
    assert "net&lt;1&gt; on text:test" in text
    assert "net<1>" not in text
    assert text.count("<svg") == 3


def test_lines_that_are_no_results_are_told_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    append_record(log, RESULTS[0])
    with open(log, "a") as file:
        file.write('{"loss": 3}\n{"torn')
    assert main(["report", str(log), "-o", str(tmp_path / "page.html")]) == 0
    told = capsys.readouterr().out
    assert "left out" in told
    assert "result must have model" in told
    assert "20.000" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.jsonl"], "missing.jsonl must be a log that exists"),
        (["empty.jsonl"], "must have at least one row, not 0"),
        (["empty.jsonl", "-o", "page.txt"], "output must end in .html, not 'page.txt'"),
    ],
)
def test_unusable_logs_are_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").touch()
    assert main(["report", *arguments]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_results_of_other_texts_and_windows_stand_apart() -> None:
    rows = [RESULTS[0], RESULTS[1], quantized("opt", 4, 9.0, window=32), record(data="other")]
    plain = results_rows.evaluations([row.to_json() for row in rows])
    found = results_rows.groups(plain)
    assert [len(group) for group in found.values()] == [2, 1, 1]
    assert results_rows.reference(next(iter(found.values()))) == 20.0
    assert plain[1]["label"] == "vanilla, A8, block"


def test_front_holds_exactly_what_nothing_beats() -> None:
    random = torch.Generator().manual_seed(3)
    rows = [
        {"effective_bits": float(b), "perplexity": float(p), "method": "m"}
        for b, p in torch.randint(1, 12, (40, 2), generator=random).tolist()
    ]
    found = {(r["effective_bits"], r["perplexity"]) for r in wasq_plots.pareto(rows)}
    want = {
        (r["effective_bits"], r["perplexity"])
        for r in rows
        if not any(
            o["effective_bits"] <= r["effective_bits"]
            and o["perplexity"] <= r["perplexity"]
            and (o["effective_bits"], o["perplexity"]) != (r["effective_bits"], r["perplexity"])
            for o in rows
        )
    }
    assert found == want


def test_log_goes_on_behind_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_row(path, {"a": 1})
    with open(path, "a") as file:
        file.write('{"a": 2, "b')
    append_row(path, {"a": 3})
    assert [row["a"] for row in read_log(path)] == [1, 3]
    assert has_row(read_log(path), a=3)
    assert not has_row(read_log(path), a=2)
    path.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    mistakes: list[str] = []
    assert len(read_log(path, mistakes)) == 2
    assert f"{path}:2: row must be a JSON object" in mistakes[0]


def scaling_rows() -> list[dict[str, Any]]:
    rows = []
    for size in (10**5, 10**6):
        for context in (2, 16, 128):
            for bits in (4, 8):
                for mode in ("packed", "masked", "padded"):
                    value = 20 * (size / 1e6) ** -0.1 * context**-0.05 * (1 + 2.0**-bits)
                    value *= 1.5 if mode == "padded" and context == 128 else 1
                    point = {"size": size, "context": context, "bits": bits, "mode": mode}
                    rows.append({"study": "scaling", "seed": 0, **point, "perplexity": value})
    return rows


def test_studies_of_a_log_become_sections(tmp_path: Path) -> None:
    trained = {"study": "train-model", "name": "1m", "parameters": 5, "steps": 3, "best_step": 2}
    trained |= {"tokens": 9, "seconds": 1.0, "validation_perplexity": 7.5}
    trained |= {"evaluation_perplexity": [8.25, 9.5]}
    save_file({"a": torch.tensor([[0.5, -2.0]])}, tmp_path / "net.safetensors")
    command = ["study", "distribution", str(tmp_path / "net.safetensors"), "-o", str(tmp_path)]
    assert main(command) == 0
    assert main(command) == 0
    rows = read_log(tmp_path / "study.jsonl")
    assert len(rows) == 1
    assert rows[0]["outside"] == 50
    assert {path.suffix for path in tmp_path.glob("distribution.*")} == {".json", ".svg", ".png"}
    text = results_page.page([*rows, *scaling_rows(), trained], "title")
    page = Page(text)
    assert not page.open
    assert "Where parameters lie" in text
    assert ["128", "4", "+50.00 %"] in page.rows
    assert ["1m", "5", "3", "2", "9", "1", "7.50", "8.25, 9.50"] in page.rows
    assert "through 12 points without padding" in text


class Letters:
    """A tokenizer: a byte is a token."""

    vocabulary, bos = 256, None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of every language model and of the texts."""
    torch.manual_seed(2)
    module = Llama(LlamaConfig(8, 12, 1, 2, 1, 256, 64)).eval()
    model = LanguageModel("tiny", module, Letters(), "c" * 64, 64)
    monkeypatch.setattr(study_kinds, "load_language", lambda name, device: model)
    texts = inhouse.divide(["A line of text.\n\nAnother one, longer.\n" * 40])
    monkeypatch.setattr(inhouse, "gather", lambda generated: texts)


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "scaling",
            "tiny",
            "--bits",
            "8",
            "--contexts",
            "4,8",
            "--modes",
            "packed",
            "--steps",
            "1",
        ],
        ["formats", "tiny", "--bits", "4"],
        ["activation", "tiny", "--bits", "4"],
    ],
)
def test_study_that_was_done_adds_no_row(
    arguments: list[str], tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Some words to read.\n" * 20)
    common = ["--window", "16", "--limit", "2", "--text", str(text), "-o", str(tmp_path)]
    assert main(["study", *arguments, *common]) == 0
    rows = read_log(tmp_path / "study.jsonl")
    assert len(rows) == {"scaling": 2, "activation": 1}.get(arguments[0], len(rows)) > 0
    assert all(row["study"] == arguments[0] and row["model"] == "tiny" for row in rows)
    assert list(tmp_path.glob("*.svg"))
    monkeypatch.setattr("sw.wasq.studies.scaling.run_point", None)
    assert main(["study", *arguments, *common]) == 0
    assert read_log(tmp_path / "study.jsonl") == rows


def test_study_that_ran_out_of_time_goes_on(tiny: None, tmp_path: Path) -> None:
    command = ["study", "scaling", "tiny", "--bits", "4,8", "--contexts", "4", "--steps", "1"]
    command += ["--modes", "padded", "--window", "16", "--limit", "2", "-o", str(tmp_path)]
    assert main([*command, "--seconds", "0"]) == 0
    assert read_log(tmp_path / "study.jsonl") == []
    assert main(command) == 0
    assert len(read_log(tmp_path / "study.jsonl")) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["weather"], "study must be one of distribution, activation"),
        (["formats"], "model must be given, at least one"),
        (["distribution", "nothing"], "model must be one of yolov5n"),
        (["activation", "x", "--bits", "four"], "bits must be numbers with commas between"),
        (["train-model", "2m"], "model must be one of 0.3m"),
        (["train-model", "--generated", "/dev/null"], "/dev/null must hold text, not be empty"),
    ],
)
def test_mistakes_in_studies_are_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sw.wasq.inhouse.gather", lambda generated: None)
    assert main(["study", *arguments, "-o", str(tmp_path)]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_distribution_json_has_every_tensor(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, 2), "b": torch.zeros(3)}, tmp_path / "n.safetensors")
    assert (
        main(["study", "distribution", str(tmp_path / "n.safetensors"), "-o", str(tmp_path)]) == 0
    )
    (row,) = json.loads((tmp_path / "distribution.json").read_text())
    assert [part["tensor"] for part in row["per_tensor"]] == ["a", "b"]


def test_tables_of_a_log_are_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    for row in RESULTS:
        append_record(log, row)
    assert wasq_tables.main([str(log)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "## net<1> on text:test" in lines
    heads = next(line for line in lines if line.startswith("| method"))
    assert "recovery" not in heads
    row = next(line for line in lines if line.startswith("| opt"))
    assert row.count("|") == heads.count("|")
    assert "| 24.000 | 23.00 to 25.00 | +20.00% |" in row
