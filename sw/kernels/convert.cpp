// One pass over memory each: encode, decode, fake_quantize and its gradient, squared errors.

#include "passes.h"

namespace {

template <class Real, class AnyScale>
std::int32_t magnitude_of(Real value, const AnyScale& up, Real limit, std::int32_t nearest,
                          std::int32_t notch) {
    return round_magnitude(half_units(value, up, limit), nearest, notch);
}

// One value to its word; NaN values are counted, and must be refused.
template <class Real, class Word>
struct Encoder {
    Real limit;
    std::int32_t fraction, notch, nearest;

    explicit Encoder(Format format)
        : limit(2 * format.max_code()), fraction(format.fraction_bits()), notch(format.notch()),
          nearest(format.nearest) {}

    template <class AnyScales>
    Word operator()(Real value, const AnyScales& scales, std::int32_t& nans) const {
        nans += value != value;
        std::int32_t m = magnitude_of(value, scales.up, limit, nearest, notch);
        std::int32_t sign = sign_of(value) & (m != 0);
        return static_cast<Word>(m | sign << fraction);
    }

#if defined(__AVX2__)
    // The same for 32 values at a time, returning how many were done. Half units with their sign fit
    // in 16 bits: the conversion gives -2**31 below its range, the packing -2**15, the clamp the
    // limit. A sign stays where a magnitude does: from -1 half unit on, truncating from -2.
    long run(const float* from, std::uint8_t* to, long count,
             const Scales<NormalScale<float>>& scales, std::int32_t& nans) const
        requires(sizeof(Real) == 4 && sizeof(Word) == 1)
    {
        const __m256 up = _mm256_set1_ps(scales.up.first), most = _mm256_set1_ps(limit);
        const __m256i nearest16 = _mm256_set1_epi16(static_cast<short>(nearest));
        const __m256i notch16 = _mm256_set1_epi16(static_cast<short>(notch));
        const __m256i limit16 = _mm256_set1_epi16(static_cast<short>(limit));
        const __m256i least = _mm256_set1_epi16(static_cast<short>(nearest - 1));
        const __m256i sign_bit = _mm256_set1_epi16(static_cast<short>(1 << fraction));
        const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        __m256 unordered = _mm256_setzero_ps();
        auto halves = [&](const float* values) {
            const __m256 value = _mm256_loadu_ps(values);
            unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
            return _mm256_cvttps_epi32(_mm256_min_ps(_mm256_mul_ps(value, up), most));
        };
        auto words = [&](const float* values) {
            const __m256i signed_halves = _mm256_packs_epi32(halves(values), halves(values + 8));
            const __m256i size = _mm256_min_epu16(_mm256_abs_epi16(signed_halves), limit16);
            const __m256i rounded = _mm256_srli_epi16(_mm256_add_epi16(size, nearest16), 1);
            const __m256i magnitude = _mm256_add_epi16(rounded, _mm256_cmpeq_epi16(size, notch16));
            const __m256i negative = _mm256_cmpgt_epi16(least, signed_halves);
            return _mm256_or_si256(magnitude, _mm256_and_si256(negative, sign_bit));
        };
        long i = 0;
        for (; i + 32 <= count; i += 32) {
            const __m256i bytes = _mm256_packus_epi16(words(from + i), words(from + i + 16));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i),
                                _mm256_permutevar8x32_epi32(bytes, order));
        }
        if (_mm256_movemask_ps(unordered))
            for (long j = 0; j < i; ++j) nans += from[j] != from[j];
        return i;
    }
#endif
};

template <class Real, class Word>
long encode(const Real* values, Word* words, const Groups& shape, Format format) {
    return each_value<Real>(values, words, shape, Encoder<Real, Word>(format));
}

template <class Real>
long fake_quantize(const Real* values, Real* out, const Groups& shape, Format format) {
    Real limit = 2 * format.max_code();
    std::int32_t max_code = format.max_code(), notch = format.notch();
    std::int32_t nearest = format.nearest, unity = format.unity;
    return each_value<Real>(values, out, shape,
                            [=](Real value, const auto& scales, std::int32_t& nans) {
        nans += value != value;
        std::int32_t m = magnitude_of(value, scales.up, limit, nearest, notch);
        m += unity & (m == max_code);
        std::int32_t sign = sign_of(value);
        Real signed_operand = static_cast<Real>((m ^ -sign) + sign);
        return signed_operand * scales.down.first * scales.down.second;
    });
}

// Words outside the format are counted.
template <class Word>
long decode(const Word* words, float* out, const Groups& shape, Format format) {
    std::int32_t bits = format.bits, unity = format.unity;
    std::int32_t fraction = format.fraction_bits(), max_code = format.max_code();
    return each_value<float>(words, out, shape,
                             [=](Word word, const auto& scales, std::int32_t& outside) {
        outside += word >> bits != 0;
        float m = operand(word, fraction, max_code, unity);
        return m * scales.down.first * scales.down.second;
    });
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
