// What a call of the matrix product is given, and how it leaves its results.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>

#include "drain.h"
#include "words.h"

struct Matrix {
    const void* words;
    std::int32_t bits, unity, word_bytes;   // words of 1 or 2 bytes
    std::int64_t lane_stride, term_stride;  // in words; a lane is a row of a, a column of b
    std::int64_t lanes, terms;

    const std::uint16_t* wide_words() const { return static_cast<const std::uint16_t*>(words); }
    std::int32_t word_at(long lane, long term) const {
        const long at = lane * lane_stride + term * term_stride;
        return word_bytes == 1 ? static_cast<const std::uint8_t*>(words)[at] : wide_words()[at];
    }
    std::int32_t operand_at(long lane, long term) const {
        return operand(word_at(lane, term), bits - 1, (1 << (bits - 1)) - 1, unity);
    }
};

// kDeclined: nothing was written, another way must be taken.
enum Status { kDone = 0, kBadA = 1, kBadB = 2, kDeclined = 3 };

// Mirrors sw.matmul_native.Arguments.
struct Arguments {
    Matrix a, b;
    std::int32_t digits, wide;     // b in two digits; wide operand: 0 none, 1 a, 2 b
    std::int64_t chunk_terms;      // terms that int32 sums exactly, even
    std::int64_t block_length;     // terms under one scale; all of them without block scales
    const std::int32_t* row_lift;  // [M, B], left shift of a block's sum; null without block scales
    const std::int32_t* column_lift;  // [B, N]
    std::int32_t out_bytes;           // 8: accumulators; 1 or 2: words
    void* out;                        // [M, N], contiguous
    const double *row_scales, *column_scales, *biases;  // [M], [N], [N]
    Drain drain;
    std::int32_t threads;
};

// Writes accumulators as they are or drained: `width` of a row, fewer at the right border.
inline void write_row(const Arguments& arguments, const std::int64_t* accumulators, long row,
                      long column, long width) {
    long count = std::min(width, arguments.b.lanes - column);
    long at = row * arguments.b.lanes + column;
    if (arguments.out_bytes == 8) {
        std::copy_n(accumulators, count, static_cast<std::int64_t*>(arguments.out) + at);
        return;
    }
    auto drain = [&](auto* out) {
        drain_row(accumulators, count, arguments.row_scales[row], arguments.column_scales + column,
                  arguments.biases + column, arguments.drain, out + at);
    };
    if (arguments.out_bytes == 1)
        drain(static_cast<std::uint8_t*>(arguments.out));
    else
        drain(static_cast<std::uint16_t*>(arguments.out));
}
