// The shell of every pass over values: threads, groups of one exponent, cache-sized chunks.
#pragma once

#include <cstring>

#include "parallel.h"
#include "words.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

constexpr long kGrain = 1 << 15;        // elements worth a thread of their own
constexpr long kChunk = 512;             // elements held in the first-level cache at a time
constexpr long kStreamBytes = 1 << 23;  // larger results leave the cache anyway: write around it

// Copies a cached buffer to memory without first reading the lines that it overwrites.
inline void stream_copy(void* to, const void* from, long bytes) {
#if defined(__AVX__)
    if (reinterpret_cast<std::uintptr_t>(to) % 32 == 0 && bytes % 32 == 0) {
        auto* target = static_cast<__m256i*>(to);
        auto* source = static_cast<const __m256i*>(from);
        for (long i = 0; i < bytes / 32; ++i)
            _mm256_stream_si256(target + i, _mm256_load_si256(source + i));
        return;
    }
#endif
    std::memcpy(to, from, bytes);
}

inline void stream_end() {
#if defined(__AVX__)
    _mm_sfence();
#endif
}

// The two scales of an exponent: from values to half units, and from operands to values.
template <class AnyScale>
struct Scales {
    AnyScale up, down;
    Scales(std::int32_t exponent, std::int32_t fraction)
        : up(fraction + 1 - exponent), down(exponent - fraction) {}
};

// Groups of `inner` consecutive elements share an exponent; inner = 1 gives every element its own.
struct Groups {
    const std::int32_t* exponents;
    long groups, inner;
    std::int32_t fraction_bits;
    int threads;
    long count() const { return groups * inner; }
};

// out[i] = element(i, scales) for every i; scan(begin, end) sees each chunk while it is in cache.
template <class Real, class Out, class Scan, class Element>
void each_value(Out* out, const Groups& shape, Scan scan, Element element) {
    bool stream = shape.inner >= kChunk &&
                  shape.count() * static_cast<long>(sizeof(Out)) >= kStreamBytes;
    parallel_ranges(shape.count(), kGrain, shape.threads, [&](long begin, long end) {
        alignas(64) Out buffer[kChunk];
        const Element apply = element;  // a copy that bytes written through `out` cannot alias
        while (begin < end) {
            long group = begin / shape.inner;
            long stop = shape.inner == 1 ? end : std::min(end, (group + 1) * shape.inner);
            stop = std::min(stop, begin + kChunk);
            scan(begin, stop);
            if (shape.inner == 1) {
                const std::int32_t* exponents = shape.exponents;
                const std::int32_t fraction_bits = shape.fraction_bits;
                Out* __restrict target = out + begin;
                for (long i = 0; i < stop - begin; ++i)
                    target[i] = apply(begin + i, Scales<Scale<Real>>(exponents[begin + i], fraction_bits));
            } else {
                const std::int32_t exponent = shape.exponents[group], f = shape.fraction_bits;
                Out* __restrict target = stream ? buffer : out + begin;
                auto run = [&](const auto scales) {
                    for (long i = 0; i < stop - begin; ++i) target[i] = apply(begin + i, scales);
                };
                if (NormalScale<Real>::fits(f + 1 - exponent) && NormalScale<Real>::fits(exponent - f))
                    run(Scales<NormalScale<Real>>(exponent, f));
                else
                    run(Scales<Scale<Real>>(exponent, f));
                if (stream) stream_copy(out + begin, buffer, (stop - begin) * sizeof(Out));
            }
            begin = stop;
        }
        if (stream) stream_end();
    });
}
