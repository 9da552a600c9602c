// One pass over memory each: encode, decode, fake_quantize and its gradient, squared errors.

#include <atomic>

#include "passes.h"

namespace {

// Counts what must be refused while a chunk is in cache: NaN values, words outside the format.
template <class Item, class Bad>
auto counting(std::atomic<long>& total, const Item* items, Bad bad) {
    return [&total, items, bad](long begin, long end) {
        // The processor's own prefetching stops at each page: ask for the chunk after the next.
        constexpr long line = 64 / sizeof(Item);
        for (long i = begin; i < end; i += line) __builtin_prefetch(items + i + 2 * kChunk);
        std::int32_t count = 0;
        for (long i = begin; i < end; ++i) count += bad(items[i]);
        if (count) total += count;
    };
}

template <class Real>
auto counting_nans(std::atomic<long>& total, const Real* values) {
    return counting(total, values, [](Real value) { return value != value; });
}

template <class Real, class AnyScale>
std::int32_t magnitude_of(Real value, const AnyScale& up, Real limit, std::int32_t nearest,
                          std::int32_t notch) {
    return round_magnitude(half_units(value, up, limit), nearest, notch);
}

template <class Real, class Word>
long encode(const Real* values, Word* words, const Groups& shape, Format format) {
    std::atomic<long> nans{0};
    Real limit = 2 * format.max_code();
    std::int32_t fraction = format.fraction_bits(), notch = format.notch();
    std::int32_t nearest = format.nearest;
    each_value<Real>(words, shape, counting_nans(nans, values),
                     [=](long i, const auto& scales) {
                         std::int32_t m = magnitude_of(values[i], scales.up, limit, nearest, notch);
                         std::int32_t sign = sign_of(values[i]) & (m != 0);
                         return static_cast<Word>(m | sign << fraction);
                     });
    return nans;
}

template <class Real>
long fake_quantize(const Real* values, Real* out, const Groups& shape, Format format) {
    std::atomic<long> nans{0};
    Real limit = 2 * format.max_code();
    std::int32_t max_code = format.max_code(), notch = format.notch();
    std::int32_t nearest = format.nearest, unity = format.unity;
    each_value<Real>(out, shape, counting_nans(nans, values),
                     [=](long i, const auto& scales) {
                         std::int32_t m = magnitude_of(values[i], scales.up, limit, nearest, notch);
                         m += unity & (m == max_code);
                         std::int32_t sign = sign_of(values[i]);
                         Real signed_operand = static_cast<Real>((m ^ -sign) + sign);
                         return signed_operand * scales.down.first * scales.down.second;
                     });
    return nans;
}

template <class Word>
long decode(const Word* words, float* out, const Groups& shape, Format format) {
    std::atomic<long> outside{0};
    std::int32_t bits = format.bits, unity = format.unity;
    std::int32_t fraction = format.fraction_bits(), max_code = format.max_code();
    each_value<float>(out, shape, counting(outside, words, [=](Word w) { return w >> bits != 0; }),
                      [=](long i, const auto& scales) {
                          float m = operand(words[i], fraction, max_code, unity);
                          return m * scales.down.first * scales.down.second;
                      });
    return outside;
}

// The squared error of one group at exponent e: float64, in index order, as the contract says.
double squared_error(const float* values, long length, Format format, std::int32_t e) {
    std::int32_t fraction = format.fraction_bits(), max_code = format.max_code();
    Scale<double> up(fraction + 1 - e), down(e - fraction);
    double limit = 2.0 * max_code, total = 0;
    for (long i = 0; i < length; ++i) {
        double value = std::fabs(static_cast<double>(values[i]));
        std::int32_t m = magnitude_of(value, up, limit, 1, format.notch());
        m += format.unity & (m == max_code);
        double difference = value - m * down.first * down.second;
        total += difference * difference;
    }
    return total;
}

}  // namespace

extern "C" {

#define GROUPS \
    Groups { exponents, groups, inner, format->fraction_bits(), threads }
#define ENCODE(name, Real, Word)                                                              \
    long name(const Real* values, Word* words, const std::int32_t* exponents, long groups,    \
              long inner, const Format* format, int threads) {                                \
        return encode(values, words, GROUPS, *format);                                        \
    }
ENCODE(encode_float32_uint8, float, std::uint8_t)
ENCODE(encode_float32_uint16, float, std::uint16_t)
ENCODE(encode_float64_uint8, double, std::uint8_t)
ENCODE(encode_float64_uint16, double, std::uint16_t)

#define FAKE_QUANTIZE(name, Real)                                                             \
    long name(const Real* values, Real* out, const std::int32_t* exponents, long groups,      \
              long inner, const Format* format, int threads) {                                \
        return fake_quantize(values, out, GROUPS, *format);                                   \
    }
FAKE_QUANTIZE(fake_quantize_float32, float)
FAKE_QUANTIZE(fake_quantize_float64, double)

#define DECODE(name, Word)                                                                    \
    long name(const Word* words, float* out, const std::int32_t* exponents, long groups,      \
              long inner, const Format* format, int threads) {                                \
        return decode(words, out, GROUPS, *format);                                           \
    }
DECODE(decode_uint8, std::uint8_t)
DECODE(decode_uint16, std::uint16_t)

// For each of `groups` runs of `length` values: the best of top, top - 1, top - 2, in place.
void best_exponents(const float* values, std::int32_t* tops, long groups, long length,
                    const Format* format, int threads) {
    long grain = std::max(1L, kGrain / std::max(length, 1L));
    parallel_ranges(groups, grain, threads, [=](long begin, long end) {
        for (long group = begin; group < end; ++group) {
            std::int32_t best = tops[group];
            double least = squared_error(values + group * length, length, *format, best);
            for (std::int32_t e = tops[group] - 1; e >= tops[group] - 2; --e) {
                double error = squared_error(values + group * length, length, *format, e);
                if (error < least) least = error, best = e;
            }
            tops[group] = best;
        }
    });
}

}  // extern "C"
