/* One MATMUL from a RISC-V core, then the same product as exact sums on the result stream.
 *
 * riscv64-unknown-elf-gcc -march=rv32i -mabi=ilp32 -ffreestanding -nostdlib; SF8, 2 x 2 array. What
 * it finds goes to the word at FOUND.
 */
#include "atreides.h"

#define FOUND (*(volatile uint32_t *)0x10000000)

/* 1/2, 1/4; -1/2, 1/8 and 1/2, -1; -1/2, 1/2: sign and magnitude, seven fraction bits. */
static void load(void) {
  static const uint8_t a[4] = {0x40, 0x20, 0xc0, 0x10}, b[4] = {0x40, 0xff, 0xc0, 0x40};
  for (uint32_t i = 0; i < 4; i++) {
    atreides_write_word(i, a[i]);
    atreides_write_word(4 + i, b[i]);
  }
}

int main(void) {
  load();
  ATREIDES_LDR(0, 2, 2);
  ATREIDES_LDC(1, 2, 2);
  ATREIDES_MATMUL();
  ATREIDES_RELU();
  ATREIDES_STR(2, 2, 2);
  FOUND = atreides_end();
  for (uint32_t i = 8; i < 12; i++) {
    FOUND = atreides_read_word(i);
  }
  ATREIDES_SET(ATREIDES_REGISTER_K0, 2);
  ATREIDES_SET(ATREIDES_REGISTER_NL, 2);
  ATREIDES_SET(ATREIDES_REGISTER_B_BASE, 4);
  ATREIDES_SET(ATREIDES_REGISTER_B_K0, 2);
  ATREIDES_GEMM(ATREIDES_TO_EXACT, ATREIDES_ACTIVATION_LINEAR, 0);
  atreides_take();
  FOUND = (uint32_t)atreides_lane(0);
  FOUND = (uint32_t)atreides_lane(1);
  atreides_end();
  return 0;
}
