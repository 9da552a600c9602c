"""Attention products on words.

Within :meth:`AttentionProducts.active` every product of two activations (``torch.matmul``, ``@``,
``torch.bmm``, ``scaled_dot_product_attention``) is the array's: both operands are rounded to words,
multiplied exactly and rounded once to binary32; scaling, mask and softmax stay with the host.

Rows of the left operand (queries, probabilities) and keys have an exponent each, found as they are
rounded. Values lie with their tokens along K, so theirs are per channel of a head, calibrated, or
per 32 tokens of a channel, found by maximum over the block as it is at that moment. A whole window
at once therefore lets up to 31 later tokens (and, where blocks lie more than 15 apart, any later
one) influence the *power of two* of a block in which an earlier position reads; generation never
does. Calibrated exponents are causal in both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sw.drain import narrowed, to_odd_binary64
from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.tensor import encode, expand_blocks, exponents, limit_spread, matmul
from sw.wasq.config import SFConfig, ValueScale
from sw.wasq.gemm import multiply, way
from sw.wasq.rounding import EXPONENT_LIMIT, Faults, round_at, round_rows

if TYPE_CHECKING:
    from sw.wasq.calibrate import Scales

_MATMULS: Final = (
    *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__),
    *(torch.bmm, torch.Tensor.bmm),
)
_SOFTMAXES: Final = (functional.softmax, torch.softmax, torch.Tensor.softmax)


class AttentionProducts:
    """How a model's attention multiplies: a plain attribute of the model.

    Parameters
    ----------
    form : SFx
        Of both operands.
    value_scale : {"channel", "block"}
    values : tuple of torch.Tensor of int64
        Exponents for "channel", see :class:`sw.wasq.calibrate.Scales`.
    """

    def __init__(
        self, form: SFx, value_scale: ValueScale, values: tuple[torch.Tensor, ...]
    ) -> None:
        self.form, self.value_scale, self.values = form, value_scale, values
        self.faults: Faults | None = None
        for number, found in enumerate(values):
            if int(found.abs().max()) > EXPONENT_LIMIT:
                raise ValueError(
                    f"values of attention {number} must have exponents of at most "
                    f"{EXPONENT_LIMIT} in magnitude, not {int(found.abs().max())}"
                )
        #: Largest magnitudes per channel, while :meth:`observe` watches a float model.
        self.observed: list[torch.Tensor] = []
        self._watching = False
        self._modes: list[_Mode] = []

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within it, products of two activations are the array's."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @contextlib.contextmanager
    def observe(self) -> Iterator[None]:
        """Within it, products stay float, and the values' largest magnitudes are kept."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def enter(self) -> None:
        """Begin a pass, before a model's forward."""
        mode = _Mode(self)
        self._modes.append(mode)
        mode.__enter__()  # type: ignore[no-untyped-call]

    def leave(self) -> int:
        """End it, behind the forward or after an error; how many products it had."""
        mode = self._modes.pop()
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return mode.products_seen

    def by_keys(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """``left @ right`` with an exponent per row of left and per column of right."""
        if self._watching:
            return torch.matmul(left, right)
        return product(left, right, self.form, "column", self.faults)

    def by_values(self, number: int, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The ``number``-th product of probabilities and values of a pass."""
        if self._watching:
            self._see(number, right)
            return torch.matmul(left, right)
        if self.value_scale == "block":
            return product(left, right, self.form, "block", self.faults)
        found = self._given(number, right.device)
        if right.dim() == found.dim() and right.shape[0] != found.shape[0] != 1:
            # Heads folded into the batch, sequence by sequence.
            found = found.repeat(right.shape[0] // found.shape[0], *[1] * (found.dim() - 1))
        return product(left, right, self.form, found, self.faults)

    def _given(self, number: int, device: torch.device) -> torch.Tensor:
        if number >= len(self.values):
            raise ValueError(
                f"attention must be calibrated: {len(self.values)} of its products were, not more"
            )
        if self.values[number].device != device:
            self.values = tuple(found.to(device) for found in self.values)
        return self.values[number]

    def _see(self, number: int, values: torch.Tensor) -> None:
        largest = values.detach().abs().amax(-2, keepdim=True).float()
        if number == len(self.observed):
            self.observed.append(largest)
        else:
            self.observed[number] = torch.maximum(self.observed[number], largest)


class _Mode(TorchFunctionMode):
    """One pass: what it meets is told apart by whether the left operand comes from a softmax."""

    def __init__(self, products: AttentionProducts) -> None:
        super().__init__()
        self.products = products
        self.values = self.products_seen = 0
        self.probabilities: torch.Tensor | None = None  # kept, so that its memory is not reused

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SOFTMAXES:
            self.probabilities = func(*args, **kwargs)
            return self.probabilities
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func in _MATMULS and len(args) == 2 and all(_is_activation(a) for a in args):
            return self._product(*args)
        return func(*args, **kwargs)

    def _product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        self.products_seen += 1
        kept, self.probabilities = self.probabilities, None
        if kept is None or _storage(left) != _storage(kept):
            return self.products.by_keys(left, right)
        return self._weighted(left, right)

    def _weighted(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        self.values += 1
        return self.products.by_values(self.values - 1, left, right)

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """The fused function in its parts, as torch documents it."""
        if dropout_p:
            raise ValueError(f"dropout_p must be 0 for attention on words, not {dropout_p}")
        if enable_gqa:
            copies = query.shape[-3] // key.shape[-3]
            key, value = (t.repeat_interleave(copies, -3) for t in (key, value))
        self.products_seen += 1
        scores = self.products.by_keys(query, key.transpose(-1, -2))
        scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask
        return self._weighted(torch.softmax(scores, -1), value).to(query.dtype)


def quantize_products_(model: nn.Module, config: SFConfig, scales: Scales) -> None:
    """Let every product of two activations inside the model's forward run on words."""
    if config.products is None:
        return
    products = AttentionProducts(
        SFx(config.products, config.unity), config.value_scale, scales.values
    )
    attach_products_(model, products)


def attach_products_(model: nn.Module, products: AttentionProducts) -> None:
    """Make products a part of a model, active in its forward."""
    model.attention_products = products  # type: ignore[assignment]
    model.register_forward_pre_hook(_enter)
    model.register_forward_hook(_leave, always_call=True)


def attention_products(model: nn.Module) -> AttentionProducts | None:
    """How a quantized model's attention multiplies; None: in float."""
    found = getattr(model, "attention_products", None)
    return found if isinstance(found, AttentionProducts) else None


def product(
    left: torch.Tensor,
    right: torch.Tensor,
    form: SFx,
    scale: str | torch.Tensor,
    faults: Faults | None = None,
    name: str = "attention",
) -> torch.Tensor:
    """``left @ right`` of words, exact, rounded once to binary32 (of bfloat16, to bfloat16).

    Parameters
    ----------
    left, right : torch.Tensor ``[..., M, K]`` and ``[..., K, N]``
        Of three dimensions or more; left's rows have an exponent each.
    form : SFx
    scale : "column", "block" or torch.Tensor of int64
        Right's exponents: per column, per 32 terms of a column, or given, broadcasting to it.
    faults : Faults, optional
        As for :func:`sw.wasq.exact.linear`.
    name : str

    Notes
    -----
    Where a gradient is asked for, values are rounded in the same way and multiplied in float32, and
    the gradient passes as if they were not rounded.
    """
    shape = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])  # type: ignore[no-untyped-call]
    narrow = left.dtype == right.dtype == torch.bfloat16
    out = torch.bfloat16 if narrow else torch.float32
    flat_left = left.expand(*shape, *left.shape[-2:]).reshape(-1, *left.shape[-2:]).float()
    flat_right = right.expand(*shape, *right.shape[-2:]).reshape(-1, *right.shape[-2:]).float()
    given = None
    if isinstance(scale, torch.Tensor):
        given = scale.expand(*shape, 1, right.shape[-1]).reshape(-1, 1, right.shape[-1])
    kind, terms = left.device.type, left.shape[-1]
    trained = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    spread = MAX_SPREAD if scale == "block" else 0
    how = way(2 * form.fraction_bits, form.bits, terms, spread, kind)
    if how is None and not trained:
        e = scale if given is None else given
        result = definition(flat_left, flat_right, form, e, name, out)
        return result.reshape(*shape, *result.shape[-2:])
    dtype = torch.float32 if how is None or trained else how.dtype
    counter = faults.counter(name, left.device) if faults is not None and kind != "cpu" else None
    rows = _rounded(flat_left.detach(), form, "token", dtype, counter)
    if given is None:
        transposed = flat_right.detach().transpose(1, 2)
        columns = _rounded(
            transposed, form, "block" if scale == "block" else "token", dtype, counter
        )
        columns = columns if columns is None else columns.transpose(1, 2)
    else:
        columns = round_at(flat_right.detach(), form, given).to(dtype)
    if rows is None or columns is None:
        e = scale if given is None else given
        result = definition(flat_left, flat_right, form, e, name, out)
    elif trained or how is None:
        result = torch.matmul(
            _Straight.apply(flat_left, rows),  # type: ignore[no-untyped-call]
            _Straight.apply(flat_right, columns),  # type: ignore[no-untyped-call]
        ).to(out)
    else:
        result = multiply(rows, columns, how, dtype=out)
    return result.reshape(*shape, *result.shape[-2:])


def definition(
    left: torch.Tensor,
    right: torch.Tensor,
    form: SFx,
    scale: str | torch.Tensor,
    name: str = "attention",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The same for ``[B, M, K]`` and ``[B, K, N]`` through words and the integer product."""
    e_left = exponents(left, form, "token", name=name)
    words = encode(left, form, e_left, name=name)
    bits = 2 * form.fraction_bits
    if scale == "block":
        rows = right.transpose(1, 2).contiguous()
        e_right, _ = limit_spread(exponents(rows, form, "block", name=name))
        spread = expand_blocks(e_right, rows.shape[-1])
        other = encode(rows, form, spread, name=name).transpose(1, 2).contiguous()
        blocks = -(-left.shape[-1] // BLOCK)
        sums = matmul(
            words,
            other,
            form,
            output="exact",
            block=BLOCK,
            row_shift=-e_left.expand(*e_left.shape[:-1], blocks),
            column_shift=-e_right.transpose(1, 2),
        )
        return narrowed(to_odd_binary64(sums, bits), dtype)
    if isinstance(scale, torch.Tensor):
        e_right = scale
    else:
        e_right = exponents(right, form, dim=-2, name=name)
    other = encode(right.contiguous(), form, e_right, name=name)
    sums = matmul(words, other, form, output="exact")
    return narrowed(to_odd_binary64(sums, bits, e_left + e_right), dtype)


class _Straight(torch.autograd.Function):
    """The second tensor, with the gradient of the first."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradients[0], None


def _rounded(
    x: torch.Tensor,
    form: SFx,
    scale: Any,
    dtype: torch.dtype,
    counter: torch.Tensor | None,
) -> torch.Tensor | None:
    flat = round_rows(x.reshape(-1, x.shape[-1]), form, scale, None, dtype, counter)
    return flat if flat is None else flat.reshape(x.shape)


def _is_activation(x: object) -> bool:
    return (
        isinstance(x, torch.Tensor)
        and not isinstance(x, nn.Parameter)
        and x.is_floating_point()
        and x.dim() >= 3
    )


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _enter(model: nn.Module, *_: object) -> None:
    products = attention_products(model)
    if products is not None:
        products.enter()


def _leave(model: nn.Module, inputs: object, output: object) -> None:
    products = attention_products(model)
    if products is not None and not products.leave() and output is not None:  # None after an error
        raise ValueError(
            "products must be None for a model without matmul, bmm or "
            "scaled_dot_product_attention of activations: none was met"
        )
