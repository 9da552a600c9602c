// Drives a verilated machine: loads, runs and reads back jobs, with no Python between the cycles.
//
// atreides-driver JOB RESULT [TRACE FROM TO]
// atreides-driver --serve [TRACE FROM TO]
//
// JOB is a binary file, little endian, of 64-bit words unless said otherwise:
//   payload bytes of host, instructions, results and status; lowest bit of the field `kind` of a
//   result; code of a reply to a read; chances of 100 that a source offers and that a sink takes;
//   seed; limit of cycles per phase;
//   then a block: number of phases; each phase: reset, host payloads, instructions, reads and
//   statuses to wait for, and the payloads' bytes.
// RESULT becomes: cycles up to now, number of results, number of statuses, and the payloads' bytes.
// With --serve the same comes on standard input, each part behind the number of its bytes: what is
// before the block, then any number of blocks. Each is answered on standard output, as in RESULT,
// behind the number of bytes too. The end of the input ends the program, within a block as well.
// Exit status: 0, 2 if the input is not as said, 3 with a sentence if the machine did wrong.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include <poll.h>
#include <unistd.h>

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
    void clear() { all_.clear(); }

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
    // `rest` are the arguments behind the input's.
    Clock(VerilatedContext& context, Vatreides& top, int count, char** rest)
        : context_(context), top_(top) {
#if defined(TRACE_FST) || defined(TRACE_VCD)
        if (count != 3) fail(2, "TRACE FROM TO must be given");
        path_ = rest[0];
        from_ = std::strtoull(rest[1], nullptr, 10);
        to_ = std::strtoull(rest[2], nullptr, 10);
        top_.trace(&trace_, 99);
#else
        if (count) fail(2, "JOB RESULT or --serve must be given");
        (void)rest;
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

void write_file(const char* path, const Bytes& content) {
    std::FILE* file = std::fopen(path, "wb");
    if (!file) fail(2, std::string("cannot write ") + path);
    const bool written = std::fwrite(content.data(), 1, content.size(), file) == content.size();
    if (std::fclose(file) || !written) fail(2, std::string("cannot write ") + path);
}

void append(Bytes& bytes, std::initializer_list<uint64_t> values) {
    for (uint64_t value : values) {
        uint8_t part[sizeof value];
        std::memcpy(part, &value, sizeof value);
        bytes.insert(bytes.end(), part, part + sizeof value);
    }
}

// Reads all bytes from standard input; false at its end.
bool receive(void* to, size_t count) { return std::fread(to, 1, count, stdin) == count; }

bool receive_part(Bytes& part) {
    uint64_t size;
    if (!receive(&size, sizeof size)) return false;
    part.resize(size);
    return receive(part.data(), size);
}

// Whether nobody can write to standard input any more; nothing is to be read from it now.
bool abandoned() {
    pollfd input = {STDIN_FILENO, 0, 0};
    return poll(&input, 1, 0) > 0 && input.revents & (POLLHUP | POLLERR | POLLNVAL);
}

// What a job says before its phases.
struct Header {
    size_t bytes[4];
    unsigned kind_bit, read_code, offer, take;
    uint64_t seed, limit;
    explicit Header(Reader& job) {
        for (auto& b : bytes) b = job.word();
        kind_bit = job.word();
        read_code = job.word();
        offer = job.word();
        take = job.word();
        seed = job.word();
        limit = job.word();
    }
};

// A machine and the host's side of its streams.
class Host {
public:
    Host(const Header& header, bool serves, int count, char** rest)
        : header_(header), serves_(serves), random_(header.seed), top_(&traced(context_)),
          clock_(context_, top_, count, rest),
          host_(top_.host_payload, top_.host_valid, top_.host_ready, header.bytes[0], header.offer,
                random_),
          instructions_(top_.instructions_payload, top_.instructions_valid,
                        top_.instructions_ready, header.bytes[1], header.offer, random_),
          results_("results", top_.results_payload, top_.results_valid, top_.results_ready,
                   header.bytes[2], header.take, random_),
          status_("status", top_.status_payload, top_.status_valid, top_.status_ready,
                  header.bytes[3], header.take, random_) {}

    // Runs the phases of a block; what the machine sent in them.
    Bytes run(Reader& block) {
        results_.clear();
        status_.clear();
        for (uint64_t phases = block.word(); phases; --phases) run_phase(block);
        Bytes found;
        append(found, {clock_.cycle(), results_.count(), status_.count()});
        for (const Bytes* part : {&results_.all(), &status_.all()})
            found.insert(found.end(), part->begin(), part->end());
        return found;
    }

private:
    static VerilatedContext& traced(VerilatedContext& context) {
#if defined(TRACE_FST) || defined(TRACE_VCD)
        context.traceEverOn(true);
#endif
        return context;
    }

    void run_phase(Reader& block) {
        top_.rst = block.word() != 0;
        const size_t host_count = block.word(), instruction_count = block.word();
        uint64_t reads = block.word(), statuses = block.word();
        host_.start(block, host_count);
        instructions_.start(block, instruction_count);
        for (int i = 0; top_.rst && i < 2; ++i) {
            clock_.settle();
            clock_.tick();
        }
        top_.rst = 0;
        const uint64_t started = clock_.cycle();
        while (reads || statuses || !host_.done() || !instructions_.done()) {
            const uint64_t cycles = clock_.cycle() - started;
            if (cycles >= header_.limit)
                fail(3, "machine must be done within " + std::to_string(header_.limit) + " cycles");
            if (serves_ && !(cycles & 0xffff) && abandoned()) std::exit(0);
            host_.drive();
            instructions_.drive();
            results_.drive();
            status_.drive();
            clock_.settle();
            host_.observe();
            instructions_.observe();
            if (const uint8_t* beat = results_.observe(clock_.cycle())) reads -= reads && reply(beat);
            statuses -= status_.observe(clock_.cycle()) != nullptr;
            clock_.tick();
        }
        top_.host_valid = top_.instructions_valid = 0;
    }

    // Whether a beat of the results replies to a read.
    bool reply(const uint8_t* beat) const {
        const unsigned first = header_.kind_bit / 8, bit = header_.kind_bit % 8;
        const unsigned pair = beat[first] | (first + 1 < header_.bytes[2] ? beat[first + 1] << 8 : 0);
        return (pair >> bit & 3) == header_.read_code;
    }

    const Header header_;
    const bool serves_;
    Random random_;
    VerilatedContext context_;
    Vatreides top_;
    Clock clock_;
    Source<std::remove_reference_t<decltype(Vatreides::host_payload)>> host_;
    Source<std::remove_reference_t<decltype(Vatreides::instructions_payload)>> instructions_;
    Sink<std::remove_reference_t<decltype(Vatreides::results_payload)>> results_;
    Sink<std::remove_reference_t<decltype(Vatreides::status_payload)>> status_;
};

int serve(int count, char** rest) {
    Bytes part;
    if (!receive_part(part)) return 0;
    Reader first(part);
    Host host(Header(first), true, count, rest);
    while (receive_part(part)) {
        Reader block(part);
        const Bytes found = host.run(block);
        const uint64_t size = found.size();
        std::fwrite(&size, sizeof size, 1, stdout);
        std::fwrite(found.data(), 1, found.size(), stdout);
        if (std::fflush(stdout)) fail(2, "cannot write to standard output");
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1 && !std::strcmp(argv[1], "--serve")) return serve(argc - 2, argv + 2);
    if (argc < 3) fail(2, "JOB RESULT or --serve must be given");
    const Bytes content = read_file(argv[1]);
    Reader job(content);
    const Header header(job);
    Host host(header, false, argc - 3, argv + 3);
    write_file(argv[2], host.run(job));
    return 0;
}
