// The shell of every pass over values: threads, groups of one exponent, cache-sized chunks.
#pragma once

#include <atomic>
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

// out[i] = element(items[i], scales, bad) for every i; returns the sum of all that was added to bad.
template <class Real, class In, class Out, class Element>
long each_value(const In* items, Out* out, const Groups& shape, Element element) {
    bool stream = shape.inner >= kChunk &&
                  shape.count() * static_cast<long>(sizeof(Out)) >= kStreamBytes;
    std::atomic<long> total{0};
    parallel_ranges(shape.count(), kGrain, shape.threads, [&](long begin, long end) {
        alignas(64) Out buffer[kChunk];
        const Element apply = element;  // a copy that bytes written through `out` cannot alias
        while (begin < end) {
            long group = begin / shape.inner;
            long stop = shape.inner == 1 ? end : std::min(end, (group + 1) * shape.inner);
            stop = std::min(stop, begin + kChunk);
            const In* __restrict source = items + begin;
            const long count = stop - begin;
            std::int32_t bad = 0;
            // The processor's own prefetching stops at each page: ask for the chunk after the next.
            constexpr long line = 64 / sizeof(In);
            for (long i = 0; i < count; i += line) __builtin_prefetch(source + i + 2 * kChunk);
            if (shape.inner == 1) {
                const std::int32_t* exponents = shape.exponents + begin;
                const std::int32_t fraction_bits = shape.fraction_bits;
                Out* __restrict target = out + begin;
                for (long i = 0; i < count; ++i)
                    target[i] = apply(source[i], Scales<Scale<Real>>(exponents[i], fraction_bits), bad);
            } else {
                const std::int32_t exponent = shape.exponents[group], f = shape.fraction_bits;
                Out* __restrict target = stream ? buffer : out + begin;
                auto run = [&](const auto scales) {
                    std::int32_t found = 0;
                    long i = 0;  // an element may know how to do most of a chunk faster
                    if constexpr (requires { apply.run(source, target, count, scales, found); })
                        i = apply.run(source, target, count, scales, found);
                    for (; i < count; ++i) target[i] = apply(source[i], scales, found);
                    bad = found;
                };
                if (NormalScale<Real>::fits(f + 1 - exponent) && NormalScale<Real>::fits(exponent - f))
                    run(Scales<NormalScale<Real>>(exponent, f));
                else
                    run(Scales<Scale<Real>>(exponent, f));
                if (stream) stream_copy(out + begin, buffer, count * sizeof(Out));
            }
            if (bad) total += bad;
            begin = stop;
        }
        if (stream) stream_end();
    });
    return total;
}
