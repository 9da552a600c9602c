// Drives a verilated machine: loads, runs and reads back jobs, with no Python between the cycles.
//
// atreides-driver JOB RESULT [TRACE FROM TO]
//
// JOB is a binary file, little endian, of 64-bit words unless said otherwise:
//   payload bytes of host, instructions, results and status; lowest bit of the field `kind` of a
//   result; code of a reply to a read; chances of 100 that a source offers and that a sink takes;
//   seed; limit of cycles per phase; number of phases; then each phase: reset, host payloads,
//   instructions, reads and statuses to wait for, and the payloads' bytes.
// RESULT becomes: cycles, number of results, number of statuses, and the payloads' bytes.
// Exit status: 0, 2 if the files are not as said, 3 with a sentence if the machine did wrong.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "Vatreides.h"
#include "verilated.h"
#if defined(TRACE_FST)
#include "verilated_fst_c.h"
using Trace = VerilatedFstC;
#elif defined(TRACE_VCD)
#include "verilated_vcd_c.h"
using Trace = VerilatedVcdC;
#endif

namespace {

using Bytes = std::vector<uint8_t>;

[[noreturn]] void fail(int status, const std::string& sentence) {
    std::fprintf(stderr, "%s\n", sentence.c_str());
    std::exit(status);
}

Bytes read_file(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (!file) fail(2, std::string("cannot read ") + path);
    Bytes content;
    uint8_t part[1 << 16];
    for (size_t n; (n = std::fread(part, 1, sizeof part, file)) > 0;)
        content.insert(content.end(), part, part + n);
    std::fclose(file);
    return content;
}

// Takes a job's file apart.
class Reader {
public:
    explicit Reader(const Bytes& content) : content_(content) {}
    uint64_t word() {
        uint64_t value;
        std::memcpy(&value, bytes(sizeof value), sizeof value);
        return value;
    }
    const uint8_t* bytes(size_t count) {
        if (content_.size() - position_ < count) fail(2, "the job ends too early");
        const uint8_t* found = content_.data() + position_;
        position_ += count;
        return found;
    }

private:
    const Bytes& content_;
    size_t position_ = 0;
};

// xorshift64*: https://doi.org/10.1145/2845077
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}
    uint64_t next() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return state_ * 0x2545f4914f6cdd1dull;
    }
    bool chance(unsigned percent) {
        return percent >= 100 || (next() >> 32) * 100 >> 32 < percent;
    }

private:
    uint64_t state_;
};

// Ports are integers up to 64 bits, else VlWide, which holds 32-bit words, the lowest first.
template <typename Port>
void set(Port& port, const uint8_t* from, size_t bytes) {
    if constexpr (std::is_integral_v<Port>) {
        Port value = 0;
        std::memcpy(&value, from, bytes);
        port = value;
    } else {
        std::memset(port.data(), 0, sizeof port);
        std::memcpy(port.data(), from, bytes);
    }
}

template <typename Port>
void get(const Port& port, uint8_t* to, size_t bytes) {
    if constexpr (std::is_integral_v<Port>) {
        std::memcpy(to, &port, bytes);
    } else {
        std::memcpy(to, port.data(), bytes);
    }
}

// Where payloads come from: offers one until it is taken.
template <typename Port>
class Source {
public:
    Source(Port& payload, CData& valid, const CData& ready, size_t bytes, unsigned percent,
           Random& random)
        : payload_(payload), valid_(valid), ready_(ready), bytes_(bytes), percent_(percent),
          random_(random), noise_(bytes) {}
    void start(Reader& job, size_t count) {
        next_ = job.bytes(count * bytes_);
        left_ = count;
    }
    bool done() const { return !left_; }
    void drive() {
        if (offering_) return;
        offering_ = left_ && random_.chance(percent_);
        valid_ = offering_;
        if (offering_) {
            set(payload_, next_, bytes_);
        } else if (percent_ < 100) {  // an idle payload is noise; bits beyond the port's stay 0
            for (auto& byte : noise_) byte = random_.next() >> 56;
            noise_.back() = 0;
            set(payload_, noise_.data(), bytes_);
        }
    }
    void observe() {
        if (!offering_ || !ready_) return;
        offering_ = false;
        next_ += bytes_;
        --left_;
    }

private:
    Port& payload_;
    CData& valid_;
    const CData& ready_;
    size_t bytes_;
    unsigned percent_;
    Random& random_;
    Bytes noise_;
    const uint8_t* next_ = nullptr;
    size_t left_ = 0;
    bool offering_ = false;
};

// Where payloads go: keeps all, and sees that one that waits does not change.
template <typename Port>
class Sink {
public:
    Sink(const char* name, const Port& payload, const CData& valid, CData& ready, size_t bytes,
         unsigned percent, Random& random)
        : name_(name), payload_(payload), valid_(valid), ready_(ready), bytes_(bytes),
          percent_(percent), random_(random), held_(bytes), now_(bytes) {}
    void drive() { ready_ = random_.chance(percent_); }
    // The payload if one was taken, else null.
    const uint8_t* observe(uint64_t cycle) {
        if (!valid_) {
            if (waiting_) complain(cycle);
            return nullptr;
        }
        get(payload_, now_.data(), bytes_);
        if (waiting_ && now_ != held_) complain(cycle);
        waiting_ = !ready_;
        if (waiting_) {
            held_ = now_;
            return nullptr;
        }
        all_.insert(all_.end(), now_.begin(), now_.end());
        return now_.data();
    }
    const Bytes& all() const { return all_; }
    size_t count() const { return all_.size() / bytes_; }

private:
    [[noreturn]] void complain(uint64_t cycle) const {
        fail(3, std::string(name_) + " must hold its payload until it is taken (cycle " +
                    std::to_string(cycle) + ")");
    }
    const char* name_;
    const Port& payload_;
    const CData& valid_;
    CData& ready_;
    size_t bytes_;
    unsigned percent_;
    Random& random_;
    Bytes held_, now_, all_;
    bool waiting_ = false;
};

// The model with its clock, and the trace of a window of cycles.
class Clock {
public:
    Clock(VerilatedContext& context, Vatreides& top, int argc, char** argv)
        : context_(context), top_(top) {
#if defined(TRACE_FST) || defined(TRACE_VCD)
        if (argc != 6) fail(2, "TRACE FROM TO must be given");
        path_ = argv[3];
        from_ = std::strtoull(argv[4], nullptr, 10);
        to_ = std::strtoull(argv[5], nullptr, 10);
        top_.trace(&trace_, 99);
#else
        if (argc != 3) fail(2, "JOB RESULT must be given");
        (void)argv;
#endif
    }
    ~Clock() {
#if defined(TRACE_FST) || defined(TRACE_VCD)
        if (trace_.isOpen()) trace_.close();
#endif
    }
    uint64_t cycle() const { return cycle_; }
    // Lets what was driven reach the outputs.
    void settle() {
        top_.clk = 0;
        top_.eval();
        dump(2 * cycle_);
    }
    void tick() {
        top_.clk = 1;
        top_.eval();
        dump(2 * cycle_ + 1);
        ++cycle_;
    }

private:
    void dump(uint64_t time) {
#if defined(TRACE_FST) || defined(TRACE_VCD)
        context_.time(time);
        if (cycle_ < from_ || cycle_ >= to_) return;
        if (!trace_.isOpen()) trace_.open(path_.c_str());
        trace_.dump(time);
#else
        (void)time;
#endif
    }
    VerilatedContext& context_;
    Vatreides& top_;
    uint64_t cycle_ = 0;
#if defined(TRACE_FST) || defined(TRACE_VCD)
    Trace trace_;
    std::string path_;
    uint64_t from_, to_;
#endif
};

void write_file(const char* path, const std::vector<const Bytes*>& parts) {
    std::FILE* file = std::fopen(path, "wb");
    if (!file) fail(2, std::string("cannot write ") + path);
    for (const Bytes* part : parts)
        if (std::fwrite(part->data(), 1, part->size(), file) != part->size())
            fail(2, std::string("cannot write ") + path);
    if (std::fclose(file)) fail(2, std::string("cannot write ") + path);
}

Bytes words(const std::vector<uint64_t>& values) {
    Bytes bytes(values.size() * sizeof(uint64_t));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) fail(2, "JOB RESULT must be given");
    const Bytes content = read_file(argv[1]);
    Reader job(content);
    size_t bytes[4];
    for (auto& b : bytes) b = job.word();
    const unsigned kind_bit = job.word();
    const unsigned read_code = job.word();
    const unsigned offer = job.word(), take = job.word();
    Random random(job.word());
    const uint64_t limit = job.word(), phases = job.word();

    VerilatedContext context;
#if defined(TRACE_FST) || defined(TRACE_VCD)
    context.traceEverOn(true);
#endif
    Vatreides top(&context);
    Clock clock(context, top, argc, argv);
    Source host(top.host_payload, top.host_valid, top.host_ready, bytes[0], offer, random);
    Source instructions(top.instructions_payload, top.instructions_valid, top.instructions_ready,
                        bytes[1], offer, random);
    Sink results("results", top.results_payload, top.results_valid, top.results_ready, bytes[2],
                 take, random);
    Sink status("status", top.status_payload, top.status_valid, top.status_ready, bytes[3], take,
                random);

    for (uint64_t phase = 0; phase < phases; ++phase) {
        top.rst = job.word() != 0;
        const size_t host_count = job.word(), instruction_count = job.word();
        uint64_t reads = job.word(), statuses = job.word();
        host.start(job, host_count);
        instructions.start(job, instruction_count);
        for (int i = 0; top.rst && i < 2; ++i) {
            clock.settle();
            clock.tick();
        }
        top.rst = 0;
        const uint64_t started = clock.cycle();
        while (reads || statuses || !host.done() || !instructions.done()) {
            if (clock.cycle() - started >= limit)
                fail(3, "machine must be done within " + std::to_string(limit) + " cycles");
            host.drive();
            instructions.drive();
            results.drive();
            status.drive();
            clock.settle();
            host.observe();
            instructions.observe();
            if (const uint8_t* beat = results.observe(clock.cycle())) {
                const unsigned pair = beat[kind_bit / 8] |
                    (kind_bit / 8 + 1 < bytes[2] ? beat[kind_bit / 8 + 1] << 8 : 0);
                reads -= reads && (pair >> kind_bit % 8 & 3) == read_code;
            }
            statuses -= status.observe(clock.cycle()) != nullptr;
            clock.tick();
        }
        top.host_valid = top.instructions_valid = 0;
    }
    const Bytes counts = words({clock.cycle(), results.count(), status.count()});
    write_file(argv[2], {&counts, &results.all(), &status.all()});
    return 0;
}
