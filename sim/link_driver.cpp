// A machine with a serial line in Verilator: bytes of the line as they come through pipes.
//
// Input, all numbers 8 bytes, lowest first: the cycles per bit of the line; then requests, each a
// count of bytes to send, these bytes, and the cycles that the line may be silent before the answer.
// An answer: the cycles so far, a count of bytes received, these bytes. A request with nothing to
// wait for (0) sends nothing yet and has no answer. A request's answer comes when the line has been
// silent for two bytes' time after a byte, or for the given cycles after all is sent.

#include <cstdint>
#include <cstdio>
#include <deque>
#include <vector>

#include "Vatreides.h"
#include "verilated.h"

namespace {

bool read_exactly(void* target, size_t size) { return fread(target, 1, size, stdin) == size; }

void write_number(uint64_t value) { fwrite(&value, 1, sizeof value, stdout); }

class Line {
public:
    explicit Line(uint64_t divisor) : divisor_(divisor), top_(&context_) {
        top_.rx = 1;
        top_.rst = 1;
        step();
        step();
        top_.rst = 0;
    }

    void send(const std::vector<uint8_t>& bytes) {
        waiting_.insert(waiting_.end(), bytes.begin(), bytes.end());
    }

    std::vector<uint8_t> receive(uint64_t silence) {
        std::vector<uint8_t> found;
        uint64_t quiet = 0;
        const uint64_t pause = 20 * divisor_;
        while (quiet < (found.empty() ? silence : pause)) {
            transmit();
            step();
            const bool active = sending_bits_ != 0 || !waiting_.empty() || receiving_bits_ != 0;
            quiet = active ? 0 : quiet + 1;
            int byte = sample();
            if (byte >= 0) found.push_back(static_cast<uint8_t>(byte));
        }
        return found;
    }

    uint64_t cycles() const { return cycles_; }

private:
    void step() {
        top_.clk = 0;
        top_.eval();
        top_.clk = 1;
        top_.eval();
        ++cycles_;
    }

    // Start bit, data, stop bit, a bit per divisor_ cycles.
    void transmit() {
        if (sending_timer_ > 0) {
            --sending_timer_;
            return;
        }
        if (sending_bits_ == 0) {
            if (waiting_.empty()) return;
            sending_ = 0x200u | static_cast<uint32_t>(waiting_.front()) << 1;
            waiting_.pop_front();
            sending_bits_ = 10;
        }
        top_.rx = sending_ & 1;
        sending_ >>= 1;
        --sending_bits_;
        sending_timer_ = divisor_ - 1;
    }

    // A byte of the machine's, -1 if none ends in this cycle.
    int sample() {
        if (receiving_bits_ == 0) {
            if (top_.tx) return -1;
            receiving_bits_ = 10;
            receiving_timer_ = divisor_ / 2;
            received_ = 0;
        }
        if (receiving_timer_ > 0) {
            --receiving_timer_;
            return -1;
        }
        received_ |= static_cast<uint32_t>(top_.tx) << (10 - receiving_bits_);
        receiving_timer_ = divisor_ - 1;
        if (--receiving_bits_ > 0) return -1;
        if ((received_ & 0x201u) != 0x200u) {
            fprintf(stderr, "tx must send a start bit and a stop bit, not %03x\n", received_);
            exit(1);
        }
        return (received_ >> 1) & 0xff;
    }

    const uint64_t divisor_;
    VerilatedContext context_;
    Vatreides top_;
    std::deque<uint8_t> waiting_;
    uint32_t sending_ = 0, received_ = 0;
    uint64_t sending_bits_ = 0, sending_timer_ = 0, receiving_bits_ = 0, receiving_timer_ = 0;
    uint64_t cycles_ = 0;
};

}  // namespace

int main() {
    uint64_t divisor = 0, count = 0, silence = 0;
    if (!read_exactly(&divisor, sizeof divisor)) return 0;
    Line line(divisor);
    while (read_exactly(&count, sizeof count)) {
        std::vector<uint8_t> bytes(count);
        if (count && !read_exactly(bytes.data(), count)) return 1;
        if (!read_exactly(&silence, sizeof silence)) return 1;
        line.send(bytes);
        if (silence == 0) continue;
        const auto found = line.receive(silence);
        write_number(line.cycles());
        write_number(found.size());
        fwrite(found.data(), 1, found.size(), stdout);
        fflush(stdout);
    }
    return 0;
}
