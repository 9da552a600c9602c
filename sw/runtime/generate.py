"""Text from a compiled decoding step: one token at a time, caches handed back by the host.

The artefact is of a network like :class:`sw.models.llama.LlamaStep`: token ``[1, 1]``, position
``[1]`` and the caches in; logits ``[1, 1, vocabulary]`` and the new caches out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch.nn import functional

from sw.compiler.graph import Graph
from sw.runtime.session import Session

#: Told of positions done and how many there are.
Progress = Callable[[int, int], None]


class Decoder:
    """A session on a decoding step, with the caches of the tokens fed so far.

    Parameters
    ----------
    session : Session
        On any back end; the caller closes it.

    Raises
    ------
    ValueError
        If the session's network is no decoding step.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._caches = check_step(session.plan.graph)
        self.reset()

    @property
    def context(self) -> int:
        """Positions that the caches hold."""
        return self._caches[-2]

    @property
    def position(self) -> int:
        """Tokens fed so far."""
        return self._position

    def reset(self) -> None:
        """Begin a new text."""
        self._position = 0
        self._keys = torch.zeros(self._caches)
        self._values = torch.zeros(self._caches)

    def feed(self, token: int) -> torch.Tensor:
        """Logits ``[vocabulary]``, float32, of what follows the tokens fed so far and this one.

        Raises
        ------
        ValueError
            If the caches are full.
        """
        if self._position >= self.context:
            raise ValueError(f"tokens must be at most {self.context}, the context, not more")
        logits, self._keys, self._values = self._session.run(
            torch.tensor([[token]]), torch.tensor([self._position]), self._keys, self._values
        )
        self._position += 1
        return torch.as_tensor(logits)[0, 0]


def generate(
    decoder: Decoder,
    tokens: Sequence[int],
    count: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """The next tokens of a text, one by one.

    Parameters
    ----------
    decoder : Decoder
        Begun anew.
    tokens : sequence of int
        What is there already, at least one.
    count : int
        How many to add.
    temperature : float
        What logits are divided by before one is drawn; 0 takes the most likely.
    generator : torch.Generator, optional
        Draws; torch's own if omitted.

    Raises
    ------
    ValueError
        If the tokens do not fit the context, or the temperature is negative or not finite.
    """
    if not tokens or count < 1 or len(tokens) + count - 1 > decoder.context:
        raise ValueError(
            f"tokens and those to add must be 1 to {decoder.context + 1} together, each at least "
            f"1, not {len(tokens)} and {count}"
        )
    check_temperature(temperature)
    return _generated(decoder, tokens, count, temperature, generator)


def check_temperature(temperature: float) -> None:
    """ValueError unless it is 0 or a finite number above."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 or a finite number above, not {temperature!r}")


def negative_log_likelihood(
    decoder: Decoder, sequences: Sequence[Sequence[int]], progress: Progress | None = None
) -> tuple[float, int]:
    """Sum over all tokens but the first of each sequence, in nats, and their number.

    As :func:`sw.models.stories.negative_log_likelihood` has it, token by token.
    """
    total, done = 0.0, 0
    count = sum(max(0, len(sequence) - 1) for sequence in sequences)
    for sequence in sequences:
        decoder.reset()
        for token, following in pairwise(sequence):
            logits = decoder.feed(token)
            total += float(functional.cross_entropy(logits, torch.tensor(following)))
            done += 1
            if progress is not None:
                progress(done, count)
    return total, count


def check_step(graph: Graph) -> tuple[int, ...]:
    """The shape of the caches of a decoding step's graph; ValueError if it is none."""
    shapes = {spec.name: spec.shape for spec in graph.inputs}
    shapes |= {node.name: node.shape for node in graph.nodes}
    given = [spec.shape for spec in graph.inputs]
    made = [shapes.get(name) for name in graph.outputs]
    whole = [not spec.dtype.is_floating_point for spec in graph.inputs]
    caches = given[-1] if given else ()
    if (
        given != [(1, 1), (1,), caches, caches]
        or whole != [True, True, False, False]
        or len(caches) != 4
        or made[1:] != [caches, caches]
        or len(made[0] or ()) != 3
    ):
        raise ValueError(
            "network must be a decoding step: token, position and two caches in, "
            "logits and both caches out"
        )
    return caches


def _generated(
    decoder: Decoder,
    tokens: Sequence[int],
    count: int,
    temperature: float,
    generator: torch.Generator | None,
) -> Iterator[int]:
    decoder.reset()
    for token in tokens:
        logits = decoder.feed(token)
    for left in range(count, 0, -1):
        following = _chosen(logits, temperature, generator)
        yield following
        if left > 1:
            logits = decoder.feed(following)


def _chosen(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> int:
    if not temperature:
        return int(logits.argmax())
    weights = torch.softmax(logits.double() / temperature, -1)
    return int(torch.multinomial(weights, 1, generator=generator))
