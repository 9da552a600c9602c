// Working memory that lives from call to call: the first touch of a page costs more than packing it.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

// At least `bytes` bytes for the calling thread, aligned to cache lines, not initialised; valid until
// its next call. Up to 64 MiB stay with the thread, larger blocks only until then.
inline std::byte* scratch(std::size_t bytes) {
    struct Free {
        void operator()(std::byte* block) const { ::operator delete(block, std::align_val_t{64}); }
    };
    thread_local std::unique_ptr<std::byte, Free> block;
    thread_local std::size_t size = 0;
    if (bytes > size || size > (std::size_t{64} << 20)) {
        block.reset();
        size = 0;
        block.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64})));
        size = bytes;
    }
    return block.get();
}
