// The exact product on the matrix extension of Intel's server processors: bfloat16 digits, summed in
// binary32.
//
// bfloat16 holds every integer of magnitude up to 256. An operand of at most that is one digit, a
// larger one is 256 * high + low with digits of at most 128. TDPBF16PS rounds each of its binary32
// sums, whatever their order; all of them are integers, exact while the magnitudes of a chunk's
// products add up to at most 2**24.
#pragma once

#if defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__)

#define ATREIDES_AMX

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arguments.h"
#include "parallel.h"

// Linux grants the tile registers to a process that asks (ARCH_REQ_XCOMP_PERM, XTILEDATA).
inline bool amx_is_permitted() {
    static const bool granted = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    return granted;
}

// The tile registers of one thread, each of 16 rows of 64 bytes.
class Tiles {
    struct alignas(64) Configuration {
        std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
        std::uint16_t row_bytes[16] = {};
        std::uint8_t rows[16] = {};
    };

  public:
    Tiles() {
        Configuration configuration;
        for (int tile = 0; tile < 8; ++tile) {
            configuration.row_bytes[tile] = 64;
            configuration.rows[tile] = 16;
        }
        _tile_loadconfig(&configuration);
    }
    ~Tiles() { _tile_release(); }
};

class AmxProduct {
    static constexpr long kSide = 32;       // rows and columns of the result per step: 2 x 2 tiles
    static constexpr long kStepPairs = 16;  // pairs of terms that a tile holds
    static constexpr long kPiecePairs = 128;
    static constexpr long kRegion = 4;      // steps along each side of a thread's piece of work
    const Arguments& arguments_;
    const bool a_split_, b_split_;
    const long pairs_, chunk_pairs_;
    const long a_stride_;  // pairs from row to row, off the powers of two that collide in caches
    std::unique_ptr<std::uint32_t[]> a_, b_;
    std::atomic<int> status_{kDone};

    static long round_up(long count, long multiple) {
        return (count + multiple - 1) / multiple * multiple;
    }
    static bool is_split(const Matrix& m) { return m.bits - 1 > 8; }
    static int digit_bits(const Matrix& m) { return is_split(m) ? 7 : m.bits - 1; }
    long row_steps() const { return (arguments_.a.lanes + kSide - 1) / kSide; }
    long column_steps() const { return (arguments_.b.lanes + kSide - 1) / kSide; }
    long a_digit_size() const { return row_steps() * kSide * a_stride_; }
    long b_digit_size() const { return column_steps() * kSide * pairs_; }

    static std::uint32_t bfloat16(std::int32_t digit) {
        return std::bit_cast<std::uint32_t>(static_cast<float>(digit)) >> 16;
    }
    static std::int32_t low_digit(std::int32_t value) { return ((value + 128) & 255) - 128; }

    // A row of a as terms side by side.
    template <bool kSplit>
    std::int32_t pack_row(long lane, std::uint16_t* low, std::uint16_t* high) const {
        const Matrix& m = arguments_.a;
        const std::uint16_t* words = m.words + lane * m.lane_stride;
        const std::int32_t bits = m.bits, code = (1 << (bits - 1)) - 1, unity = m.unity;
        std::int32_t any = 0;
        auto convert = [&](long k, std::int32_t word) {
            any |= word;
            std::int32_t value = operand(word, bits - 1, code, unity);
            std::int32_t digit = kSplit ? low_digit(value) : value;
            low[k] = static_cast<std::uint16_t>(bfloat16(digit));
            if (kSplit) high[k] = static_cast<std::uint16_t>(bfloat16((value - digit) >> 8));
        };
        if (m.term_stride == 1)
            for (long k = 0; k < m.terms; ++k) convert(k, words[k]);
        else
            for (long k = 0; k < m.terms; ++k) convert(k, words[k * m.term_stride]);
        return any >> bits;
    }

    // Columns first..first+kSide of b, pair by pair.
    template <bool kSplit>
    std::int32_t pack_columns(long first, std::uint32_t* low, std::uint32_t* high) const {
        const Matrix& m = arguments_.b;
        const std::int32_t bits = m.bits, code = (1 << (bits - 1)) - 1, unity = m.unity;
        const long count = std::min(kSide, m.lanes - first);
        std::uint16_t even_line[kSide] = {}, odd_line[kSide] = {};
        auto line = [&](long k, std::uint16_t* copy) -> const std::uint16_t* {
            const std::uint16_t* words = m.words + first * m.lane_stride + k * m.term_stride;
            if (m.lane_stride == 1 && count == kSide) return words;
            for (long j = 0; j < count; ++j) copy[j] = words[j * m.lane_stride];
            return copy;
        };
        std::int32_t any = 0;
        for (long k = 0; k < m.terms; k += 2, low += kSide, high += kSide) {
            const std::uint16_t* even = line(k, even_line);
            const bool paired = k + 1 < m.terms;
            const std::uint16_t* odd = line(paired ? k + 1 : k, odd_line);
            const std::int32_t kept = paired ? -1 : 0;
            for (long j = 0; j < kSide; ++j) {
                any |= even[j] | odd[j];
                std::int32_t value = operand(even[j], bits - 1, code, unity);
                std::int32_t next = operand(odd[j], bits - 1, code, unity) & kept;
                std::int32_t digit = kSplit ? low_digit(value) : value;
                std::int32_t next_digit = kSplit ? low_digit(next) : next;
                low[j] = bfloat16(digit) | bfloat16(next_digit) << 16;
                if (kSplit)
                    high[j] = bfloat16((value - digit) >> 8) |
                              bfloat16((next - next_digit) >> 8) << 16;
            }
        }
        return any >> bits;
    }

    void pack() {
        a_ = std::make_unique_for_overwrite<std::uint32_t[]>(a_digit_size() * (1 + a_split_));
        b_ = std::make_unique_for_overwrite<std::uint32_t[]>(b_digit_size() * (1 + b_split_));
        parallel_ranges(row_steps() * kSide, 8, arguments_.threads, [&](long begin, long end) {
            for (long i = begin; i < end; ++i) {
                std::uint32_t* low = &a_[i * a_stride_];
                std::uint32_t* high = low + (a_split_ ? a_digit_size() : 0);
                const bool beyond = i >= arguments_.a.lanes;
                const long used = beyond ? 0 : arguments_.a.terms / 2;  // an odd term overwrites half
                std::fill(low + used, low + a_stride_, 0u);
                std::fill(high + used, high + a_stride_, 0u);
                if (beyond) continue;
                auto* low_terms = reinterpret_cast<std::uint16_t*>(low);
                auto* high_terms = reinterpret_cast<std::uint16_t*>(high);
                if (a_split_ ? pack_row<true>(i, low_terms, high_terms)
                             : pack_row<false>(i, low_terms, high_terms))
                    status_ = kBadA;
            }
        });
        parallel_ranges(column_steps(), 1, arguments_.threads, [&](long begin, long end) {
            for (long step = begin; step < end; ++step) {
                std::uint32_t* low = &b_[step * kSide * pairs_];
                std::uint32_t* high = low + (b_split_ ? b_digit_size() : 0);
                const long used = (arguments_.b.terms + 1) / 2 * kSide;
                std::fill(low + used, low + kSide * pairs_, 0u);
                std::fill(high + used, high + kSide * pairs_, 0u);
                if (b_split_ ? pack_columns<true>(step * kSide, low, high)
                             : pack_columns<false>(step * kSide, low, high))
                    status_ = kBadB;
            }
        });
    }

    // Adds the products of some digits to kSide x kSide sums.
    void multiply(const std::uint32_t* a, const std::uint32_t* b, long pairs, float* sums) const {
        const long row_bytes = 4 * a_stride_;
        float* const tile[] = {sums, sums + kSide / 2, sums + kSide / 2 * kSide,
                               sums + kSide / 2 * kSide + kSide / 2};
        _tile_loadd(0, tile[0], 4 * kSide);
        _tile_loadd(1, tile[1], 4 * kSide);
        _tile_loadd(2, tile[2], 4 * kSide);
        _tile_loadd(3, tile[3], 4 * kSide);
        for (long p = 0; p < pairs; p += kStepPairs, a += kStepPairs, b += kStepPairs * kSide) {
            _tile_loadd(4, a, row_bytes);
            _tile_loadd(6, b, 4 * kSide);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, b + kSide / 2, 4 * kSide);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, a + kSide / 2 * a_stride_, row_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, tile[0], 4 * kSide);
        _tile_stored(1, tile[1], 4 * kSide);
        _tile_stored(2, tile[2], 4 * kSide);
        _tile_stored(3, tile[3], 4 * kSide);
    }

    // One step's result: sums by the weight of their digits, chunk by chunk. Split operands are
    // taken in pieces that stay in the first-level cache while all their digits are multiplied.
    void multiply_step(long row_step, long column_step) const {
        const long piece = a_split_ || b_split_ ? kPiecePairs : chunk_pairs_;
        alignas(64) float sums[3][kSide * kSide];
        alignas(64) std::int64_t accumulators[kSide * kSide] = {};
        const std::uint32_t* a = &a_[row_step * kSide * a_stride_];
        const std::uint32_t* b = &b_[column_step * kSide * pairs_];
        for (long first = 0; first < pairs_; first += chunk_pairs_) {
            const long last = std::min(first + chunk_pairs_, pairs_);
            std::fill_n(sums[0], (1 + a_split_ + b_split_) * kSide * kSide, 0.0f);
            for (long p = first; p < last; p += piece)
                for (int i = 0; i <= a_split_; ++i)
                    for (int j = 0; j <= b_split_; ++j)
                        multiply(a + i * a_digit_size() + p, b + j * b_digit_size() + p * kSide,
                                 std::min(piece, last - p), sums[i + j]);
            for (int weight = 0; weight <= a_split_ + b_split_; ++weight)
                for (long n = 0; n < kSide * kSide; ++n)
                    accumulators[n] += static_cast<std::int64_t>(
                                           static_cast<std::int32_t>(sums[weight][n]))
                                       << 8 * weight;
        }
        const long rows = std::min(kSide, arguments_.a.lanes - row_step * kSide);
        for (long i = 0; i < rows; ++i)
            write_row(arguments_, accumulators + i * kSide, row_step * kSide + i,
                      column_step * kSide, kSide);
    }

  public:
    // One product of digits, or as many as the other kernel would take: then this one is faster.
    static bool is_faster(const Arguments& arguments) {
        return !arguments.row_lift &&
               (arguments.digits || !(is_split(arguments.a) || is_split(arguments.b)));
    }

    explicit AmxProduct(const Arguments& arguments)
        : arguments_(arguments),
          a_split_(is_split(arguments.a)),
          b_split_(is_split(arguments.b)),
          pairs_(round_up((arguments.a.terms + 1) / 2, kStepPairs)),
          chunk_pairs_((1l << (24 - digit_bits(arguments.a) - digit_bits(arguments.b))) / 2 /
                       (1 + (a_split_ && b_split_))),  // high * low and low * high share a sum
          a_stride_(pairs_ + kStepPairs) {}

    int run() {
        pack();
        if (status_ != kDone) return status_;
        const long tall = (row_steps() + kRegion - 1) / kRegion;
        const long wide = (column_steps() + kRegion - 1) / kRegion;
        parallel_ranges(tall * wide, 1, arguments_.threads, [&](long begin, long end) {
            Tiles tiles;
            for (long region = begin; region < end; ++region) {
                const long top = region / wide * kRegion, left = region % wide * kRegion;
                for (long j = left; j < std::min(left + kRegion, column_steps()); ++j)
                    for (long i = top; i < std::min(top + kRegion, row_steps()); ++i)
                        multiply_step(i, j);
            }
        });
        return status_;
    }
};

#endif
