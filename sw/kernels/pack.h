// Words to operands, laid out in panels as the tile reads them.
//
// Operands are int16. Under unity SF16 reaches 32768, which int16 lacks; in the one operand that may
// hold it (the wide one) a term k is negated on both sides when its 32768s are all positive, and
// otherwise split in 32767 + 1, the 1 as an extra term with the other operand's k-th row again.
// In two-digit mode a word of b is 256 * high + low instead, both of 8 bits, in lanes of their own.
#pragma once

#include <vector>

#include "arguments.h"
#include "parallel.h"
#include "tile.h"
#include "words.h"

constexpr std::int32_t kOverflow = 32768;

// Consecutive terms under one scale: `length` of them, then the extra ones, padded to whole pairs.
struct Block {
    long first_term, length, first_pair, pairs;
    std::vector<std::int32_t> extras;
};

struct Plan {
    std::vector<Block> blocks;
    std::vector<std::int8_t> negated;  // per term; empty if none
    long pairs = 0;
};

inline void add_flags(std::int8_t* __restrict flags, const std::uint16_t* words, long stride,
                      long begin, long end) {
    auto flag = [](std::uint16_t w) {
        return static_cast<std::int8_t>((w == 0x7fff) | (w == 0xffff) << 1);
    };
    if (stride == 1)
        for (long k = begin; k < end; ++k) flags[k] |= flag(words[k]);
    else
        for (long k = begin; k < end; ++k) flags[k] |= flag(words[k * stride]);
}

// Which terms of the wide operand hold +32768 (bit 0) and -32768 (bit 1).
inline std::vector<std::int8_t> find_overflow(const Matrix& m, int threads) {
    std::vector<std::int8_t> found(m.terms, 0);
    const std::uint16_t* words = m.wide_words();
    parallel_ranges(m.terms, 64, m.term_stride == 1 || m.lane_stride == 1 ? threads : 1,
                    [&](long begin, long end) {
        std::int8_t* __restrict flags = found.data();
        if (m.lane_stride == 1 && m.term_stride != 1) {
            for (long k = begin; k < end; ++k) {
                std::int32_t any = 0;
                for (long i = 0; i < m.lanes; ++i) {
                    std::uint16_t w = words[i + k * m.term_stride];
                    any |= (w == 0x7fff) | (w == 0xffff) << 1;
                }
                flags[k] = static_cast<std::int8_t>(any);
            }
            return;
        }
        for (long i = 0; i < m.lanes; ++i)
            add_flags(flags, words + i * m.lane_stride, m.term_stride, begin, end);
    });
    return found;
}

inline Plan make_plan(long terms, long block_length, const std::vector<std::int8_t>& overflow) {
    Plan plan;
    for (std::int8_t flags : overflow)
        if (flags == 1) {
            plan.negated.resize(terms);
            for (long k = 0; k < terms; ++k) plan.negated[k] = overflow[k] == 1;
            break;
        }
    for (long first = 0; first < terms; first += block_length) {
        Block block{first, std::min(block_length, terms - first), plan.pairs, 0, {}};
        for (long k = first; k < first + block.length && !overflow.empty(); ++k)
            if (overflow[k] == 3) block.extras.push_back(static_cast<std::int32_t>(k));
        long entries = block.length + static_cast<long>(block.extras.size());
        block.pairs = (entries + 1) / 2;
        plan.pairs += block.pairs;
        plan.blocks.push_back(std::move(block));
    }
    return plan;
}

// Packs the lanes first..first+kWidth of a matrix; lanes beyond it and odd terms are zero.
template <int kWidth, bool kDigits>
class PanelPacker {
    const Matrix& m_;
    const Plan& plan_;
    bool wide_;
    std::int32_t outside_ = 0;
    std::vector<std::int16_t> line_;

    std::int32_t at(long lane, long term) {
        std::int32_t word = m_.word_at(lane, term);
        outside_ |= word >> m_.bits;
        std::int32_t value = operand(word, m_.bits - 1, (1 << (m_.bits - 1)) - 1, m_.unity);
        return !plan_.negated.empty() && plan_.negated[term] ? -value : value;
    }

    static std::int32_t low_digit(std::int32_t value) {
        return kDigits ? ((value + 128) & 255) - 128 : value;
    }

    void write_term(std::uint32_t* panel, long entry, const std::int32_t* values) {
        std::uint32_t* pair = panel + entry / 2 * (kDigits ? 2 * kWidth : kWidth);
        int shift = entry % 2 * 16;
        for (int i = 0; i < kWidth; ++i) {
            std::int32_t low = low_digit(values[i]);
            pair[i + (kDigits ? kWidth : 0)] |= (low & 0xffffu) << shift;
            if (kDigits) pair[i] |= (((values[i] - low) >> 8) & 0xffffu) << shift;
        }
    }

    // One term of the lanes first..first+count as operands, in the wide operand short of 32768.
    void convert_term(std::int32_t* values, long first, long count, long term) {
        const std::uint16_t* row = m_.wide_words() + first + term * m_.term_stride;
        const std::int32_t bits = m_.bits, code = (1 << (bits - 1)) - 1, unity = m_.unity;
        const std::int32_t sign = plan_.negated.empty() ? 0 : plan_.negated[term];
        const std::int32_t most = wide_ ? kOverflow - 1 : kOverflow;
        std::int32_t any = 0;
        auto convert = [&](long i) {
            any |= row[i];
            values[i] = std::min((operand(row[i], bits - 1, code, unity) ^ -sign) + sign, most);
        };
        if (count == kWidth)
            for (int i = 0; i < kWidth; ++i) convert(i);
        else
            for (long i = 0; i < count; ++i) convert(i);
        outside_ |= any >> bits;
    }

    void pack_across(std::uint32_t* panel, long first, long count) {
        constexpr int stride = kDigits ? 2 * kWidth : kWidth;
        alignas(64) std::int32_t even[kWidth] = {}, odd[kWidth] = {};
        for (const Block& block : plan_.blocks) {
            std::uint32_t* pair = panel + block.first_pair * stride;
            for (long t = 0; t + 1 < block.length; t += 2, pair += stride) {
                convert_term(even, first, count, block.first_term + t);
                convert_term(odd, first, count, block.first_term + t + 1);
                for (int i = 0; i < kWidth; ++i) {
                    std::int32_t low = low_digit(even[i]), next = low_digit(odd[i]);
                    pair[i + (kDigits ? kWidth : 0)] = (low & 0xffffu) | next << 16;
                    if (kDigits)
                        pair[i] = (((even[i] - low) >> 8) & 0xffffu) | ((odd[i] - next) >> 8) << 16;
                }
            }
            if (block.length % 2) {
                convert_term(even, first, count, block.first_term + block.length - 1);
                write_term(panel, 2 * block.first_pair + block.length - 1, even);
            }
            pack_extras(panel, block, first, count);
        }
    }

    // Lane by lane where terms are neighbours in memory.
    void pack_along(std::uint32_t* panel, long first, long count) {
        constexpr int stride = kDigits ? 2 * kWidth : kWidth;
        const std::int32_t bits = m_.bits, code = (1 << (bits - 1)) - 1, unity = m_.unity;
        for (const Block& block : plan_.blocks) {
            line_.assign(2 * ((block.length + 1) / 2) * 2, 0);
            std::int16_t* low = line_.data();
            std::int16_t* high = low + 2 * ((block.length + 1) / 2);
            const std::int8_t* negated =
                plan_.negated.empty() ? nullptr : plan_.negated.data() + block.first_term;
            for (long i = 0; i < count; ++i) {
                const std::uint16_t* row = m_.wide_words() + (first + i) * m_.lane_stride +
                                           block.first_term * m_.term_stride;
                long step = m_.term_stride;
                std::int32_t any = 0;
                auto convert = [&](long t, std::int32_t word, std::int32_t sign) {
                    any |= word;
                    std::int32_t value = (operand(word, bits - 1, code, unity) ^ -sign) + sign;
                    if (wide_) value = std::min(value, kOverflow - 1);
                    std::int32_t digit = low_digit(value);
                    low[t] = static_cast<std::int16_t>(digit);
                    if (kDigits) high[t] = static_cast<std::int16_t>((value - digit) >> 8);
                };
                if (step == 1 && !negated)
                    for (long t = 0; t < block.length; ++t) convert(t, row[t], 0);
                else if (step == 1)
                    for (long t = 0; t < block.length; ++t) convert(t, row[t], negated[t]);
                else
                    for (long t = 0; t < block.length; ++t)
                        convert(t, row[t * step], negated ? negated[t] : 0);
                outside_ |= any >> bits;
                std::uint32_t* target = panel + block.first_pair * stride + i;
                for (long p = 0; p < (block.length + 1) / 2; ++p) {
                    auto pair = [p](const std::int16_t* digits) {
                        return (digits[2 * p] & 0xffffu) | (digits[2 * p + 1] & 0xffffu) << 16;
                    };
                    target[p * stride + (kDigits ? kWidth : 0)] = pair(low);
                    if (kDigits) target[p * stride] = pair(high);
                }
            }
            pack_extras(panel, block, first, count);
        }
    }

    void pack_extras(std::uint32_t* panel, const Block& block, long first, long count) {
        std::int32_t values[kWidth] = {};
        for (std::size_t x = 0; x < block.extras.size(); ++x) {
            for (long i = 0; i < count; ++i) {
                std::int32_t value = at(first + i, block.extras[x]);
                values[i] = wide_ ? value == kOverflow : value;
            }
            write_term(panel, 2 * block.first_pair + block.length + static_cast<long>(x), values);
        }
    }

  public:
    PanelPacker(const Matrix& m, const Plan& plan, bool wide) : m_(m), plan_(plan), wide_(wide) {}

    // Writes plan.pairs * kWidth (two-digit: twice as many) packed pairs; false for a bad word.
    bool pack(std::uint32_t* panel, long first) {
        long count = std::min<long>(kWidth, m_.lanes - first);
        if (count < kWidth || 2 * plan_.pairs != m_.terms)  // something is left to padding
            std::fill(panel, panel + plan_.pairs * kWidth * (kDigits ? 2 : 1), 0u);
        if (m_.lane_stride == 1 && m_.term_stride != 1)
            pack_across(panel, first, count);
        else
            pack_along(panel, first, count);
        return outside_ == 0;
    }
};
