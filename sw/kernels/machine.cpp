// The cycles of a GEMM by recurrences over its chunks and slices: each event happens in the first
// cycle after everything that it waits for. Equal to sw/machine_clock.py, which steps registers.
#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

// Mirrors sw.machine_recurrence._Arguments.
struct Arguments {
    std::int64_t batches, rows, tiles, last_columns;  // G, M, NT, NL
    std::int64_t side, lanes;                         // of the array
    const std::int32_t* slices;  // [slice_batches, slice_tiles, chunks], see sw.machine_load.Load
    std::int64_t slice_batches, slice_tiles, chunks;
    const std::uint8_t* ends;  // [chunks]
    std::int32_t a_in_lanes, b_in_lanes, b_reads, skip, to_stream;
    std::int64_t depth, pages, result_depth, row_latency;
    // sw.timing's names in lower case
    std::int64_t look, looked_up, chunk_queue, tile_queue, read, slice_push, lanes_push, left_over;
    std::int64_t transposed, shift_buffer;
};

// Mirrors sw.machine_recurrence._Result.
struct Result {
    std::int64_t total, first_read, stall_a, stall_b, stall_drain, stall_results;
};

// The last events of a sequence by number; those before the first are in cycle 0, long past.
class History {
    std::vector<std::int64_t> at_;
    std::int64_t mask_, count_ = 0;

  public:
    explicit History(std::int64_t size) {
        std::int64_t held = 1;
        while (held < size) held *= 2;
        at_.assign(held, 0);
        mask_ = held - 1;
    }
    std::int64_t count() const { return count_; }
    void add(std::int64_t cycle) { at_[count_++ & mask_] = cycle; }
    std::int64_t operator[](std::int64_t number) const { return number < 0 ? 0 : at_[number & mask_]; }
    // The first cycle in which event `number` is in the past.
    std::int64_t after(std::int64_t number) const { return number < 0 ? 0 : at_[number & mask_] + 1; }
};

constexpr std::int64_t kRemembered = 1024;  // slices: more than all pages and a shift buffer hold

// One side's ChunkReader, Transposer and ShiftBuffer.
class Feeder {
    struct Page {
        std::int64_t begin, end;  // slices
        std::int64_t offered;     // the first cycle in which one could be pushed
    };
    const Arguments& given_;
    const History& pops_;
    bool in_lanes_;
    std::vector<Page> pages_;
    std::int64_t chunk_ = 0, last_step_ = 0, page_ready_ = 0;
    History accepts_{16}, pushes_;

    // The first cycle from `cycle` on in which the transposer has room for another chunk.
    std::int64_t room(std::int64_t cycle) const {
        if (chunk_ < given_.pages) return cycle;
        const Page& oldest = pages_[chunk_ % given_.pages];
        // Seen a cycle late; a slice more may be left, as it leaves meanwhile.
        std::int64_t left = oldest.end - given_.left_over - 1;  // all before it have been pushed
        std::int64_t leaving = std::max(oldest.offered, pops_.after(oldest.end - given_.depth - 1));
        if (left > oldest.begin) leaving = std::max(leaving, pushes_.after(left - 1));
        return std::max(cycle, std::min(leaving + 1, pushes_.after(oldest.end - 1)));
    }

  public:
    Feeder(const Arguments& given, const History& pops, bool in_lanes)
        : given_(given), pops_(pops), in_lanes_(in_lanes), pages_(given.pages), pushes_(kRemembered) {}

    // The first step of the chunk that is on the stream from cycle `offered` on.
    std::int64_t begin(std::int64_t offered, std::int64_t lanes, std::int64_t slices) {
        std::int64_t accept = std::max(offered, last_step_);
        accepts_.add(accept);
        if (!in_lanes_) {
            last_step_ = accept;  // of the steps so far
            return std::max(accept + 1, pops_.after(pushes_.count() - given_.depth));
        }
        std::int64_t first = room(accept + 1);
        last_step_ = first + lanes - 1;
        std::int64_t begin = pushes_.count();
        page_ready_ = last_step_ + given_.lanes_push;
        Page page{begin, begin + slices, std::max(page_ready_, pushes_.after(begin - 1))};
        pages_[chunk_++ % given_.pages] = page;
        return first;
    }

    // The first cycle in which the chunk's next slice can leave the shift buffer.
    std::int64_t next() {
        std::int64_t place = pops_.after(pushes_.count() - given_.depth);
        std::int64_t push;
        if (in_lanes_) {
            push = std::max({page_ready_, pushes_.after(pushes_.count() - 1), place});
        } else {
            last_step_ = std::max(last_step_ + 1, place);
            push = last_step_ + given_.slice_push;
        }
        pushes_.add(push);
        return push + given_.shift_buffer + (in_lanes_ ? given_.transposed : 0);
    }

    // The first cycle in which a queue of chunks has room for one more.
    std::int64_t taken() const { return accepts_.after(accepts_.count() - given_.chunk_queue); }
};

// A chunk that the filter holds.
struct Chunk {
    std::int64_t slices = 0, rows = 0, columns = 0, take = 0;
    bool first = false, last_block = false;
};

class Gemm {
    const Arguments& given_;
    Result result_{};
    History pops_{kRemembered}, walks_{16}, takes_{16}, events_{16};
    Feeder a_, b_;
    std::int64_t leave_ = 0, pop_ = 0, event_ = 0, event_rows_ = 0;
    // Rows promised to the result stream, tile by tile, and how many have left.
    std::vector<std::int64_t> promise_event_, promise_rows_;
    std::int64_t oldest_ = 0, left_ = 0, promised_ = 0;

    // The first cycle from `cycle` on in which the result queue can promise `rows` more.
    std::int64_t promise(std::int64_t cycle, std::int64_t rows) {
        std::int64_t needed = promised_ + rows - given_.result_depth;
        while (left_ < needed) {  // the oldest tiles whose rows must have left
            std::int64_t missing = std::min(needed - left_, promise_rows_[oldest_]);
            cycle = std::max(cycle, promise_event_[oldest_] + given_.row_latency + missing - 1);
            if (missing < promise_rows_[oldest_]) break;
            left_ += promise_rows_[oldest_++];
        }
        return cycle;
    }

    // The cycle in which a slice leaves the shift buffers, waiting for each cause in turn.
    void issue(std::int64_t a, std::int64_t b, const Chunk* ending) {
        std::int64_t cycle = pop_ + 1;
        auto wait = [&](std::int64_t until, std::int64_t& stall) {
            if (until > cycle) stall += until - cycle, cycle = until;
        };
        wait(a, result_.stall_a);
        wait(b, result_.stall_b);
        if (ending) {
            wait(event_ + event_rows_, result_.stall_drain);
            bool promises = given_.to_stream && ending->last_block;
            if (promises) wait(promise(cycle, ending->rows), result_.stall_results);
            event_ = cycle;
            event_rows_ = ending->rows;
            events_.add(cycle);
            if (promises) {
                promise_event_.push_back(cycle);
                promise_rows_.push_back(ending->rows);
                promised_ += ending->rows;
            }
        }
        pop_ = cycle;
        pops_.add(cycle);
    }

    // The held chunk leaves, not before `known`, and runs through feeders and issuer.
    void leave(const Chunk& chunk, std::int64_t known, bool last) {
        leave_ = std::max({known, chunk.take + 1, a_.taken(), b_.taken()});
        if (chunk.first) {
            leave_ = std::max(leave_, events_.after(tile_ - given_.tile_queue));
            ++tile_;
        }
        std::int64_t a = a_.begin(leave_ + 1, chunk.rows, chunk.slices);
        std::int64_t b = b_.begin(leave_ + 1, chunk.columns, chunk.slices);
        if (!result_.first_read)
            result_.first_read = (given_.b_reads ? std::min(a, b) : a) + given_.read;
        for (std::int64_t slice = 1; slice <= chunk.slices; ++slice) {
            std::int64_t a_next = a_.next(), b_next = b_.next();
            issue(a_next, b_next, last && slice == chunk.slices ? &chunk : nullptr);
        }
    }

    std::int64_t tile_ = 0;  // records of tiles that have left the planner
    Chunk held_;
    bool holds_ = false, held_ends_ = false, started_ = false;

    // One chunk through walker, flags and filter.
    void walk(Chunk chunk, bool end) {
        std::int64_t number = walks_.count();
        walks_.add(std::max({walks_[number - 1] + 1, takes_.after(number - given_.looked_up)}));
        std::int64_t arrive =
            std::max(walks_[number] + given_.look, takes_.after(number - 1));
        bool decides = chunk.slices > 0 || end;
        if (decides && holds_) {
            // A chunk held back is known to be the last if nothing of its tile follows.
            bool known = held_ends_ || !given_.skip;
            bool last = known ? held_ends_ : chunk.slices == 0;
            leave(held_, known ? 0 : arrive, last);
            holds_ = false;
            arrive = std::max(arrive, leave_);
        }
        takes_.add(arrive);
        if (chunk.slices > 0) {
            chunk.take = arrive;
            chunk.first = !started_;
            held_ = chunk;
            holds_ = true;
            held_ends_ = end;
        }
        started_ = !end && (started_ || chunk.slices > 0);
    }

  public:
    explicit Gemm(const Arguments& given)
        : given_(given), a_(given, pops_, given.a_in_lanes), b_(given, pops_, given.b_in_lanes) {}

    Result run() {
        const Arguments& g = given_;
        for (std::int64_t batch = 0; batch < g.batches; ++batch)
            for (std::int64_t row = 0; row < g.rows; row += g.side)
                for (std::int64_t tile = 0; tile < g.tiles; ++tile) {
                    std::int64_t at = batch % g.slice_batches * g.slice_tiles + tile % g.slice_tiles;
                    const std::int32_t* slices = g.slices + at * g.chunks;
                    std::int64_t last_block = g.chunks - 1;  // the first chunk of the last block
                    while (last_block > 0 && !g.ends[last_block - 1]) --last_block;
                    Chunk chunk;
                    chunk.rows = std::min(g.side, g.rows - row);
                    chunk.columns = tile < g.tiles - 1 ? g.lanes : g.last_columns;
                    for (std::int64_t c = 0; c < g.chunks; ++c) {
                        chunk.slices = slices[c];
                        chunk.last_block = c >= last_block;
                        walk(chunk, g.ends[c]);
                    }
                }
        if (holds_) leave(held_, 0, true);
        result_.total = event_ + g.row_latency + event_rows_ - 1;
        return result_;
    }
};

}  // namespace

extern "C" void gemm_cycles(const Arguments* given, Result* result) { *result = Gemm(*given).run(); }
