"""How a model is quantized: one frozen object, resolved and checked for every module at once."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Final, Literal

from sw.format import SFx
from sw.scale import BLOCK, EXPONENT_RULES, ExponentRule

WeightScale = Literal["none", "tensor", "channel", "block"]
ActivationScale = Literal["none", "tensor", "token", "block"]
ActivationMode = Literal["dynamic", "static"]
ValueScale = Literal["channel", "block"]
WEIGHT_SCALES: Final[tuple[WeightScale, ...]] = ("none", "tensor", "channel", "block")
ACTIVATION_SCALES: Final[tuple[ActivationScale, ...]] = ("none", "tensor", "token", "block")
ACTIVATION_MODES: Final[tuple[ActivationMode, ...]] = ("dynamic", "static")
VALUE_SCALES: Final[tuple[ValueScale, ...]] = ("channel", "block")
#: Fields that an override may set.
OVERRIDABLE: Final = (
    *("weights", "weight_scale", "weight_rule"),
    *("activations", "activation_scale", "activation_mode", "activation_rule", "output"),
)


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What one module's operands are rounded to.

    Parameters
    ----------
    weights, activations : int or None
        Widths in bits, 3 to 16; None: float32.
    weight_scale : {"none", "tensor", "channel", "block"}
        Which weights share an exponent; "none": the exponent is 0, as in the published method.
    weight_rule, activation_rule : {"maximum", "squared_error"}
        How exponents are found; dynamic ones of activations are always by maximum.
    activation_scale : {"none", "tensor", "token", "block"}
        "token" is a row along K; "block" 32 terms of a row, the last block ragged.
    activation_mode : {"dynamic", "static"}
        Found by the host as it encodes, or calibrated beforehand: per tensor, or one per block of
        K, the same for all tokens.
    output : int or None
        Width of the words that a layer drains to, at one calibrated exponent per output channel;
        None: exact sums, which the host rounds once to binary32.
    unity : bool
    """

    weights: int | None = 8
    activations: int | None = 8
    weight_scale: WeightScale = "channel"
    weight_rule: ExponentRule = "squared_error"
    activation_scale: ActivationScale = "token"
    activation_mode: ActivationMode = "dynamic"
    activation_rule: ExponentRule = "maximum"
    output: int | None = None
    unity: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.unity, bool):
            raise TypeError(f"unity must be True or False, not {self.unity!r}")
        for name in ("weights", "activations", "output"):
            _check_bits(name, getattr(self, name), self.unity)
        for name, choices in (
            ("weight_scale", WEIGHT_SCALES),
            ("weight_rule", EXPONENT_RULES),
            ("activation_scale", ACTIVATION_SCALES),
            ("activation_mode", ACTIVATION_MODES),
            ("activation_rule", EXPONENT_RULES),
        ):
            _check_choice(name, getattr(self, name), choices)
        if self.activation_mode == "static" and self.activation_scale == "token":
            raise ValueError(
                "activation_scale must be none, tensor or block where activation_mode is static, "
                "not 'token': tokens are not known beforehand"
            )
        if self.output is not None and (self.weights is None or self.activations is None):
            raise ValueError("output must be None where weights or activations stay float")
        if self.activations is not None and self.weights is None:
            raise ValueError("weights must have a width where activations have one")

    @property
    def weight_format(self) -> SFx | None:
        """The format of weights; None: float32."""
        return None if self.weights is None else SFx(self.weights, self.unity)

    @property
    def activation_format(self) -> SFx | None:
        """The format of activations; None: float32."""
        return None if self.activations is None else SFx(self.activations, self.unity)

    @property
    def output_format(self) -> SFx | None:
        """The format of a drain; None: exact."""
        return None if self.output is None else SFx(self.output, self.unity)


@dataclass(frozen=True, slots=True, kw_only=True)
class SFConfig(LayerConfig):
    """How a model is quantized, in the manner of torchao's configs.

    What it inherits holds for every linear layer and convolution without an override.

    Parameters
    ----------
    products : int or None
        Width of both operands of attention products (queries, keys, probabilities, values) and so
        of the cache of keys and values; None: float.
    value_scale : {"channel", "block"}
        Values share an exponent per channel of a head, calibrated, or per 32 tokens of a channel,
        since tokens lie along K; queries, keys and probabilities per row.
    head, embedding, norms : int or None
        Widths of the output head (with the activations' width at its input), of embedding tables
        (per row) and of the weights of norms (per tensor); None: float.
    overrides : mapping of str to mapping
        By pattern of module names (``fnmatch``: ``blocks.0.*``), fields of :class:`LayerConfig` to
        set, later ones over earlier ones. ``{"weights": None, "activations": None}`` keeps float.

    Raises
    ------
    TypeError, ValueError
        For a field of the wrong kind or out of range.
    """

    products: int | None = None
    value_scale: ValueScale = "block"
    head: int | None = None
    embedding: int | None = None
    norms: int | None = None
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        LayerConfig.__post_init__(self)  # super() finds no class that slots have replaced
        for name in ("products", "head", "embedding", "norms"):
            _check_bits(name, getattr(self, name), self.unity)
        _check_choice("value_scale", self.value_scale, VALUE_SCALES)
        checked = {}
        for pattern, changes in self.overrides.items():
            unknown = sorted(set(changes) - set(OVERRIDABLE))
            if unknown:
                raise ValueError(
                    f"override {pattern!r} must set {', '.join(OVERRIDABLE)}, not {unknown[0]!r}"
                )
            checked[pattern] = MappingProxyType(dict(changes))
        object.__setattr__(self, "overrides", MappingProxyType(checked))
        for pattern in checked:  # each that can occur alone is checked now
            self._changed(self.base, [pattern])

    @property
    def base(self) -> LayerConfig:
        """What holds for a layer without an override."""
        return LayerConfig(**{f.name: getattr(self, f.name) for f in fields(LayerConfig)})

    def for_module(self, name: str, is_head: bool = False) -> LayerConfig:
        """What holds for the module of this name.

        Raises
        ------
        ValueError
            If the overrides that apply to it do not fit together.
        """
        base = replace(self.base, weights=None, activations=None, output=None)
        if not is_head:
            base = self.base
        elif self.head is not None:
            base = replace(self.base, weights=self.head, output=None)
        return self._changed(base, [p for p in self.overrides if fnmatch.fnmatch(name, p)])

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "overrides"}
        return {**data, "overrides": {p: dict(c) for p, c in self.overrides.items()}}

    @classmethod
    def from_json(cls, data: object) -> SFConfig:
        """The inverse of :meth:`to_json`.

        Raises
        ------
        ValueError
            If the data are no configuration.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or not data.keys() <= known:
            raise ValueError(f"configuration must have the fields {', '.join(sorted(known))}")
        overrides = data.get("overrides", {})
        if not isinstance(overrides, dict) or not all(
            isinstance(changes, dict) for changes in overrides.values()
        ):
            raise ValueError("overrides of a configuration must be fields by pattern")
        return cls(**data)

    def _changed(self, base: LayerConfig, patterns: list[str]) -> LayerConfig:
        for pattern in patterns:
            try:
                base = replace(base, **self.overrides[pattern])
            except (TypeError, ValueError) as error:
                raise type(error)(f"override {pattern!r}: {error}") from None
        return base


def effective_bits(bits: int, scale: WeightScale, terms: int, exponent_bits: int = 8) -> float:
    """Bits per weight with its share of the exponents, ``terms`` weights along K per channel."""
    groups = {"none": 0.0, "tensor": 0.0, "channel": 1 / terms, "block": -(-terms // BLOCK) / terms}
    return bits + exponent_bits * groups[scale]


def _check_bits(name: str, bits: object, unity: bool) -> None:
    if bits is None:
        return
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise TypeError(f"{name} must be a width in bits or None, not {bits!r}")
    try:
        SFx(bits, unity)
    except ValueError:
        raise ValueError(f"{name} must be 3 to 16 bits or None, not {bits!r}") from None


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
