// Ranges of work on OpenMP's threads, in the rounding mode that the proofs assume.
//
// torch runs on the same OpenMP library, and loads it first: its threads spin for a while after each
// of its operations, so threads of our own would have to share the cores with them.
#pragma once

#include <algorithm>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

// Round to nearest even with subnormals kept, whatever the host process has set; restored at the end.
class IeeeMode {
#if defined(__SSE2__)
    unsigned saved_ = _mm_getcsr();

  public:
    IeeeMode() { _mm_setcsr(0x1f80); }
    ~IeeeMode() { _mm_setcsr(saved_); }
#endif
};

// Calls work(begin, end) on disjoint ranges that cover 0..count, at most `threads` at once and none
// shorter than `grain` but the last. Bounds fall on multiples of 64 items, a cache line of bytes.
template <class Work>
void parallel_ranges(long count, long grain, int threads, Work work) {
    long parts = std::clamp(count / std::max(grain, 1L), 1L, static_cast<long>(threads));
    long step = (count + parts - 1) / parts;
    if (step > 64) step = (step + 63) / 64 * 64;
    auto run = [&](long part) {
        IeeeMode mode;
        long begin = part * step, end = std::min(count, begin + step);
        if (begin < end) work(begin, end);
    };
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (long part = 0; part < parts; ++part) run(part);
}
