// The matrix extension's instructions in plain C++, so that its kernels run on any processor.
//
// Included before the kernels (g++ -include), with eight tile registers per thread. Semantics from
// Intel's instruction set reference: TILELOADD, TILESTORED, TILEZERO, TDPB[SU][SU]D, TDPBF16PS.
#pragma once

#define __AMX_TILE__ 1
#define __AMX_BF16__ 1
#define __AMX_INT8__ 1

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cstdint>
#include <cstring>

namespace amx_emulation {

struct Tile {
    std::uint8_t bytes[16][64];
};
inline thread_local Tile tiles[8];
inline thread_local bool is_configured = false;

inline void configure(const void* configuration) {
    const auto* bytes = static_cast<const std::uint8_t*>(configuration);
    is_configured = bytes[0] == 1;
    for (int tile = 0; tile < 8; ++tile)  // whole tiles only: 64 bytes, 16 rows
        is_configured &= bytes[16 + 2 * tile] == 64 && bytes[48 + tile] == 16;
}

inline void release() { is_configured = false; }

inline Tile& at(int tile) {
    if (!is_configured) __builtin_trap();
    return tiles[tile];
}

inline void load(int tile, const void* from, long stride) {
    for (int i = 0; i < 16; ++i)
        std::memcpy(at(tile).bytes[i], static_cast<const char*>(from) + i * stride, 64);
}

inline void store(int tile, void* to, long stride) {
    for (int i = 0; i < 16; ++i)
        std::memcpy(static_cast<char*>(to) + i * stride, at(tile).bytes[i], 64);
}

inline void clear(int tile) { at(tile) = {}; }

template <class A, class B>
void multiply_bytes(int sums, int a, int b) {
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) {
            std::uint32_t sum;
            std::memcpy(&sum, at(sums).bytes[i] + 4 * j, 4);
            for (int k = 0; k < 64; ++k)
                sum += static_cast<std::uint32_t>(static_cast<A>(at(a).bytes[i][k]) *
                                                  static_cast<B>(at(b).bytes[k / 4][4 * j + k % 4]));
            std::memcpy(at(sums).bytes[i] + 4 * j, &sum, 4);
        }
}

inline float half(const std::uint8_t* bytes) {
    std::uint16_t code;
    std::memcpy(&code, bytes, 2);
    return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 16);
}

inline void multiply_halves(int sums, int a, int b) {
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) {
            float sum;
            std::memcpy(&sum, at(sums).bytes[i] + 4 * j, 4);
            for (int k = 0; k < 32; ++k)
                sum += half(at(a).bytes[i] + 2 * k) * half(at(b).bytes[k / 2] + 4 * j + k % 2 * 2);
            std::memcpy(at(sums).bytes[i] + 4 * j, &sum, 4);
        }
}

}  // namespace amx_emulation

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbssd
#undef _tile_dpbsud
#undef _tile_dpbusd
#undef _tile_dpbuud
#undef _tile_dpbf16ps
#define _tile_loadconfig(from) amx_emulation::configure(from)
#define _tile_release() amx_emulation::release()
#define _tile_loadd(tile, from, stride) amx_emulation::load(tile, from, stride)
#define _tile_stored(tile, to, stride) amx_emulation::store(tile, to, stride)
#define _tile_zero(tile) amx_emulation::clear(tile)
#define _tile_dpbssd(d, a, b) amx_emulation::multiply_bytes<std::int8_t, std::int8_t>(d, a, b)
#define _tile_dpbsud(d, a, b) amx_emulation::multiply_bytes<std::int8_t, std::uint8_t>(d, a, b)
#define _tile_dpbusd(d, a, b) amx_emulation::multiply_bytes<std::uint8_t, std::int8_t>(d, a, b)
#define _tile_dpbuud(d, a, b) amx_emulation::multiply_bytes<std::uint8_t, std::uint8_t>(d, a, b)
#define _tile_dpbf16ps(d, a, b) amx_emulation::multiply_halves(d, a, b)
// Linux is asked for the tile registers by a system call, the only one in the kernels.
#define syscall(...) 0L
