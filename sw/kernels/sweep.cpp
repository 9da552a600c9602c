// Columns of a block rounded in turn, each error spread over those after it, at several exponents:
// whichever errs least is kept, row by row. Plain code with the same bits: sw.wasq.sweep.
//
// Matrices are [columns, rows] in memory: the rows of a column, which know nothing of each other,
// lie side by side, as lanes of vectors.

#include <cmath>
#include <cstring>

#include "parallel.h"
#include "words.h"

namespace {

constexpr int kMostColumns = 64;
constexpr long kGrain = 64;  // rows worth a thread of their own

constexpr int kTogether = 4;  // columns whose errors are spread at once

// Rows side by side: two vectors of eight, operations on which need not wait for each other.
constexpr long kWide = 8, kPair = 2, kLanes = kWide * kPair;
typedef float Vector __attribute__((vector_size(kWide * sizeof(float))));
typedef std::int32_t Mask __attribute__((vector_size(kWide * sizeof(float))));
union Lanes {
    Vector vector[kPair];
    float lane[kLanes];
};

// Mirrors sw.wasq.sweep_native._Arguments. Matrices are [width, rows], contiguous.
struct Arguments {
    const float *columns;    // what is rounded
    const float *base;       // what changes are counted from; may be `values`
    const float *aside;      // its squares, summed, are the loss of staying; null: nothing is kept
    const float *scaled;     // [width, width]: what an error takes from later columns
    const float *diagonal;   // [width]: what errors are divided by
    const std::int32_t *top; // [rows]: the largest exponent
    float *values, *errors;  // errors: null where there is `aside`
    float *change;           // values less base
    std::int32_t *chosen;    // [rows]: exponents; those that there are, where there is `aside`
    float gain;              // what part of the loss of staying a loss must be less than
    std::int32_t width, tries, spread;
    std::int64_t rows;
    Format format;
    std::int32_t threads;
};

// Columns of a group of rows.
using Tile = Lanes[kMostColumns];

// Rows `first` to `first + count` of a column; beyond them the last again.
template <class Item>
inline void load(Item (&lanes)[kLanes], const Item* column, long first, long count) {
    if (count == kLanes)
        std::memcpy(lanes, column + first, sizeof lanes);
    else
        for (long k = 0; k < kLanes; ++k) lanes[k] = column[first + std::min(k, count - 1)];
}

template <class Item>
inline void store(Item* column, const Item (&lanes)[kLanes], long first, long count) {
    std::memcpy(column + first, lanes, count * sizeof(Item));
}

inline Vector all(float x) { return x - Vector{}; }

// To operands: adding 1.5 * 2**23 rounds to an integer, ties to even; taking it away is exact.
inline Vector snap(Vector x, float top, bool unity) {
    const Vector magic = all(12582912.0f), most = all(unity ? top - 2 : top - 1);
    Vector bounded = x < most ? x : most;
    bounded = bounded > -most ? bounded : -most;
    const Vector rounded = (bounded + magic) - magic;
    if (!unity) return rounded;
    const Vector above = x >= all(top - 1) ? all(top) : rounded;
    return x <= all(1 - top) ? all(-top) : above;
}

// Takes from columns `first` to `last` what the errors of `kCount` columns from `from` make of them,
// one after the other: as many at once spare the later columns' way to memory and back.
template <int kCount>
inline void spread(Tile& left, const Tile& lost, const Arguments& a, int from, int first, int last) {
    for (int j = first; j < last; ++j)
        for (long v = 0; v < kPair; ++v) {
            Vector x = left[j].vector[v];
            for (int i = from; i < from + kCount; ++i)
                x -= all(a.scaled[i * a.width + j]) * lost[i].vector[v];
            left[j].vector[v] = x;
        }
}

// Rounds `left`, in units, to operands in place; errors are divided by the diagonal, in true scale.
void sweep(Tile& left, Tile& errors, const Arguments& a, const Lanes& unit, Lanes& loss) {
    const float top = static_cast<float>(1 << a.format.fraction_bits());
    const bool unity = a.format.unity;
    Tile lost;
    for (int from = 0; from < a.width; from += kTogether) {
        const int until = std::min(from + kTogether, a.width);
        for (int i = from; i < until; ++i) {
            for (long v = 0; v < kPair; ++v) {
                const Vector x = left[i].vector[v], value = snap(x, top, unity);
                lost[i].vector[v] = x - value;
                left[i].vector[v] = value;
            }
            spread<1>(left, lost, a, i, i + 1, until);
        }
        if (until < a.width) spread<kTogether>(left, lost, a, from, until, a.width);
    }
    loss = Lanes{};
    for (int i = 0; i < a.width; ++i)
        for (long v = 0; v < kPair; ++v) {
            const Vector error = lost[i].vector[v] / a.diagonal[i] * unit.vector[v];
            errors[i].vector[v] = error;
            loss.vector[v] += error * error;
        }
}

// Rows of a group as they come to be: the best so far.
struct Best {
    Tile values, errors;
    Lanes loss;
    std::int32_t chosen[kLanes];
};

void keep(Best& best, const Tile& values, const Tile& errors, const Lanes& unit, const Lanes& loss,
          const std::int32_t* tried, int width, bool always) {
    for (long v = 0; v < kPair; ++v) {
        Mask better = loss.vector[v] < best.loss.vector[v];
        if (always) better = Mask{} == Mask{};
        best.loss.vector[v] = better ? loss.vector[v] : best.loss.vector[v];
        for (long k = v * kWide; k < (v + 1) * kWide; ++k)
            if (better[k - v * kWide]) best.chosen[k] = tried[k];
        for (int i = 0; i < width; ++i) {
            const Vector value = values[i].vector[v] * unit.vector[v];
            best.values[i].vector[v] = better ? value : best.values[i].vector[v];
            best.errors[i].vector[v] = better ? errors[i].vector[v] : best.errors[i].vector[v];
        }
    }
}

// The exponents that a group's rows begin to try from: by maximum, or one above those that there are.
void begin(const Arguments& a, const Tile& columns, std::int32_t* first) {
    if (a.aside) {
        for (long k = 0; k < kLanes; ++k) first[k] += a.tries > 1;
        return;
    }
    Lanes largest{};
    for (int i = 0; i < a.width; ++i)
        for (long k = 0; k < kLanes; ++k)
            largest.lane[k] = std::max(largest.lane[k], std::fabs(columns[i].lane[k]));
    for (long k = 0; k < kLanes; ++k) {
        const float fraction = std::frexp(largest.lane[k], &first[k]);
        first[k] -= a.format.unity && fraction == 0.5f;
    }
}

void choose_group(const Arguments& a, long first, long count) {
    Tile columns, left, errors;
    Best best;
    Lanes unit, loss;
    std::int32_t start[kLanes], tried[kLanes], top[kLanes];
    load(top, a.top, first, count);
    best.loss = Lanes{};
    for (int i = 0; i < a.width; ++i) {
        load(columns[i].lane, a.columns + i * a.rows, first, count);
        if (!a.aside) continue;
        Lanes aside;
        load(aside.lane, a.aside + i * a.rows, first, count);
        for (long v = 0; v < kPair; ++v)
            best.loss.vector[v] += aside.vector[v] * aside.vector[v];
        load(best.values[i].lane, a.values + i * a.rows, first, count);
    }
    if (a.aside) {
        for (long v = 0; v < kPair; ++v) best.loss.vector[v] *= a.gain;
        load(best.chosen, a.chosen, first, count);
        load(start, a.chosen, first, count);
    }
    begin(a, columns, start);
    for (int t = 0; t < a.tries; ++t) {
        for (long k = 0; k < kLanes; ++k) {
            tried[k] = std::max(std::min(start[k] - (a.aside ? t : 0), top[k]) - (a.aside ? 0 : t),
                                top[k] - a.spread);
            const std::int32_t biased = tried[k] - a.format.fraction_bits() + 127;
            unit.lane[k] = power_of_two(std::clamp(biased, 1, 254) - 127, 0.0f);
        }
        for (int i = 0; i < a.width; ++i)
            for (long v = 0; v < kPair; ++v)
                left[i].vector[v] = columns[i].vector[v] / unit.vector[v];
        sweep(left, errors, a, unit, loss);
        keep(best, left, errors, unit, loss, tried, a.width, !a.aside && !t);
    }
    store(a.chosen, best.chosen, first, count);
    for (int i = 0; i < a.width; ++i) {
        Lanes change;
        load(change.lane, a.base + i * a.rows, first, count);
        for (long v = 0; v < kPair; ++v)
            change.vector[v] = best.values[i].vector[v] - change.vector[v];
        store(a.change + i * a.rows, change.lane, first, count);
        store(a.values + i * a.rows, best.values[i].lane, first, count);
        if (a.errors) store(a.errors + i * a.rows, best.errors[i].lane, first, count);
    }
}

}  // namespace

extern "C" void sweep_columns(const Arguments* arguments) {
    const Arguments a = *arguments;
    parallel_ranges(a.rows, kGrain, a.threads, [&](long begin, long end) {
        for (long row = begin; row < end; row += kLanes)
            choose_group(a, row, std::min(kLanes, end - row));
    });
}
