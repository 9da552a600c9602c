// Rows of activations to the values of their words: exponents found, limited and applied in one go.

#include <atomic>
#include <vector>

#include "parallel.h"
#include "words.h"

namespace {

constexpr long kGrain = 1 << 14;  // values worth a thread of their own
constexpr std::uint32_t kSign = 0x80000000u, kInfinity = 0x7f800000u;

// What a call found; mirrors sw.wasq.rounding._Report.
struct Report {
    std::int64_t bad_rows;  // not finite, or an exponent beyond the limit
};

inline std::uint32_t largest_of(const float* values, long count) {
    std::uint32_t largest = 0;
    for (long i = 0; i < count; ++i) {
        const std::uint32_t bits = std::bit_cast<std::uint32_t>(values[i]) & ~kSign;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

// The smallest e that covers a magnitude, from its bits; subnormals end below any limit.
inline std::int32_t covering(std::uint32_t bits, std::int32_t unity) {
    if (!bits) return 0;
    const std::int32_t biased = static_cast<std::int32_t>(bits >> 23);
    return biased - 126 - (unity & ((bits & 0x7fffffu) == 0));
}

// Returns whether a value was NaN.
template <class Out>
bool round_group(const float* values, Out* out, long count, Format format, std::int32_t e) {
    const std::int32_t fraction = format.fraction_bits(), max_code = format.max_code();
    const std::int32_t notch = format.notch(), unity = format.unity;
    const float up = power_of_two(fraction + 1 - e, 0.0f), limit = 2.0f * max_code;
    const Out down = power_of_two(e - fraction, Out{});
    std::uint32_t unordered = 0;
    for (long i = 0; i < count; ++i) {
        const std::uint32_t bits = std::bit_cast<std::uint32_t>(values[i]);
        unordered |= (bits & ~kSign) > kInfinity;
        const float scaled = std::fabs(values[i]) * up;
        std::int32_t m = round_magnitude(static_cast<std::int32_t>(scaled < limit ? scaled : limit),
                                         1, notch);
        m += unity & (m == max_code);
        const std::int32_t sign = static_cast<std::int32_t>(bits >> 31);
        out[i] = static_cast<Out>((m ^ -sign) + sign) * down;
    }
    return unordered;
}

// Exponents per `length` values of a row: the `given` ones, the same for all rows, or by maximum and
// at most `most_spread` apart.
template <class Out>
void round_rows(const float* values, Out* out, long rows, long terms, long length,
                const std::int32_t* given, Format format, std::int32_t most_spread,
                std::int32_t limit, int threads, Report* report) {
    const long blocks = (terms + length - 1) / length;
    std::atomic<long> bad{0};
    parallel_ranges(rows, std::max(1L, kGrain / std::max(terms, 1L)), threads,
                    [&](long begin, long end) {
        std::vector<std::int32_t> found(blocks);
        for (long row = begin; row < end; ++row) {
            const float* from = values + row * terms;
            std::int32_t top = -1000;
            for (long b = 0; b < blocks; ++b) {
                const long first = b * length, count = std::min(length, terms - first);
                found[b] = given ? given[b] : covering(largest_of(from + first, count), format.unity);
                top = std::max(top, found[b]);
            }
            for (long b = 0; b < blocks; ++b) found[b] = std::max(found[b], top - most_spread);
            if (top > limit || top < -limit) {
                ++bad;
                continue;
            }
            bool unordered = false;
            for (long b = 0; b < blocks; ++b) {
                const long first = b * length, count = std::min(length, terms - first);
                unordered |= round_group(from + first, out + row * terms + first, count, format,
                                         found[b]);
            }
            bad += unordered;
        }
    });
    report->bad_rows = bad;
}

}  // namespace

#define ROUND_ROWS(name, Out)                                                                    \
    extern "C" void name(const float* values, Out* out, long rows, long terms, long length,      \
                         const std::int32_t* given, const Format* format, int most_spread,       \
                         int limit, int threads, Report* report) {                               \
        round_rows(values, out, rows, terms, length, given, *format, most_spread, limit, threads, \
                   report);                                                                      \
    }
ROUND_ROWS(round_rows_float32, float)
ROUND_ROWS(round_rows_float64, double)
