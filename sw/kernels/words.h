// The contract's rules for one number, as branch-free integer code that compilers vectorise.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

// Mirrors sw.native.Format; every field is a 32-bit int.
struct Format {
    std::int32_t bits, unity, nearest;
    std::int32_t fraction_bits() const { return bits - 1; }
    std::int32_t max_code() const { return (1 << (bits - 1)) - 1; }
    // Under unity rounding must not produce all ones: the half units it would round up from.
    std::int32_t notch() const { return unity && nearest ? 2 * max_code() - 1 : -1; }
};

// 2**exponent for an exponent of a normal number.
inline float power_of_two(std::int32_t exponent, float) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
}
inline double power_of_two(std::int32_t exponent, double) {
    return std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

// 2**exponent as two factors, so that subnormal values and extreme exponents need no branch.
// Beyond the limit every product saturates or vanishes all the same.
template <class Real>
struct Scale {
    Real first, second;
    explicit Scale(std::int32_t exponent) {
        constexpr std::int32_t limit = sizeof(Real) == 4 ? 252 : 2044;
        exponent = exponent < -limit ? -limit : exponent > limit ? limit : exponent;
        first = power_of_two(exponent >> 1, Real{});
        second = power_of_two(exponent - (exponent >> 1), Real{});
    }
};

// The same where one factor is a normal number: the compiler leaves out the second product.
template <class Real>
struct NormalScale {
    static constexpr Real second = 1;
    Real first;
    explicit NormalScale(std::int32_t exponent) : first(power_of_two(exponent, Real{})) {}
    static bool fits(std::int32_t exponent) {
        constexpr std::int32_t limit = sizeof(Real) == 4 ? 126 : 1022;
        return -limit <= exponent && exponent <= limit;
    }
};

inline std::int32_t sign_of(float value) { return std::bit_cast<std::uint32_t>(value) >> 31; }
inline std::int32_t sign_of(double value) {
    return static_cast<std::int32_t>(std::bit_cast<std::uint64_t>(value) >> 63);
}

// |value| in half units, truncated, saturated at `limit` = 2 * max_code: all that rounding needs.
// Whatever the products lose by underflow lies far below half a unit.
template <class Real, class AnyScale>
inline std::int32_t half_units(Real value, AnyScale scale, Real limit) {
    Real scaled = std::fabs(value) * scale.first * scale.second;
    return static_cast<std::int32_t>(scaled < limit ? scaled : limit);
}

// The magnitude for half units, by steps 2 and 3 of the encoding rules.
inline std::int32_t round_magnitude(std::int32_t halves, std::int32_t nearest, std::int32_t notch) {
    return ((halves + nearest) >> 1) - (halves == notch);
}

// The signed operand M of a word.
inline std::int32_t operand(std::int32_t word, std::int32_t fraction_bits, std::int32_t max_code,
                            std::int32_t unity) {
    std::int32_t magnitude = word & max_code;
    magnitude += unity & (magnitude == max_code);
    std::int32_t sign = (word >> fraction_bits) & 1;
    return (magnitude ^ -sign) + sign;
}
