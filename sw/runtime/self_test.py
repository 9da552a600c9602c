"""What a board is asked at power-up, and what the machine model says that it must answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sw.assembler import assemble
from sw.link import (
    OPERATION_BYTES,
    OPERATION_FIELDS,
    PARAMETER_BYTES,
    REPLY,
    ROW_FIELDS,
    TRAILER_BYTES,
    TRAILER_FIELDS,
    TRAILER_MARKER,
    FrameKind,
    Greeting,
    Operation,
    ReplyStatus,
    Sizes,
    pack_fields,
)
from sw.registers import Space
from sw.runtime.link import frame
from sw.runtime.model_device import ModelDevice

#: Bytes of all operands; with parameters and program they fill a block RAM or less.
_OPERAND_BYTES: Final = 192
#: Cycles that the program may take; it ends long before.
_PATIENCE: Final = 1 << 20
#: Where the shift of a column parameter lies, behind the bias.
_SHIFT: Final = 16


@dataclass(frozen=True, slots=True)
class StoredTest:
    """Frames of a self-test: a reply to each request.

    Parameters
    ----------
    requests, replies : tuple of bytes
    """

    requests: tuple[bytes, ...]
    replies: tuple[bytes, ...]


def stored_test(greeting: Greeting, seed: int = 1) -> StoredTest:
    """A product on all cells: its exact sums, as many rows as fit a reply, then its words.

    The words leave through drain, bias and ReLU into tile memory and are read back. Operands have
    zeros, minus zeros and unities among them. The parameters are cleared afterwards.

    Parameters
    ----------
    greeting : Greeting
        Of the board.
    seed : int
        Of the operands.

    Raises
    ------
    ValueError
        If the machine has too few tile slots for both operands and the result.
    """
    return _Maker(greeting, seed).made()


class _Maker:
    """Makes a stored test."""

    def __init__(self, greeting: Greeting, seed: int) -> None:
        self.greeting, self.config = greeting, greeting.config
        self.sizes = Sizes.of(self.config)
        self.random = np.random.default_rng(seed)
        self.terms = self._most_terms()
        self.a, self.b, self.o, _ = self._addresses(self.terms)
        self.requests: list[bytes] = []
        self.replies: list[bytes] = []

    def made(self) -> StoredTest:
        config, model = self.config, ModelDevice(self.config)
        content = self.greeting.to_bytes()
        self._exchange(FrameKind.GREET, b"", content)
        waiting = bytearray()
        for operation in self._writes(model):
            if len(waiting) + len(operation) > self.greeting.limit:
                self._exchange(FrameKind.OPERATE, bytes(waiting), b"")
                waiting.clear()
            waiting += operation
        self._exchange(FrameKind.OPERATE, bytes(waiting), b"")
        self._program(model)
        self._read(model, config.rows * config.columns)
        clear = {"space": Space.COLUMN_PARAMETERS, "count": config.columns}
        self._exchange(FrameKind.OPERATE, _operation(Operation.CLEAR, **clear), b"")
        return StoredTest(tuple(self.requests), tuple(self.replies))

    def _most_terms(self) -> int:
        """Terms of a sum for which operands and result fit the memory, few enough for the store."""
        lanes = self.config.rows + self.config.columns
        most = max(1, min(16, _OPERAND_BYTES // (lanes * self.sizes.word)))
        size = self.config.memory_words
        fitting = [terms for terms in range(1, most + 1) if self._addresses(terms)[-1] <= size]
        if not fitting:
            needed = -(-self._addresses(1)[-1] // self.config.slot_words)
            raise ValueError(
                f"slots must be at least {needed} for the self-test, not {self.config.slots!r}"
            )
        return fitting[-1]

    def _addresses(self, terms: int) -> tuple[int, int, int, int]:
        """Where A, B and the result begin, and where it ends."""
        b = self._after(self.config.rows * terms)
        o = b + self._after(terms * self.config.columns)
        return 0, b, o, o + self.config.slot_words

    def _after(self, words: int) -> int:
        """Words up to a multiple of columns."""
        return -(-words // self.config.columns) * self.config.columns

    def _writes(self, model: ModelDevice) -> Iterator[bytes]:
        config, random = self.config, self.random
        for address, count in ((self.a, config.rows), (self.b, config.columns)):
            words = self._operands(count * self.terms)
            model.write(address, words)
            kind = "<u2" if self.sizes.word > 1 else "u1"
            for start in range(0, len(words), most := self._most_words()):
                part = words[start:][:most]
                header = self._tiles(Operation.WRITE, address + start, len(part))
                yield header + part.astype(kind).tobytes()
        biases = random.integers(0, 1 << config.bias_format.bits, (1, config.columns))
        shifts = np.full((1, config.columns), max(0, self.terms.bit_length() // 2))
        model.write_columns(0, biases, shifts)
        entries = (biases | shifts << _SHIFT).astype("<u4").ravel()
        fields = {"space": Space.COLUMN_PARAMETERS, "count": len(entries)}
        assert len(entries) * PARAMETER_BYTES + OPERATION_BYTES <= self.greeting.limit
        yield _operation(Operation.WRITE, **fields) + entries.tobytes()

    def _operands(self, count: int) -> NDArray[Any]:
        f = self.config.format
        words = self.random.integers(0, 1 << f.bits, count)
        special = np.array([0, f.sign_bit, f.max_code, f.max_code | f.sign_bit])
        chosen = self.random.choice(special, count)
        return np.where(self.random.random(count) < 0.15, chosen, words)

    def _program(self, model: ModelDevice) -> None:
        """Exact sums of the rows that fit a reply; then all of the product into memory."""
        config = self.config
        row = 1 + config.columns * self.sizes.exact
        exact_rows = min(config.rows, (self.greeting.limit - TRAILER_BYTES - self.sizes.row) // row)
        text = f"""
            SET K0, {self.terms}
            SET NL, {config.columns}
            SET A_BASE, {self.a}
            SET A_X, {self.terms}
            SET B_BASE, {self.b}
            SET B_K0, {config.columns}
            SET O_BASE, {self.o}
            SET O_X, {config.columns}
            SET MX, {max(1, exact_rows)}
            {"GEMM exact" if exact_rows > 0 else ""}
            SET MX, {config.rows}
            GEMM memory, relu, column
            HALT
        """
        words = assemble(text, "self-test", config=config).words
        outcome = model.run(words)
        assert not outcome.fault
        rows = b"".join(
            pack_fields(ROW_FIELDS, count=config.columns, last=n == exact_rows - 1, exact=1)
            + b"".join(self._exact(value) for value in values)
            for n, values in enumerate(outcome.rows.tolist())
        )
        trailer = {"marker": TRAILER_MARKER, "ended": 1, "taken": len(words)}
        trailer["counter"] = outcome.counter
        run = {"first": 1, "address": _PATIENCE, "count": len(words)}
        self._exchange(
            FrameKind.OPERATE,
            _operation(Operation.RUN, **run) + np.array(words, "<u2").tobytes(),
            rows + pack_fields(TRAILER_FIELDS, **trailer),
        )

    def _exact(self, value: int) -> bytes:
        """A lane of exact sums: two's complement of the machine's width in whole bytes."""
        masked = value & (1 << self.config.result_bits) - 1
        return masked.to_bytes(self.sizes.exact, "little")

    def _read(self, model: ModelDevice, count: int) -> None:
        kind = "<u2" if self.sizes.word > 1 else "u1"
        for start in range(0, count, most := self._most_words()):
            part = min(most, count - start)
            found = model.read(self.o + start, part).astype(kind).tobytes()
            self._exchange(
                FrameKind.OPERATE, self._tiles(Operation.READ, self.o + start, part), found
            )

    def _most_words(self) -> int:
        """Words that an operation on tiles can have in a request or a reply."""
        most = (self.greeting.limit - OPERATION_BYTES) // self.sizes.word
        return most - most % self.config.columns

    def _tiles(self, operation: Operation, address: int, count: int) -> bytes:
        first = self.config.columns - address % self.config.columns
        return _operation(operation, first=first, address=address, count=count)

    def _exchange(self, kind: FrameKind, operations: bytes, content: bytes) -> None:
        number = len(self.requests)
        self.requests.append(frame(bytes((kind, number)) + operations))
        reply = bytes((kind | REPLY, number, ReplyStatus.OK))
        self.replies.append(frame(reply + content))


def _operation(operation: Operation, **fields: int) -> bytes:
    return pack_fields(OPERATION_FIELDS, operation=operation, **fields)
