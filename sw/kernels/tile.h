// The innermost loop: int16 pairs into int32, kRows x kColumns outputs held in registers.
//
// `a` holds kRows and `b` kColumns packed pairs per step; each pair is two consecutive terms along
// K. Exact while no sum of the terms given in one call leaves int32, which the caller sees to.
#pragma once

#include <cstdint>
#include <utility>

#if defined(__AVX512BW__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__)

constexpr int kRows = 12, kLanes = 16;
using Vector = __m512i;
inline Vector zero() { return _mm512_setzero_si512(); }
inline Vector load(const std::uint32_t* at) { return _mm512_loadu_si512(at); }
inline Vector broadcast(std::uint32_t pair) { return _mm512_set1_epi32(static_cast<int>(pair)); }
inline void store(std::int32_t* at, Vector v) { _mm512_storeu_si512(at, v); }
inline Vector multiply_add(Vector sum, Vector a, Vector b) {
#if defined(__AVX512VNNI__)
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}

#elif defined(__AVX2__)

constexpr int kRows = 6, kLanes = 8;
using Vector = __m256i;
inline Vector zero() { return _mm256_setzero_si256(); }
inline Vector load(const std::uint32_t* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}
inline Vector broadcast(std::uint32_t pair) { return _mm256_set1_epi32(static_cast<int>(pair)); }
inline void store(std::int32_t* at, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), v);
}
inline Vector multiply_add(Vector sum, Vector a, Vector b) {
    Vector term = _mm256_madd_epi16(a, b);
    // In assembly the sum stays in its register; the compiler would copy it around, and interleave
    // all rows, which needs more registers than there are.
    asm volatile("vpaddd %1, %0, %0" : "+v"(sum) : "v"(term));
    return sum;
}

#else  // any processor: four lanes that the compiler may vectorise

constexpr int kRows = 4, kLanes = 4;
struct Vector {
    std::int32_t lane[kLanes];
};
inline Vector zero() { return {}; }
inline Vector load(const std::uint32_t* at) {
    Vector v;
    for (int i = 0; i < kLanes; ++i) v.lane[i] = static_cast<std::int32_t>(at[i]);
    return v;
}
inline Vector broadcast(std::uint32_t pair) {
    Vector v;
    for (int i = 0; i < kLanes; ++i) v.lane[i] = static_cast<std::int32_t>(pair);
    return v;
}
inline void store(std::int32_t* at, Vector v) {
    for (int i = 0; i < kLanes; ++i) at[i] = v.lane[i];
}
inline Vector multiply_add(Vector sum, Vector a, Vector b) {
    for (int i = 0; i < kLanes; ++i)
        sum.lane[i] += static_cast<std::int16_t>(a.lane[i]) * static_cast<std::int16_t>(b.lane[i]) +
                       (a.lane[i] >> 16) * (b.lane[i] >> 16);
    return sum;
}

#endif

constexpr int kColumns = 2 * kLanes;

// Constant indices, by a fold, are what lets the compiler keep the arrays in registers.
template <int... kRow>
inline void multiply_rows(const std::uint32_t* a, const std::uint32_t* b, long pairs,
                          std::int32_t* sums, std::integer_sequence<int, kRow...>) {
    Vector left[] = {((void)kRow, zero())...}, right[] = {((void)kRow, zero())...};
    auto add_row = [&](Vector& l, Vector& r, std::uint32_t pair, Vector b0, Vector b1) {
        Vector term = broadcast(pair);
        l = multiply_add(l, term, b0);
        r = multiply_add(r, term, b1);
    };
    for (long p = 0; p < pairs; ++p, a += kRows, b += kColumns) {
        Vector b0 = load(b), b1 = load(b + kLanes);
        (add_row(left[kRow], right[kRow], a[kRow], b0, b1), ...);
    }
    (store(sums + kRow * kColumns, left[kRow]), ...);
    (store(sums + kRow * kColumns + kLanes, right[kRow]), ...);
}

// A call of its own: inlined, it would share its registers with the code around it.
[[gnu::noinline]] inline void multiply_tile(const std::uint32_t* a, const std::uint32_t* b, long pairs,
                          std::int32_t* sums) {
    multiply_rows(a, b, pairs, sums, std::make_integer_sequence<int, kRows>{});
}
