"""Perplexity, divergence and intervals, against sums written out and models of known loss."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.nn import functional
from wasq_models import small_llama

from sw.wasq.classify import classify
from sw.wasq.corpus import Corpus, documents, load_corpus
from sw.wasq.evaluation import Evaluation, evaluate
from sw.wasq.intervals import bootstrap, recovery
from sw.wasq.language import load_language

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)
CORPUS = Corpus.of("n", "valid", torch.arange(150) * 37 % 260)


class Certain(nn.Module):
    """Gives each next token, the last plus one, a probability, the rest shares what is left."""

    def __init__(self, probability: float, vocabulary: int = 10) -> None:
        super().__init__()
        self.probability, self.vocabulary = probability, vocabulary

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        rest = math.log((1 - self.probability) / (self.vocabulary - 1))
        logits = torch.full((*tokens.shape, self.vocabulary), rest, dtype=torch.float64)
        following = (tokens + 1) % self.vocabulary
        return logits.scatter(2, following[..., None], math.log(self.probability)) + 3


def test_perplexity_and_divergence_are_what_probabilities_say() -> None:
    tokens = torch.arange(25) % 10
    corpus = Corpus.of("n", "s", tokens)
    found = evaluate(Certain(0.25), corpus, 10, reference=Certain(0.5), tail=True)
    assert found.counts == (9, 9, 4)
    assert found.perplexity == pytest.approx(4, rel=1e-12)
    assert found.reference_perplexity == pytest.approx(2, rel=1e-12)
    assert found.divergence == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75))
    ratio, interval = found.ratio() or (0, None)
    assert ratio == pytest.approx(2)
    assert interval == pytest.approx((2, 2))
    assert found.interval() == pytest.approx((4, 4))
    assert evaluate(Certain(0.25), corpus, 10).counts == (9, 9)  # as the protocol has it
    assert evaluate(Certain(0.25), corpus, 10, limit=1).counts == (9,)
    assert evaluate(Certain(0.25), corpus, 12, tail=True).counts == (
        11,
        11,
    )  # a last token predicts none


def test_loss_is_the_cross_entropy_of_every_token_but_the_first() -> None:
    model = small_llama()
    found = evaluate(model, CORPUS, 64, batch=2, tail=True)
    want = []
    for part in (CORPUS.tokens[:64], CORPUS.tokens[64:128], CORPUS.tokens[128:]):
        with torch.no_grad():
            logits = model(part[None])[0, :-1].double()
        want.append(float(functional.cross_entropy(logits, part[1:], reduction="sum")))
    assert found.nats == pytest.approx(want, rel=1e-9)
    assert found.perplexity == pytest.approx(math.exp(sum(want) / 147))
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found


@data
def test_stories_have_their_published_loss() -> None:
    model = load_language("stories260k")
    corpus = load_corpus("tinystories", model.tokenizer)
    found = evaluate(model.module, documents(corpus, 1))
    assert round(found.loss, 3) == 1.306


def test_a_bootstrap_interval_is_that_of_numpys_own_draws() -> None:
    top, bottom = [1.0, 4.0, 2.0, 8.0, 5.0], [1.0, 2.0, 2.0, 4.0, 1.0]
    low, high = bootstrap(top, bottom, True) or (0, 0)
    random = np.random.default_rng(9)
    picks = random.integers(0, 5, (40_000, 5))
    values = np.exp(np.array(top)[picks].sum(1) / np.array(bottom)[picks].sum(1))
    want = np.percentile(values, [2.5, 97.5])
    assert low == pytest.approx(want[0], rel=0.05)
    assert high == pytest.approx(want[1], rel=0.05)
    assert bootstrap(top, bottom, True) == (low, high)
    assert bootstrap([1.0], [1.0]) is None


def test_recovery_is_one_where_nothing_is_lost() -> None:
    assert recovery(30.0, 20.0, 20.0) == 1
    assert recovery(30.0, 30.0, 20.0) == 0
    assert recovery(30.0, 25.0, 20.0) == 0.5
    assert recovery(20.0, 25.0, 20.0) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"window": 65}, "window must be at most 64, the model's context, not 65"),
        ({"window": 1}, "window must be at least 2 tokens, not 1"),
        ({"window": 8, "batch": 0}, "batch must be at least 1, not 0"),
        ({"window": 8, "limit": 0}, "limit must be at least 1 window, not 0"),
        ({"window": 200}, "n must have at least 200 tokens, a window, not 150"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(arguments, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        evaluate(small_llama(), CORPUS, **arguments)


def test_tokens_beyond_the_vocabulary_are_refused() -> None:
    corpus = Corpus.of("n", "s", torch.tensor([1, 2, 260, 3]))
    with pytest.raises(ValueError, match="tokens must be 0 to 259, the model's vocab"):
        evaluate(small_llama(), corpus, 4)


def test_a_model_that_gives_no_number_is_refused() -> None:
    model = small_llama()
    with torch.no_grad():
        model.norm.weight[3] = float("nan")
    with pytest.raises(ValueError, match=r"weight of norm must hold finite .* in 1 places"):
        evaluate(model, CORPUS, 32)


def test_the_layer_that_makes_infinities_is_named_with_their_number() -> None:
    model = small_llama()
    with torch.no_grad():
        model.blocks[1].feed_forward_norm.weight[:2] = 3e38
        model.blocks[1].feed_forward.up.weight[:5] *= 1e30
    with pytest.raises(ValueError, match=r"output of blocks\.1\.\S+ must hold finite .* places"):
        evaluate(model, CORPUS, 32)
    with pytest.raises(ValueError, match=r"output of blocks\.1\.\S+ must hold finite"):
        evaluate(small_llama(), CORPUS, 32, reference=model)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_function_that_gives_no_number_is_refused() -> None:
    class Nothing(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.full((*tokens.shape, 260), float("nan"))

    with pytest.raises(ValueError, match="logits of window 0 must be finite"):
        evaluate(Nothing(), CORPUS, 32)


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    model, state = small_llama(), tmp_path / "state.json"
    want = evaluate(model, CORPUS, 16, reference=model)
    calls: list[int] = []

    def interrupt(done: int, count: int) -> None:
        calls.append(done)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, CORPUS, 16, reference=model, progress=interrupt, resume=state)
    (kept,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match="must be of the same model, text and windows"):
        evaluate(small_llama(1), CORPUS, 16, reference=model, resume=state)
    calls.clear()
    found = evaluate(
        model, CORPUS, 16, reference=model, progress=lambda *t: calls.append(t[0]), resume=state
    )
    assert calls == [5, 6, 7, 8, 9]
    assert (found.nats, found.divergences) == (want.nats, want.divergences)
    assert list(tmp_path.iterdir()) == []
    kept.write_text("{")
    with pytest.raises(ValueError, match="must be the state of an evaluation"):
        evaluate(model, CORPUS, 16, reference=model, resume=state)


def _rank(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", place, rank=rank, world_size=ranks)
    found = evaluate(small_llama(), CORPUS, 16, batch=2, reference=small_llama(1))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found.to_json()))
    torch.distributed.destroy_process_group()


def test_two_ranks_find_what_one_finds_bit_for_bit(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (2, str(tmp_path)), nprocs=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    want = evaluate(small_llama(), CORPUS, 16, batch=2, reference=small_llama(1)).to_json()
    torch.set_num_threads(threads)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in ("nats", "counts", "reference_nats", "divergences"):
            assert found[name] == list(want[name]), name


def test_classifiers_are_counted() -> None:
    images = torch.eye(4)
    model, other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(4) * 2)
        other.weight.copy_(torch.eye(4)[[1, 0, 2, 3]])
    found = classify(model, images, torch.tensor([0, 1, 2, 0]), 3, reference=other)
    assert found.hits == (True, True, True, False)
    assert found.accuracy == 0.75
    assert found.agreement == 0.5
    theirs, ours = (
        torch.log_softmax(other(images).double(), 1),
        torch.log_softmax(model(images).double(), 1),
    )
    want = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    assert found.divergence == pytest.approx(float(want.detach()))
    with pytest.raises(ValueError, match="labels must be one per image, not 1 for 4"):
        classify(model, images, torch.tensor([0]))
