/* The machine's instructions as RV32 custom instructions.
 * Made by `python -m sw.riscv`; do not edit.
 *
 * A program is what lies between one atreides_end() and the next. Tile memory, parameters and table
 * are written and read between programs: within one, that is an illegal instruction. The rows that
 * a GEMM sends to the stream must be taken before the next instruction is given; atreides_end()
 * drops what was not taken.
 */
#ifndef ATREIDES_H
#define ATREIDES_H

#include <stdint.h>

enum {
  ATREIDES_REGISTER_MX = 0,
  ATREIDES_REGISTER_MY = 1,
  ATREIDES_REGISTER_K0 = 2,
  ATREIDES_REGISTER_K1 = 3,
  ATREIDES_REGISTER_K2 = 4,
  ATREIDES_REGISTER_NT = 5,
  ATREIDES_REGISTER_NL = 6,
  ATREIDES_REGISTER_G = 7,
  ATREIDES_REGISTER_A_BASE = 8,
  ATREIDES_REGISTER_A_X = 9,
  ATREIDES_REGISTER_A_Y = 10,
  ATREIDES_REGISTER_A_K0 = 11,
  ATREIDES_REGISTER_A_K1 = 12,
  ATREIDES_REGISTER_A_K2 = 13,
  ATREIDES_REGISTER_A_N = 14,
  ATREIDES_REGISTER_A_G = 15,
  ATREIDES_REGISTER_B_BASE = 16,
  ATREIDES_REGISTER_B_X = 17,
  ATREIDES_REGISTER_B_K0 = 19,
  ATREIDES_REGISTER_B_K1 = 20,
  ATREIDES_REGISTER_B_K2 = 21,
  ATREIDES_REGISTER_B_N = 22,
  ATREIDES_REGISTER_B_G = 23,
  ATREIDES_REGISTER_O_BASE = 24,
  ATREIDES_REGISTER_O_X = 25,
  ATREIDES_REGISTER_O_Y = 26,
  ATREIDES_REGISTER_O_N = 27,
  ATREIDES_REGISTER_O_G = 28,
  ATREIDES_REGISTER_P_COLUMN = 32,
  ATREIDES_REGISTER_P_COLUMN_G = 33,
  ATREIDES_REGISTER_P_ROW = 34,
  ATREIDES_REGISTER_P_ROW_G = 35,
  ATREIDES_REGISTER_CLAMP = 36,
  ATREIDES_REGISTER_A_MODE = 40,
  ATREIDES_REGISTER_B_MODE = 41,
  ATREIDES_REGISTER_TILE_BASE = 42,
};
enum {
  ATREIDES_TO_MEMORY = 0,
  ATREIDES_TO_STREAM = 1,
  ATREIDES_TO_EXACT = 2,
};
enum {
  ATREIDES_ACTIVATION_LINEAR = 0,
  ATREIDES_ACTIVATION_RELU = 1,
  ATREIDES_ACTIVATION_CLAMP = 2,
  ATREIDES_ACTIVATION_TABLE = 3,
};
enum {
  ATREIDES_FLAG_SKIP = 1,
  ATREIDES_FLAG_COLUMN = 2,
  ATREIDES_FLAG_ROW = 4,
  ATREIDES_FLAG_BLOCK = 8,
};
enum {
  ATREIDES_FAULT_NONE = 0,  /* no fault */
  ATREIDES_FAULT_ENCODING = 1,  /* undefined encoding */
  ATREIDES_FAULT_SIZE = 2,  /* size larger than the array */
  ATREIDES_FAULT_EMPTY_BUFFER = 3,  /* MATMUL with an empty buffer */
  ATREIDES_FAULT_INNER_SIZE = 4,  /* inner sizes differ */
  ATREIDES_FAULT_NO_RESULT = 5,  /* RELU or LIN before any MATMUL */
  ATREIDES_FAULT_STORE_SHAPE = 6,  /* store of a shape that was not computed */
  ATREIDES_FAULT_VALUE = 7,  /* value that its register cannot hold */
  ATREIDES_FAULT_RANGE = 8,  /* address beyond the tile memory */
  ATREIDES_FAULT_OVERLAP = 9,  /* result that overlaps an operand */
  ATREIDES_FAULT_TRUNCATED = 10,  /* program that ends within an instruction */
};
enum {
  ATREIDES_COUNTER_CYCLES = 0,
  ATREIDES_COUNTER_MATMUL_CYCLES = 1,
  ATREIDES_COUNTER_COMPUTE_CYCLES = 2,
  ATREIDES_COUNTER_MACS = 3,
  ATREIDES_COUNTER_SLICES = 4,
  ATREIDES_COUNTER_SKIPPED_SLICES = 5,
  ATREIDES_COUNTER_STALL_A = 6,
  ATREIDES_COUNTER_STALL_B = 7,
  ATREIDES_COUNTER_STALL_DRAIN = 8,
  ATREIDES_COUNTER_STALL_RESULTS = 9,
  ATREIDES_COUNTER_ZERO_OPERANDS = 10,
  ATREIDES_COUNTER_HELD_OPERANDS = 11,
  ATREIDES_COUNTER_UNITY_OPERANDS = 12,
  ATREIDES_COUNTER_INSTRUCTIONS = 13,
  ATREIDES_COUNTER_WORDS_WRITTEN = 14,
};
enum {
  ATREIDES_TILES = 0,
  ATREIDES_COLUMN_PARAMETERS = 1,
  ATREIDES_ROW_PARAMETERS = 2,
  ATREIDES_TABLE = 3,
  ATREIDES_COUNTERS = 4,
};
enum {
  ATREIDES_KIND_WORDS = 0,
  ATREIDES_KIND_EXACT = 1,
  ATREIDES_KIND_READ = 2,
};

/* Instructions of one word. Operands are constants; a size of 16 is 0. */
#define ATREIDES_INSTRUCTION(opcode, op1, op2, op3) \
  __asm__ volatile(".insn r 0x0b, 0, %0, x%1, x%2, x%3" \
                   : : "i"(opcode), "i"(op1), "i"(op2), "i"(op3) : "memory")
#define ATREIDES_NOP() ATREIDES_INSTRUCTION(0, 0, 0, 0)
#define ATREIDES_STR(op1, op2, op3) ATREIDES_INSTRUCTION(1, op1, op2, op3)
#define ATREIDES_LDR(op1, op2, op3) ATREIDES_INSTRUCTION(2, op1, op2, op3)
#define ATREIDES_LDC(op1, op2, op3) ATREIDES_INSTRUCTION(3, op1, op2, op3)
#define ATREIDES_MATMUL() ATREIDES_INSTRUCTION(4, 0, 0, 0)
#define ATREIDES_RELU() ATREIDES_INSTRUCTION(5, 0, 0, 0)
#define ATREIDES_LIN() ATREIDES_INSTRUCTION(6, 0, 0, 0)
#define ATREIDES_GEMM(op1, op2, op3) ATREIDES_INSTRUCTION(8, op1, op2, op3)
#define ATREIDES_ADD(op1, op2, op3) ATREIDES_INSTRUCTION(9, op1, op2, op3)
#define ATREIDES_FENCE() ATREIDES_INSTRUCTION(12, 0, 0, 0)

/* SET: the register is a constant. */
#define ATREIDES_SET(register_number, value) \
  __asm__ volatile(".insn r 0x0b, 1, %0, x0, %1, x0" \
                   : : "i"(register_number), "r"((uint32_t)(value)) : "memory")

/* Ends the program and waits: the fault, 0 for none. */
static inline uint32_t atreides_end(void) {
  uint32_t fault;
  __asm__ volatile(".insn r 0x0b, 2, 0, %0, x0, x0" : "=r"(fault) : : "memory");
  return fault;
}

/* Words that the program before took, or the index of the instruction that faulted. */
static inline uint32_t atreides_counter(void) {
  uint32_t counter;
  __asm__ volatile(".insn r 0x0b, 2, 1, %0, x0, x0" : "=r"(counter) : : "memory");
  return counter;
}

#define ATREIDES_WRITE(space, address, data) \
  __asm__ volatile(".insn r 0x0b, 3, %0, x0, %1, %2" \
                   : : "i"(space), "r"((uint32_t)(address)), "r"((uint32_t)(data)) : "memory")

#define ATREIDES_READ(result, space, address) \
  __asm__ volatile(".insn r 0x0b, 4, %1, %0, %2, x0" \
                   : "=r"(result) : "i"(space), "r"((uint32_t)(address)) : "memory")

/* One word of tile memory. */
static inline void atreides_write_word(uint32_t address, uint32_t word) {
  ATREIDES_WRITE(ATREIDES_TILES, address, word);
}

static inline uint32_t atreides_read_word(uint32_t address) {
  uint32_t word;
  ATREIDES_READ(word, ATREIDES_TILES, address);
  return word;
}

static inline uint64_t atreides_read_counter(uint32_t number) {
  uint32_t low, high;
  ATREIDES_READ(low, ATREIDES_COUNTERS, number);
  ATREIDES_READ(high, ATREIDES_COUNTERS + 8, number);
  return (uint64_t)high << 32 | low;
}

/* Bias and shift of a column; address is entry * columns + column. */
static inline void atreides_write_column(uint32_t address, uint32_t bias, int8_t shift) {
  ATREIDES_WRITE(ATREIDES_COLUMN_PARAMETERS, address, bias | (uint32_t)(uint8_t)shift << 16);
}

/* The next row of the result stream: how many lanes it has. */
static inline uint32_t atreides_take(void) {
  uint32_t row;
  __asm__ volatile(".insn r 0x0b, 5, 0, %0, x0, x0" : "=r"(row) : : "memory");
  return row & 0xff;
}

/* A lane of that row, a word or an exact sum. */
static inline int64_t atreides_lane(uint32_t lane) {
  uint32_t low, high;
  __asm__ volatile(".insn r 0x0b, 6, 0, %0, %1, x0" : "=r"(low) : "r"(lane));
  __asm__ volatile(".insn r 0x0b, 6, 1, %0, %1, x0" : "=r"(high) : "r"(lane));
  return (int64_t)((uint64_t)high << 32 | low);
}

#endif
