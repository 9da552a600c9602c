"""Proofs about a netlist by a solver (bitwuzla), stated in integers and not in the model's code.

Every function returns a counterexample, or None if there is none. Each property is also stated as
something that can fail: the tests feed broken netlists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import bitwuzla
from bitwuzla import Kind, Result, Term

from sim.netlist import Gate, Netlist
from sw.format import Rounding

Counterexample = dict[str, int]


class Terms:
    """Short names for the solver's bit-vector terms."""

    def __init__(self) -> None:
        self.manager = bitwuzla.TermManager()

    def variable(self, name: str, width: int) -> Term:
        """A free bit vector."""
        return self.manager.mk_const(self.manager.mk_bv_sort(width), name)

    def value(self, number: int, width: int) -> Term:
        """A constant, two's complement if negative."""
        return self.manager.mk_bv_value(self.manager.mk_bv_sort(width), number % (1 << width))

    def of(self, kind: Kind, *operands: Term) -> Term:
        """A term of a kind."""
        return self.manager.mk_term(kind, list(operands))

    def bit(self, term: Term, position: int) -> Term:
        """One bit."""
        return self.slice(term, position, position)

    def slice(self, term: Term, high: int, low: int) -> Term:
        """Bits ``low`` to ``high``."""
        return self.manager.mk_term(Kind.BV_EXTRACT, [term], [high, low])

    def extend(self, term: Term, width: int) -> Term:
        """Zeros above."""
        more = width - term.sort().bv_size()
        return self.manager.mk_term(Kind.BV_ZERO_EXTEND, [term], [more]) if more else term

    def join(self, bits: list[Term]) -> Term:
        """Bits to a vector, bit 0 first."""
        return self.of(Kind.BV_CONCAT, *reversed(bits)) if len(bits) > 1 else bits[0]

    def choose(self, condition: Term, yes: Term, no: Term) -> Term:
        """``yes if condition else no``."""
        return self.of(Kind.ITE, condition, yes, no)

    def all(self, *conditions: Term) -> Term:
        """Conjunction."""
        return self.of(Kind.AND, *conditions) if len(conditions) > 1 else conditions[0]

    def any(self, *conditions: Term) -> Term:
        """Disjunction."""
        return self.of(Kind.OR, *conditions) if len(conditions) > 1 else conditions[0]

    def no(self, condition: Term) -> Term:
        """Negation."""
        return self.of(Kind.NOT, condition)

    def same(self, a: Term, b: Term) -> Term:
        """Equality."""
        return self.of(Kind.EQUAL, a, b)

    def implies(self, a: Term, b: Term) -> Term:
        """Implication."""
        return self.of(Kind.IMPLIES, a, b)

    def counterexample(self, claim: Term, variables: Mapping[str, Term]) -> Counterexample | None:
        """Values for which the claim does not hold."""
        options = bitwuzla.Options()
        options.set(bitwuzla.Option.PRODUCE_MODELS, True)
        solver = bitwuzla.Bitwuzla(self.manager, options)
        solver.assert_formula(self.no(claim))
        result = solver.check_sat()
        if result == Result.UNSAT:
            return None
        if result != Result.SAT:
            raise RuntimeError(f"solver must decide, not say {result}")
        return {name: int(solver.get_value(v).value(10)) for name, v in variables.items()}


_KINDS: Final[Mapping[str, tuple[Kind, bool]]] = {
    # gate: (kind, whether its output is inverted)
    "$_AND_": (Kind.BV_AND, False),
    "$_NAND_": (Kind.BV_AND, True),
    "$_OR_": (Kind.BV_OR, False),
    "$_NOR_": (Kind.BV_OR, True),
    "$_XOR_": (Kind.BV_XOR, False),
    "$_XNOR_": (Kind.BV_XOR, True),
}


def netlist_terms(
    terms: Terms,
    netlist: Netlist,
    inputs: Mapping[str, Term],
    state: Mapping[int, Term] | None = None,
) -> tuple[dict[str, Term], dict[int, Term]]:
    """The outputs of a netlist as terms of its inputs.

    Parameters
    ----------
    terms : Terms
    netlist : Netlist
    inputs : mapping of str to Term
        One bit vector per input port.
    state : mapping of int to Term, optional
        One bit per register's output net.

    Returns
    -------
    outputs : dict of str to Term
        One bit vector per output port.
    nets : dict of int to Term
        One bit per net.
    """
    nets: dict[int, Term] = {0: terms.value(0, 1), 1: terms.value(1, 1), **(state or {})}
    for name, bits in netlist.inputs.items():
        nets.update({net: terms.bit(inputs[name], place) for place, net in enumerate(bits)})
    for gate in netlist.gates:
        nets[gate.output] = _gate_term(terms, gate, [nets[net] for net in gate.inputs])
    outputs = {
        name: terms.join([nets[net] for net in bits]) for name, bits in netlist.outputs.items()
    }
    return outputs, nets


def _gate_term(terms: Terms, gate: Gate, operands: list[Term]) -> Term:
    if gate.kind == "$_BUF_":
        return operands[0]
    if gate.kind == "$_NOT_":
        return terms.of(Kind.BV_NOT, operands[0])
    if gate.kind == "$_MUX_":
        a, b, select = operands
        return terms.choose(terms.same(select, terms.value(1, 1)), b, a)
    if gate.kind in ("$_ANDNOT_", "$_ORNOT_"):
        kind = Kind.BV_AND if gate.kind == "$_ANDNOT_" else Kind.BV_OR
        return terms.of(kind, operands[0], terms.of(Kind.BV_NOT, operands[1]))
    kind, inverted = _KINDS[gate.kind]
    term = terms.of(kind, *operands)
    return terms.of(Kind.BV_NOT, term) if inverted else term


def find_wrong_product(netlist: Netlist, width: int) -> Counterexample | None:
    """Operands whose product is not ``a * b``.

    Parameters
    ----------
    netlist : Netlist
        Inputs ``a`` and ``b``, output ``product``, no registers.
    width : int
        F. Beyond 8 bits the solver takes too long: see :mod:`sim.bitslice`.
    """
    netlist.check_ports({"a": width, "b": width}, {"product": 2 * width})
    terms = Terms()
    inputs = {name: terms.variable(name, width) for name in "ab"}
    outputs, _ = netlist_terms(terms, netlist, inputs)
    wide = [terms.extend(term, 2 * width) for term in inputs.values()]
    claim = terms.same(outputs["product"], terms.of(Kind.BV_MUL, *wide))
    return terms.counterexample(claim, inputs)


def find_difference(one: Netlist, other: Netlist) -> Counterexample | None:
    """Inputs and state for which two netlists differ in an output or in what a register takes.

    Registers are matched by name, so None proves equal behaviour; a counterexample may lie in a
    state that is never reached.

    Raises
    ------
    ValueError
        If ports or registers differ.
    """
    widths = [{n: len(b) for n, b in side.items()} for side in (one.inputs, one.outputs)]
    other.check_ports(*widths)
    registers = [{r.name: r for r in netlist.registers} for netlist in (one, other)]
    if {n: r.initial for n, r in registers[0].items()} != {
        n: r.initial for n, r in registers[1].items()
    }:
        raise ValueError("registers must be the same in both netlists")
    terms = Terms()
    inputs = {name: terms.variable(name, width) for name, width in widths[0].items()}
    state = {name: terms.variable(name, 1) for name in registers[0]}
    sides = []
    for netlist, named in zip((one, other), registers, strict=True):
        held = {register.output: state[name] for name, register in named.items()}
        outputs, nets = netlist_terms(terms, netlist, inputs, held)
        sides.append({**outputs, **{f"{n} next": nets[r.data] for n, r in named.items()}})
    claims = [terms.same(term, sides[1][name]) for name, term in sides[0].items()]
    return terms.counterexample(terms.all(*claims), {**inputs, **state})


class FusedMultiplyAddProof:
    """The properties of a fused multiply-add, stated over its netlist.

    Parameters
    ----------
    netlist : Netlist
        Inputs ``a``, ``b`` and ``c``, output ``o``, words of ``bits`` bits, no registers.
    bits : int
        x.
    unity : bool
        Whether all ones means 1.
    rounding : {"nearest", "truncate"}
    """

    def __init__(self, netlist: Netlist, bits: int, unity: bool, rounding: Rounding) -> None:
        netlist.check_ports(dict.fromkeys("abc", bits), {"o": bits})
        self.netlist, self.bits, self.unity, self.rounding = netlist, bits, unity, rounding
        self.fraction = bits - 1
        self.ones = (1 << self.fraction) - 1
        self.width = 2 * self.fraction + 4
        self.terms = Terms()
        self.inputs = {name: self.terms.variable(name, bits) for name in "abc"}
        self.output = self._run(self.inputs)
        self.exact = self._exact(self.inputs)

    @property
    def properties(self) -> dict[str, Callable[[], Counterexample | None]]:
        """Every property by its name."""
        return {
            "rounding": self.find_wrong_rounding,
            "saturation": self.find_wrong_saturation,
            "minus zero": self.find_minus_zero,
            "sign symmetry": self.find_asymmetry,
            "identity": self.find_broken_identity,
            "monotonic": self.find_descent,
        }

    def _run(self, inputs: Mapping[str, Term]) -> Term:
        return netlist_terms(self.terms, self.netlist, inputs)[0]["o"]

    def _number(self, value: int) -> Term:
        return self.terms.value(value, self.width)

    def _magnitude(self, word: Term) -> Term:
        """M without its sign, by the contract: all ones is one more under unity."""
        t = self.terms
        magnitude = t.extend(t.slice(word, self.fraction - 1, 0), self.width)
        if not self.unity:
            return magnitude
        return t.choose(
            t.same(magnitude, self._number(self.ones)), self._number(self.ones + 1), magnitude
        )

    def _value(self, word: Term) -> Term:
        """The signed operand M, in units of ``2**-F``."""
        t = self.terms
        magnitude = self._magnitude(word)
        return t.choose(self._negative(word), t.of(Kind.BV_NEG, magnitude), magnitude)

    def _negative(self, word: Term) -> Term:
        return self.terms.same(self.terms.bit(word, self.fraction), self.terms.value(1, 1))

    def _raised(self, value: Term) -> Term:
        """From units of ``2**-F`` to units of ``2**-2F``."""
        return self.terms.of(Kind.BV_MUL, value, self._number(1 << self.fraction))

    def _exact(self, inputs: Mapping[str, Term]) -> Term:
        """``a * b + c`` in units of ``2**-2F``."""
        a, b, c = (self._value(inputs[name]) for name in "abc")
        t = self.terms
        return t.of(Kind.BV_ADD, t.of(Kind.BV_MUL, a, b), self._raised(c))

    def _absolute(self, value: Term) -> Term:
        t = self.terms
        below = t.of(Kind.BV_SLT, value, self._number(0))
        return t.choose(below, t.of(Kind.BV_NEG, value), value)

    def _saturates(self) -> Term:
        """``|exact| >= (2**F - 1) / 2**F``."""
        bound = self._number(self.ones << self.fraction)
        return self.terms.of(Kind.BV_UGE, self._absolute(self.exact), bound)

    def _all_ones(self, word: Term) -> Term:
        return self.terms.same(
            self.terms.slice(word, self.fraction - 1, 0),
            self.terms.value(self.ones, self.fraction),
        )

    def _prove(self, claim: Term, **more: Term) -> Counterexample | None:
        return self.terms.counterexample(claim, {**self.inputs, **more, "o": self.output})

    def find_wrong_rounding(self) -> Counterexample | None:
        """Inputs not saturated whose result is not the exact sum rounded as it should be.

        ``nearest``: the magnitude m has ``m - 1/2 <= |exact| * 2**F < m + 1/2``, so ties go away
        from zero; under unity the largest m that rounding may give takes all below saturation.
        ``truncate``: ``m <= |exact| * 2**F < m + 1``. The sign is the sum's.
        """
        t = self.terms
        # in units of 2**-(2F + 1), so that half an ULP is a whole number
        twice = t.of(Kind.BV_ADD, self._absolute(self.exact), self._absolute(self.exact))
        magnitude = t.extend(t.slice(self.output, self.fraction - 1, 0), self.width)
        ulp = 2 << self.fraction
        below, above = (ulp // 2, ulp // 2) if self.rounding == "nearest" else (0, ulp)
        word = t.of(Kind.BV_MUL, magnitude, self._number(ulp))
        least = t.of(Kind.BV_UGE, t.of(Kind.BV_ADD, twice, self._number(below)), word)
        most = t.of(Kind.BV_ULT, twice, t.of(Kind.BV_ADD, word, self._number(above)))
        if self.unity and self.rounding == "nearest":
            most = t.any(most, t.same(magnitude, self._number(self.ones - 1)))
        sign = t.any(
            t.same(magnitude, self._number(0)),
            t.same(self._negative(self.output), t.of(Kind.BV_SLT, self.exact, self._number(0))),
        )
        return self._prove(t.any(self._saturates(), t.all(least, most, sign)))

    def find_wrong_saturation(self) -> Counterexample | None:
        """Inputs that saturate without giving all ones of the sum's sign, or the reverse.

        Without unity, rounding to nearest may also give all ones below the bound.
        """
        t = self.terms
        reached, ones = self._saturates(), self._all_ones(self.output)
        sign = t.same(self._negative(self.output), t.of(Kind.BV_SLT, self.exact, self._number(0)))
        claim = t.implies(reached, t.all(ones, sign))
        if self.unity or self.rounding == "truncate":
            claim = t.all(claim, t.implies(ones, reached))
        return self._prove(claim)

    def find_minus_zero(self) -> Counterexample | None:
        """Inputs that give minus zero."""
        minus_zero = self.terms.value(1 << self.fraction, self.bits)
        return self._prove(self.terms.no(self.terms.same(self.output, minus_zero)))

    def find_asymmetry(self) -> Counterexample | None:
        """Inputs with ``fma(-a, b, -c) != -fma(a, b, c)``."""
        t = self.terms
        sign = t.value(1 << self.fraction, self.bits)
        flipped = {
            "a": t.of(Kind.BV_XOR, self.inputs["a"], sign),
            "b": self.inputs["b"],
            "c": t.of(Kind.BV_XOR, self.inputs["c"], sign),
        }
        other = self._run(flipped)
        zero = t.value(0, self.bits)
        negated = t.choose(t.same(self.output, zero), zero, t.of(Kind.BV_XOR, self.output, sign))
        return self._prove(t.same(other, negated), flipped=other)

    def find_broken_identity(self) -> Counterexample | None:
        """A word b with ``fma(1, b, 0) != b``; without unity, c with ``fma(0, b, c) != c``."""
        t = self.terms
        zero = t.value(0, self.bits)
        kept = self.inputs["b" if self.unity else "c"]
        inputs = {**self.inputs, "a": t.value(self.ones if self.unity else 0, self.bits)}
        if self.unity:
            inputs["c"] = zero
        minus_zero = t.same(kept, t.value(1 << self.fraction, self.bits))
        other = self._run(inputs)
        return self._prove(t.same(other, t.choose(minus_zero, zero, kept)), other=other)

    def find_descent(self) -> Counterexample | None:
        """Two words c with ``c1 <= c2`` but ``fma(a, b, c1) > fma(a, b, c2)``."""
        t = self.terms
        larger = t.variable("larger", self.bits)
        other = self._run({**self.inputs, "c": larger})
        ordered = t.of(Kind.BV_SLE, self._value(self.inputs["c"]), self._value(larger))
        results = t.of(Kind.BV_SLE, self._value(self.output), self._value(other))
        return self._prove(t.implies(ordered, results), larger=larger, other=other)
