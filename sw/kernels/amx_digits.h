// Operands as digits that the matrix extension of Intel's server processors multiplies, packed in
// the order in which its tile registers take them.
//
// A tile is 16 rows of 64 bytes. A row of a's tile is one lane, its terms side by side; a row of b's
// is 16 lanes of as many terms as 4 bytes hold. A panel is two tiles per step along the terms: the
// high and the low digits of 16 lanes or, where one digit is enough, 16 lanes and the 16 after them.
#pragma once

#include <cstring>
#include <vector>

#include "arguments.h"

constexpr long kTileSide = 16;  // rows of a tile, 32-bit columns of a tile
constexpr long kTileRow = 64;   // bytes
constexpr long kTileBytes = kTileSide * kTileRow;

// 8-bit digits, summed in int32: an operand of magnitude at most 127, or 256 * high + low with high
// from -128 to 127 and low from 0 to 255. The one operand beyond these is 32768, taken as 32767; the
// product adds what is missing. Each pair of digits has a sum of its own, and the largest product is
// that of two low ones: 32768 * 255 * 255 = 2130739200 < 2**31.
struct ByteDigits {
    using Digit = std::uint8_t;
    using Sum = std::int32_t;
    static constexpr bool kWrapsUnity = true;
    static bool is_split(const Matrix& m) { return m.bits - 1 + m.unity > 7; }
    static long exact_terms(const Matrix&, const Matrix&) { return 32768; }
    static std::int32_t low(std::int32_t value) { return value & 255; }
    static Digit code(std::int32_t digit) { return static_cast<Digit>(digit); }
};

// bfloat16 digits, summed in binary32: an operand of magnitude at most 256, all of which bfloat16
// holds, or 256 * high + low with digits of at most 128. The instruction rounds each of its sums, in
// whatever order; all are integers, exact while the products' magnitudes add up to at most 2**24.
struct HalfDigits {
    using Digit = std::uint16_t;
    using Sum = float;
    static constexpr bool kWrapsUnity = false;
    static bool is_split(const Matrix& m) { return m.bits - 1 > 8; }
    static int digit_bits(const Matrix& m) { return is_split(m) ? 7 : m.bits - 1; }
    static long exact_terms(const Matrix& a, const Matrix& b) {
        return 1l << (24 - digit_bits(a) - digit_bits(b));
    }
    static std::int32_t low(std::int32_t value) { return ((value + 128) & 255) - 128; }
    static Digit code(std::int32_t digit) {
        return static_cast<Digit>(std::bit_cast<std::uint32_t>(static_cast<float>(digit)) >> 16);
    }
};

// Where an operand is one short of its word's.
struct Shortfall {
    long lane, term;
};

// Packs panels of one matrix; each object serves one thread.
template <class Digits, class Word, bool kSplit>
class TilePacker {
    using Digit = typename Digits::Digit;
    static constexpr long kTerms = kTileRow / sizeof(Digit);  // in one step
    static constexpr long kGroup = 4 / sizeof(Digit);         // terms in 32 bits
    static constexpr long kTiles = kSplit ? 1 : 2;            // side by side in lanes
    const Matrix& m_;
    const Word* words_;
    const std::int32_t fraction_, code_, unity_, short_;
    std::int32_t any_ = 0;
    std::vector<Shortfall>* shortfalls_ = nullptr;

    // One word's digits; true where the operand is taken one short.
    std::int32_t convert(std::int32_t word, Digit& high, Digit& low) const {
        const std::int32_t lacks = short_ & (word == code_);
        const std::int32_t value = operand(word, fraction_, code_, unity_) - lacks;
        const std::int32_t digit = kSplit ? Digits::low(value) : value;
        low = Digits::code(digit);
        if (kSplit) high = Digits::code((value - digit) >> 8);
        return lacks;
    }

    void note(long lane, long term) { shortfalls_->push_back({lane, term}); }

    // A step's terms of one lane, side by side in `line`.
    void convert_line(const Word* line, long lane, long term, Digit* high, Digit* low) {
        std::int32_t any = 0, lacks = 0;
        for (long t = 0; t < kTerms; ++t) {
            any |= line[t];
            lacks |= convert(line[t], high[t], low[t]);
        }
        any_ |= any;
        if (lacks)
            for (long t = 0; t < kTerms; ++t)
                if (line[t] == code_) note(lane, term + t);
    }

    // Calls use(lane within the tile, line) for the lanes of a tile, absent words zero.
    template <class Use>
    void each_line(long first, long term, Use use) {
        const long lanes = std::clamp(m_.lanes - first, 0l, kTileSide);
        const long terms = std::min(m_.terms - term, kTerms);
        const Word* from = words_ + first * m_.lane_stride + term * m_.term_stride;
        Word block[kTileSide][kTerms];
        const bool direct = m_.term_stride == 1 && terms == kTerms;
        if (!direct || lanes < kTileSide) std::memset(block, 0, sizeof block);
        if (!direct && m_.term_stride == 1)
            for (long i = 0; i < lanes; ++i)
                std::copy_n(from + i * m_.lane_stride, terms, block[i]);
        else if (!direct)
            for (long t = 0; t < terms; ++t)
                for (long i = 0; i < lanes; ++i)
                    block[i][t] = from[i * m_.lane_stride + t * m_.term_stride];
        for (long i = 0; i < kTileSide; ++i)
            use(i, direct && i < lanes ? from + i * m_.lane_stride : block[i]);
    }

    // Tiles of b where lanes are neighbours in memory: whole vectors of lanes, term by term.
    void pack_across(long first, long term, Digit* high, Digit* low) {
        const long lanes = std::clamp(m_.lanes - first, 0l, kTileSide);
        const long terms = std::min(m_.terms - term, kTerms);
        const Word* from = words_ + first + term * m_.term_stride;
        Word copy[kTileSide] = {};
        for (long group = 0; group < kTileSide; ++group) {
            std::uint32_t highs[kTileSide] = {}, lows[kTileSide] = {};
            for (long i = 0; i < kGroup; ++i) {
                const long t = group * kGroup + i;
                if (t >= terms) break;
                const Word* line = from + t * m_.term_stride;
                if (lanes < kTileSide) line = std::copy_n(line, lanes, copy) - lanes;
                std::int32_t any = 0, lacks = 0;
                for (long j = 0; j < kTileSide; ++j) {
                    Digit h = 0, l;
                    any |= line[j];
                    lacks |= convert(line[j], h, l);
                    lows[j] |= static_cast<std::uint32_t>(l) << i * 8 * sizeof(Digit);
                    if (kSplit) highs[j] |= static_cast<std::uint32_t>(h) << i * 8 * sizeof(Digit);
                }
                any_ |= any;
                if (lacks)
                    for (long j = 0; j < kTileSide; ++j)
                        if (line[j] == code_) note(first + j, term + t);
            }
            std::memcpy(low + group * kTerms, lows, kTileRow);
            if (kSplit) std::memcpy(high + group * kTerms, highs, kTileRow);
        }
    }

  public:
    static constexpr long kLanes = kTiles * kTileSide;  // in a panel

    explicit TilePacker(const Matrix& m)
        : m_(m), words_(static_cast<const Word*>(m.words)), fraction_(m.bits - 1),
          code_((1 << (m.bits - 1)) - 1), unity_(m.unity),
          short_(Digits::kWrapsUnity && m.unity && m.bits == 16) {}

    // A panel of lanes; false for a word outside its format. Not inlined: it would be compiled anew in
    // every product that uses it.
    template <bool kRight>
    [[gnu::noinline]] bool pack(long lane, std::byte* panel, std::vector<Shortfall>& shortfalls) {
        shortfalls_ = &shortfalls;
        for (long term = 0; term < m_.terms; term += kTerms, panel += 2 * kTileBytes)
            for (long tile = 0; tile < kTiles; ++tile) {
                const long first = lane + tile * kTileSide;
                auto* high = reinterpret_cast<Digit*>(panel);
                auto* low = reinterpret_cast<Digit*>(panel + (kSplit ? 1 : tile) * kTileBytes);
                if (kRight && m_.lane_stride == 1) {
                    pack_across(first, term, high, low);
                    continue;
                }
                each_line(first, term, [&](long i, const Word* line) {
                    if (!kRight)
                        return convert_line(line, first + i, term, high + i * kTerms,
                                            low + i * kTerms);
                    alignas(64) Digit digits[2][kTerms];
                    convert_line(line, first + i, term, digits[0], digits[1]);
                    for (long group = 0; group < kTileSide; ++group) {
                        const long to = group * kTerms + i * kGroup;
                        std::memcpy(low + to, digits[1] + group * kGroup, 4);
                        if (kSplit) std::memcpy(high + to, digits[0] + group * kGroup, 4);
                    }
                });
            }
        return any_ >> (fraction_ + 1) == 0;
    }
};
