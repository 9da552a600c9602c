// Draining a row of int64 accumulators to words, in binary64 where every step is exact.
//
// With value = accumulator * 2**-p + bias * 2**-q in half units of the output: the product by a power
// of two is exact for |accumulator| < 2**51; its floor, the lost fraction as a flag, the clamp at
// +-2**40 (far beyond saturation) and the sum with the bias are integers below 2**53.
#pragma once

#include "words.h"

struct Drain {
    Format format;
    std::int32_t relu, guard_bits;  // guard_bits: how far the bias reaches below half a unit
};

inline double exact_double(std::int64_t value) {  // |value| < 2**51
    constexpr double magic = 6755399441055744.0;   // 1.5 * 2**52
    return std::bit_cast<double>(value + std::bit_cast<std::int64_t>(magic)) - magic;
}

template <class Word>
void drain_row(const std::int64_t* accumulators, long count, double row_scale,
               const double* column_scales, const double* biases, const Drain& drain, Word* out) {
    const std::int32_t fraction = drain.format.fraction_bits(), max_code = drain.format.max_code();
    const std::int32_t nearest = drain.format.nearest, notch = drain.format.notch();
    const std::int32_t relu = drain.relu;
    const double bound = 1099511627776.0, limit = 2.0 * max_code;
    const double down = power_of_two(-drain.guard_bits, 0.0);
    Word* __restrict target = out;
    for (long j = 0; j < count; ++j) {
        double scaled = exact_double(accumulators[j]) * row_scale * column_scales[j];
        scaled = scaled < bound ? scaled : bound;
        scaled = scaled > -bound ? scaled : -bound;
        double whole = std::floor(scaled), lost = whole != scaled ? 1.0 : 0.0;
        double sum = whole + biases[j];
        double size = sum < 0 ? -sum - lost : sum;  // |sum|, truncated
        size = std::floor(size * down);
        std::int32_t halves = static_cast<std::int32_t>(size < limit ? size : limit);
        std::int32_t sign = sum < 0;
        std::int32_t magnitude = round_magnitude(halves, nearest, notch) & (-(sign & relu) ^ -1);
        target[j] = static_cast<Word>(magnitude | (sign & (magnitude != 0)) << fraction);
    }
}
