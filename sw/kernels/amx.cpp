// The exact product on the matrix extension of Intel's server processors (AMX).
//
// Bytes are multiplied at twice the rate of bfloat16, and the product of two operands of two digits
// takes four products of digits; bfloat16 has the better digits where a word has 9 bits or reaches
// 128, and in matrices of so many 32768s that adding what the bytes lack would take longer.

#include "amx.h"

#if defined(__linux__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <type_traits>

#include "amx_digits.h"
#include "parallel.h"
#include "scratch.h"

namespace {

// Linux grants the tile registers to a process that asks (ARCH_REQ_XCOMP_PERM, XTILEDATA).
bool amx_is_permitted() {
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
            configuration.row_bytes[tile] = kTileRow;
            configuration.rows[tile] = kTileSide;
        }
        _tile_loadconfig(&configuration);
    }
    ~Tiles() { _tile_release(); }
};

// sums += a's tile times b's; the numbers of registers are part of the instruction.
#define ATREIDES_MULTIPLY_TILES(sums, a, b, a_is_low, b_is_low)             \
    if constexpr (std::is_same_v<Digits, HalfDigits>) _tile_dpbf16ps(sums, a, b); \
    else if constexpr (a_is_low && b_is_low) _tile_dpbuud(sums, a, b);      \
    else if constexpr (a_is_low) _tile_dpbusd(sums, a, b);                  \
    else if constexpr (b_is_low) _tile_dpbsud(sums, a, b);                  \
    else _tile_dpbssd(sums, a, b)

// One product; kSplitA, kSplitB: operands in two digits.
template <class Digits, bool kSplitA, bool kSplitB>
class AmxProduct {
    using Sum = typename Digits::Sum;
    static constexpr long kStepTerms = kTileRow / sizeof(typename Digits::Digit);
    static constexpr long kStepBytes = 2 * kTileBytes;
    static constexpr long kRows = kSplitA ? kTileSide : 2 * kTileSide;  // of the result per panel
    static constexpr long kColumns = kSplitB ? kTileSide : 2 * kTileSide;
    static constexpr long kGroup = 64;    // columns that are drained together
    // rows and columns whose panels stay in the second-level cache
    static constexpr long kRegion = 256 / sizeof(typename Digits::Digit);
    const Arguments& arguments_;
    const long steps_, chunk_, row_panels_, column_panels_, panel_bytes_;
    std::byte *a_ = nullptr, *b_ = nullptr;
    std::vector<std::vector<Shortfall>> a_short_, b_short_;  // per panel
    std::atomic<long> corrections_{0};
    std::atomic<int> status_{kDone};

    static long divide_up(long count, long size) { return (count + size - 1) / size; }

    // Additions that make up for 32768s taken as 32767, a column's at the price of four. One in 128
    // of the terms' products is the price of the whole product in bfloat16.
    bool are_too_many(long corrections) const {
        const Matrix &a = arguments_.a, &b = arguments_.b;
        return static_cast<double>(corrections) * 128 >
               static_cast<double>(a.lanes) * static_cast<double>(b.lanes) * a.terms;
    }

    template <bool kRight, class Packer>
    void pack_panels(const Matrix& m, std::byte* panels, std::vector<std::vector<Shortfall>>& found) {
        const long price = kRight ? 4 * arguments_.a.lanes : arguments_.b.lanes;
        parallel_ranges(found.size(), 1, arguments_.threads, [&](long begin, long end) {
            for (long p = begin; p < end && status_ == kDone; ++p) {
                if (!Packer(m).template pack<kRight>(p * Packer::kLanes, panels + p * panel_bytes_,
                                                     found[p]))
                    status_ = kRight ? kBadB : kBadA;
                else if (!found[p].empty() &&
                         are_too_many(corrections_ += price * static_cast<long>(found[p].size())))
                    status_ = kDeclined;
            }
        });
    }

    void pack() {
        const Matrix &a = arguments_.a, &b = arguments_.b;
        a_ = scratch((row_panels_ + column_panels_) * panel_bytes_);
        b_ = a_ + row_panels_ * panel_bytes_;
        if (a.word_bytes == 1)
            pack_panels<false, TilePacker<Digits, std::uint8_t, kSplitA>>(a, a_, a_short_);
        else
            pack_panels<false, TilePacker<Digits, std::uint16_t, kSplitA>>(a, a_, a_short_);
        if (b.word_bytes == 1)
            pack_panels<true, TilePacker<Digits, std::uint8_t, kSplitB>>(b, b_, b_short_);
        else
            pack_panels<true, TilePacker<Digits, std::uint16_t, kSplitB>>(b, b_, b_short_);
    }

    // All four products of two tiles of a with two of b, along `steps` steps.
    static void multiply_panels(const std::byte* a, const std::byte* b, long steps, Sum* sums) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (long s = 0; s < steps; ++s, a += kStepBytes, b += kStepBytes) {
            _tile_loadd(4, a, kTileRow);
            _tile_loadd(6, b, kTileRow);
            ATREIDES_MULTIPLY_TILES(0, 4, 6, false, false);
            _tile_loadd(7, b + kTileBytes, kTileRow);
            ATREIDES_MULTIPLY_TILES(1, 4, 7, false, kSplitB);
            _tile_loadd(5, a + kTileBytes, kTileRow);
            ATREIDES_MULTIPLY_TILES(2, 5, 6, kSplitA, false);
            ATREIDES_MULTIPLY_TILES(3, 5, 7, kSplitA, kSplitB);
        }
        constexpr long tile = kTileSide * kTileSide;
        _tile_stored(0, sums, kTileRow);
        _tile_stored(1, sums + tile, kTileRow);
        _tile_stored(2, sums + 2 * tile, kTileRow);
        _tile_stored(3, sums + 3 * tile, kTileRow);
    }

    // Adds the four tiles of sums to kRows x kColumns accumulators, digits by their weights.
    static void add_sums(const Sum* sums, std::int64_t* accumulators) {
        constexpr long tile = kTileSide * kTileSide;
        auto at = [sums](long number, long element) {
            return static_cast<std::int64_t>(static_cast<std::int32_t>(sums[number * tile + element]));
        };
        for (long i = 0; i < kRows; ++i)
            for (long j = 0; j < kColumns; j += kTileSide) {
                const long down = i / kTileSide, right = j / kTileSide;
                std::int64_t* row = accumulators + i * kGroup + j;
                for (long c = 0; c < kTileSide; ++c) {
                    const long e = i % kTileSide * kTileSide + c;
                    if constexpr (kSplitA && kSplitB)
                        row[c] += (at(0, e) << 16) + ((at(1, e) + at(2, e)) << 8) + at(3, e);
                    else if constexpr (kSplitA)
                        row[c] += (at(right, e) << 8) + at(2 + right, e);
                    else if constexpr (kSplitB)
                        row[c] += (at(2 * down, e) << 8) + at(2 * down + 1, e);
                    else
                        row[c] += at(2 * down + right, e);
                }
            }
    }

    // (a + s)(b + t) = a * b + s * (b + t) + a * t, with s and t the ones that a and b lack.
    void add_corrections(long row_panel, long column_panel, std::int64_t* accumulators) const {
        const Matrix &a = arguments_.a, &b = arguments_.b;
        const long first_row = row_panel * kRows, first_column = column_panel * kColumns;
        const long rows = std::min(kRows, a.lanes - first_row);
        const long columns = std::min(kColumns, b.lanes - first_column);
        for (const Shortfall& s : a_short_[row_panel]) {
            std::int64_t* row = accumulators + (s.lane - first_row) * kGroup;
            for (long j = 0; j < columns; ++j) row[j] += b.operand_at(first_column + j, s.term);
        }
        for (const Shortfall& s : b_short_[column_panel]) {
            std::int64_t* column = accumulators + s.lane - first_column;
            for (long i = 0; i < rows; ++i) {
                const std::int32_t value = a.operand_at(first_row + i, s.term);
                column[i * kGroup] += value - (value == 32768);
            }
        }
    }

    // The panels first..last of columns for one panel of rows.
    void multiply_group(long row_panel, long first, long last) const {
        alignas(64) Sum sums[4 * kTileSide * kTileSide];
        alignas(64) std::int64_t accumulators[kRows * kGroup] = {};
        const std::byte* a = a_ + row_panel * panel_bytes_;
        for (long p = first; p < last; ++p) {
            const std::byte* b = b_ + p * panel_bytes_;
            std::int64_t* columns = accumulators + (p - first) * kColumns;
            for (long step = 0; step < steps_; step += chunk_) {
                multiply_panels(a + step * kStepBytes, b + step * kStepBytes,
                                std::min(chunk_, steps_ - step), sums);
                add_sums(sums, columns);
            }
            if (corrections_) add_corrections(row_panel, p, columns);
        }
        const long rows = std::min(kRows, arguments_.a.lanes - row_panel * kRows);
        for (long i = 0; i < rows; ++i)
            write_row(arguments_, accumulators + i * kGroup, row_panel * kRows + i, first * kColumns,
                      (last - first) * kColumns);
    }

  public:
    explicit AmxProduct(const Arguments& arguments)
        : arguments_(arguments),
          steps_(divide_up(arguments.a.terms, kStepTerms)),
          chunk_(Digits::exact_terms(arguments.a, arguments.b) / kStepTerms),
          row_panels_(divide_up(arguments.a.lanes, kRows)),
          column_panels_(divide_up(arguments.b.lanes, kColumns)),
          panel_bytes_(steps_ * kStepBytes),
          a_short_(row_panels_),
          b_short_(column_panels_) {}

    int run() {
        pack();
        if (status_ != kDone) return status_;
        long high = kRegion / kRows, wide = kRegion / kColumns;  // panels of a region
        const long group = kGroup / kColumns;
        auto regions = [&] { return divide_up(row_panels_, high) * divide_up(column_panels_, wide); };
        while (regions() < arguments_.threads && (high > 1 || wide > group))
            (high * kRows >= wide * kColumns && high > 1) || wide <= group ? high /= 2 : wide /= 2;
        const long across = divide_up(column_panels_, wide);
        parallel_ranges(regions(), 1, arguments_.threads, [&](long begin, long end) {
            Tiles tiles;
            for (long region = begin; region < end; ++region) {
                const long top = region / across * high, left = region % across * wide;
                const long right = std::min(left + wide, column_panels_);
                for (long p = left; p < right; p += group)
                    for (long i = top; i < std::min(top + high, row_panels_); ++i)
                        multiply_group(i, p, std::min(p + group, right));
            }
        });
        return status_;
    }
};

#undef ATREIDES_MULTIPLY_TILES

template <class Digits>
int multiply_digits(const Arguments& arguments) {
    const bool a = Digits::is_split(arguments.a), b = Digits::is_split(arguments.b);
    if (a && b) return AmxProduct<Digits, true, true>(arguments).run();
    if (a) return AmxProduct<Digits, true, false>(arguments).run();
    if (b) return AmxProduct<Digits, false, true>(arguments).run();
    return AmxProduct<Digits, false, false>(arguments).run();
}

}  // namespace

int multiply_by_amx(const Arguments& arguments) {
    if (arguments.row_lift || !amx_is_permitted()) return kDeclined;
    const Matrix &a = arguments.a, &b = arguments.b;
    const bool bytes_split = ByteDigits::is_split(a) || ByteDigits::is_split(b);
    const bool halves_split = HalfDigits::is_split(a) || HalfDigits::is_split(b);
    if (bytes_split && !halves_split) return multiply_digits<HalfDigits>(arguments);
    const int status = multiply_digits<ByteDigits>(arguments);
    return status == kDeclined ? multiply_digits<HalfDigits>(arguments) : status;
}

extern "C" int matmul_uses_amx() { return amx_is_permitted(); }

#else

int multiply_by_amx(const Arguments&) { return kDeclined; }

extern "C" int matmul_uses_amx() { return 0; }

#endif
