// The exact product of two matrices of words, accumulated in int64, optionally drained to words.

#include <cstring>
#include <memory>

#include "amx.h"
#include "arguments.h"
#include "pack.h"

namespace {

constexpr long kPairs = 256;          // terms / 2 of a panel that stay in the first-level cache
constexpr long kBlockRows = 192;      // rows of a whose panels stay in the second-level cache
constexpr long kPanelGroup = 8;       // column panels that are drained together
constexpr long kBlockColumns = 4096;  // columns of b packed at a time
constexpr long kWidenGrain = 1 << 16;  // words worth a thread of their own

typedef std::int32_t Narrow __attribute__((vector_size(4 * kLanes)));
typedef std::int64_t Wide __attribute__((vector_size(8 * kLanes)));

inline void widen(Wide& to, const std::int32_t* from) {
    Narrow v;
    std::memcpy(&v, from, sizeof v);
    to = __builtin_convertvector(v, Wide);
}

// Adds one tile of int32 sums to int64 accumulators, lifted by the block's shifts if there are any.
template <bool kDigits>
void add_tile(const std::int32_t* sums, std::int64_t* accumulators, long stride,
              const std::int32_t* row_lift, const std::int32_t* column_lift) {
    constexpr int width = kDigits ? kLanes : kColumns;
    for (int i = 0; i < kRows; ++i, sums += kColumns, accumulators += stride)
        for (int j = 0; j < width; j += kLanes) {
            Wide sum, other;
            widen(sum, sums + j);
            if (kDigits) {
                widen(other, sums + kLanes);
                sum = (sum << 8) + other;
            }
            if (row_lift) {
                widen(other, column_lift + j);
                sum <<= other + row_lift[i];
            }
            std::memcpy(&other, accumulators + j, sizeof other);
            sum += other;
            std::memcpy(accumulators + j, &sum, sizeof sum);
        }
}

template <bool kDigits>
class Product {
    static constexpr int kWidth = kDigits ? kLanes : kColumns;  // columns of the result per panel
    const Arguments& arguments_;
    Plan plan_;
    long chunk_pairs_;  // pairs of terms that int32 sums exactly
    std::atomic<int> status_{kDone};
    std::unique_ptr<std::uint32_t[]> b_panels_;  // not set to zero first, unlike a vector

    long a_panel_size() const { return plan_.pairs * kRows; }
    long b_panel_size() const { return plan_.pairs * kColumns; }

    void pack_b(long first_column, long panels) {
        b_panels_ = std::make_unique_for_overwrite<std::uint32_t[]>(panels * b_panel_size());
        parallel_ranges(panels, 1, arguments_.threads, [&](long begin, long end) {
            for (long p = begin; p < end; ++p)
                if (!PanelPacker<kWidth, kDigits>(arguments_.b, plan_, arguments_.wide == 2)
                         .pack(&b_panels_[p * b_panel_size()], first_column + p * kWidth))
                    status_ = kBadB;
        });
    }

    // All sums of `panels` row panels with one column panel, added to rows of `stride` accumulators.
    void multiply(const std::uint32_t* a, long panels, const std::uint32_t* b, long first_row,
                  long first_column, std::int64_t* accumulators, long stride) const {
        alignas(64) std::int32_t sums[kRows * kColumns];
        alignas(64) std::int32_t column_lift[kColumns] = {};
        std::vector<std::int32_t> row_lift(arguments_.row_lift ? panels * kRows : 0);
        const long most = std::min(kPairs, chunk_pairs_);
        long blocks = static_cast<long>(plan_.blocks.size());
        for (long at = 0; at < blocks; ++at) {
            const Block& block = plan_.blocks[at];
            if (arguments_.row_lift) {
                for (long i = 0; i < panels * kRows; ++i)
                    row_lift[i] = first_row + i < arguments_.a.lanes
                                      ? arguments_.row_lift[(first_row + i) * blocks + at] : 0;
                for (int j = 0; j < kWidth; ++j)
                    column_lift[j] = first_column + j < arguments_.b.lanes
                        ? arguments_.column_lift[at * arguments_.b.lanes + first_column + j] : 0;
            }
            long chunks = std::max(1L, (block.pairs + most - 1) / most);
            long chunk = std::max(1L, (block.pairs + chunks - 1) / chunks);
            for (long pair = block.first_pair; pair < block.first_pair + block.pairs; pair += chunk) {
                long pairs = std::min(chunk, block.first_pair + block.pairs - pair);
                for (long p = 0; p < panels; ++p) {
                    multiply_tile(a + p * a_panel_size() + pair * kRows, b + pair * kColumns, pairs,
                                  sums);
                    add_tile<kDigits>(sums, accumulators + p * kRows * stride, stride,
                                      arguments_.row_lift ? &row_lift[p * kRows] : nullptr,
                                      column_lift);
                }
            }
        }
    }

    // Rows begin..end of the result, for the column panels packed at the moment.
    void multiply_rows(long begin, long end, long first_column, long first_panel, long last_panel) {
        long panels = (end - begin + kRows - 1) / kRows;
        auto a = std::make_unique_for_overwrite<std::uint32_t[]>(panels * a_panel_size());
        for (long p = 0; p < panels; ++p)
            if (!PanelPacker<kRows, false>(arguments_.a, plan_, arguments_.wide == 1)
                     .pack(&a[p * a_panel_size()], begin + p * kRows))
                status_ = kBadA;
        constexpr long stride = kPanelGroup * kWidth;
        std::vector<std::int64_t> accumulators(panels * kRows * stride);
        for (long j = first_panel; j < last_panel && status_ == kDone; j += kPanelGroup) {
            long stop = std::min(last_panel, j + kPanelGroup), column = first_column + j * kWidth;
            std::fill(accumulators.begin(), accumulators.end(), 0);
            for (long p = j; p < stop; ++p)
                multiply(a.get(), panels, &b_panels_[p * b_panel_size()], begin,
                         first_column + p * kWidth, &accumulators[(p - j) * kWidth], stride);
            for (long i = begin; i < end; ++i)
                write_row(arguments_, &accumulators[(i - begin) * stride], i, column,
                          (stop - j) * kWidth);
        }
    }

  public:
    explicit Product(const Arguments& arguments)
        : arguments_(arguments), chunk_pairs_(arguments.chunk_terms / 2) {}

    int run() {
        std::vector<std::int8_t> overflow;
        if (arguments_.wide)
            overflow = find_overflow(arguments_.wide == 1 ? arguments_.a : arguments_.b,
                                     arguments_.threads);
        // 512 * 32767 * 128 < 2**31: without any 32768 in a, two terms more than chunk_terms are exact
        if (kDigits && arguments_.wide == 1 &&
            std::all_of(overflow.begin(), overflow.end(), [](std::int8_t f) { return f == 0; }))
            chunk_pairs_ = 256;
        plan_ = make_plan(arguments_.a.terms, std::max<long>(arguments_.block_length, 1), overflow);
        long rows = arguments_.a.lanes, threads = arguments_.threads;
        long row_panels = (rows + kRows - 1) / kRows;
        long blocks = (rows + kBlockRows - 1) / kBlockRows;  // as many for each thread
        blocks = std::min(row_panels, (blocks + threads - 1) / threads * threads);
        long block_rows = blocks ? (row_panels + blocks - 1) / blocks * kRows : 1;
        blocks = blocks ? (rows + block_rows - 1) / block_rows : 0;
        for (long column = 0; column < arguments_.b.lanes; column += kBlockColumns) {
            long columns = std::min(kBlockColumns, arguments_.b.lanes - column);
            long panels = (columns + kWidth - 1) / kWidth;
            pack_b(column, panels);
            long shares = std::min(panels, std::max(1L, threads / std::max(blocks, 1L)));
            parallel_ranges(blocks * shares, 1, arguments_.threads, [&](long begin, long end) {
                for (long item = begin; item < end; ++item) {
                    long first = item / shares * block_rows, share = item % shares;
                    multiply_rows(first, std::min(rows, first + block_rows), column,
                                  panels * share / shares, panels * (share + 1) / shares);
                }
            });
        }
        return status_;
    }
};

// A copy of a matrix of bytes with words of 16 bits, neighbours in memory as they were.
class Widened {
    std::unique_ptr<std::uint16_t[]> words_;

  public:
    Matrix matrix;

    Widened(const Matrix& m, int threads) : matrix(m) {
        if (m.word_bytes != 1) return;
        words_ = std::make_unique_for_overwrite<std::uint16_t[]>(m.lanes * m.terms);
        const bool along = m.term_stride == 1;
        const long lines = along ? m.lanes : m.terms, length = along ? m.terms : m.lanes;
        const long line_stride = along ? m.lane_stride : m.term_stride;
        const long stride = along ? m.term_stride : m.lane_stride;
        const auto* bytes = static_cast<const std::uint8_t*>(m.words);
        parallel_ranges(lines, kWidenGrain / std::max(length, 1l), threads, [&](long begin, long end) {
            for (long i = begin; i < end; ++i) {
                const std::uint8_t* from = bytes + i * line_stride;
                std::uint16_t* to = &words_[i * length];
                if (stride == 1)
                    std::copy_n(from, length, to);
                else
                    for (long j = 0; j < length; ++j) to[j] = from[j * stride];
            }
        });
        matrix.words = words_.get();
        matrix.word_bytes = 2;
        matrix.lane_stride = along ? length : 1;
        matrix.term_stride = along ? 1 : length;
    }
};

}  // namespace

extern "C" int matmul_words(const Arguments* arguments) {
    if (int status = multiply_by_amx(*arguments); status != kDeclined) return status;
    Widened a(arguments->a, arguments->threads), b(arguments->b, arguments->threads);
    Arguments wide = *arguments;
    wide.a = a.matrix;
    wide.b = b.matrix;
    return wide.digits ? Product<true>(wide).run() : Product<false>(wide).run();
}
