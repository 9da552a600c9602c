"""Microcode: reset, the host's requests, and all instructions but GEMM and ADD.

The notation is that of ``hw.serial_assembly.assemble``. A subroutine keeps the address that it
returns to in a word of its own, so none calls itself.
"""

from __future__ import annotations

from typing import Final

HOST: Final = """
; after reset: no word of tile memory is known
var n p request address
        ld #1 | out STRIDE
        ld #0 | out TILE
        ld #WORDS | st n
clear:  ld #0 | out TILE_WRITE
        ld n | sub #1 | st n | jnz clear

idle:   ld #0 | out BUSY
poll:   in FLAGS | and #F_HOST | jnz host
        in FLAGS | and #F_INSTRUCTION | jz poll
        jmp program

host:   in HOST_CONTROL | st request
        in HOST_LOW | st address
        ld request | and #8 | jnz host_write

; a read: all lanes, of tile memory or zeros
        ld #COLUMNS | st n
lane:   ld address | out TILE | add #1 | st address
        ld request | and #7 | jnz none
        in TILE_WORD | jmp found
none:   ld #0
found:  out ROW_WORD
        ld n | sub #1 | st n | jnz lane
        ld request | and #7 | sub #COUNTERS | jnz reply
        in HOST_LOW | and #COUNTER_NUMBERS | sub #CYCLES | jnz reply
        out ROW_CYCLES
reply:  ; count, which is one more than what the request has
        ld request | shr 1 | and #COUNT_MASK | add #READ_BEAT | out HOST_TAKE | out BEAT
        jmp poll

host_write:
        ld request | and #7 | jz write_tiles
        sub #1 | jz write_columns
        sub #1 | jz write_rows
        jmp written

; words that leave the memory are ignored, all of them
write_tiles:
        ld request | shr 4 | st n
        in HOST_HIGH | jnz written
        ld address | out TILE | add n | jc written
        st p | ld #LAST_WORD | sub p | jnc written
        ld #1 | out STRIDE
        ld n | add #1 | st n
        ld #0 | st p
words:  ld p | out LANE | add #1 | st p
        in HOST_WORD | out TILE_WRITE
        ld n | sub #1 | st n | jnz words
        jmp written

write_columns:
        ld address | and #COLUMN_MASK | st address
        sub #COLUMN_ENTRIES | jnc column
        st address
column: ld address | add #columns | out POINTER
        in HOST_PARAMETER | st *
if WIDE_BIAS ld address | add #column_shifts | out POINTER
if WIDE_BIAS in HOST_SHIFT | st *
        jmp written

write_rows:
        ld address | and #ROW_MASK | add #rows | out POINTER
        in HOST_PARAMETER | and #255 | st *

written:
        out HOST_TAKE
        jmp poll
"""

INSTRUCTIONS: Final = """
; a program: registers at their defaults, buffers empty
var taken taken_high index index_high word last fault
var a_rows a_terms b_terms b_columns o_rows o_columns s_rows s_columns
program:
        ld #1 | out BUSY
        ld #0 | st taken | st taken_high | st p
        st a_rows | st b_terms | st o_rows | st s_rows
default:
        ld p | add #defaults | out POINTER | ld * | st n
        ld p | out POINTER | ld n | st *
        ld p | add #1 | st p | sub #REGISTERS | jnz default

fetch:  ld taken | st index
        ld taken_high | st index_high
        call next
        shr 12 | add #opcodes | out POINTER | ret *

; the next word, in A too
var next_return
next:   st next_return
        in INSTRUCTION | st word
        in FLAGS | and #F_LAST | st last
        out INSTRUCTION_TAKE
        ld taken | add #1 | st taken | jnc counted
        ld taken_high | add #1 | st taken_high
counted:
        ld word | ret next_return

; how instructions end
finish: ld last | jz fetch
ended:  ld #0 | st fault
        ld taken | out STATUS_LOW
        ld taken_high | out STATUS_HIGH
        jmp report
encoding:
        ld #ENCODING | jmp stop
size:   ld #SIZE | jmp stop
empty_buffer:
        ld #EMPTY_BUFFER | jmp stop
inner_size:
        ld #INNER_SIZE | jmp stop
no_result:
        ld #NO_RESULT | jmp stop
store_shape:
        ld #STORE_SHAPE | jmp stop
value:  ld #VALUE | jmp stop
range:  ld #RANGE | jmp stop
overlap:
        ld #OVERLAP | jmp stop
truncated:
        ld #TRUNCATED
stop:   st fault
        ld index | out STATUS_LOW
        ld index_high | out STATUS_HIGH
report: ld fault | out STATUS
discard:
        ld last | jnz offered
        call next
        jmp discard
offered:
        in FLAGS | and #F_STATUS | jnz offered
        jmp idle

nothing:
        ld word | and #0xfff | jnz encoding
        jmp finish
halt:   ld word | and #0xfff | jnz encoding
        jmp ended

; SET: its number, and two words
var number low
set_register:
        ld word | and #0xfc0 | jnz encoding
        ld word | and #63 | st number
        add #limits | out POINTER | ld * | sub #NO_REGISTER | jz encoding
        ld last | jnz truncated
        call next
        st low
        ld last | jnz truncated
        call next
        jnz value
        ld number | add #limits | out POINTER | ld * | and low | jnz value
        ld number | out POINTER | ld low | st *
        jmp finish

; LDR, LDC and STR: sizes first, then what is in ``address``
var row col tile_return i j
load_rows:
        call tile
        call slot
        ld row | st a_rows
        ld col | st a_terms
        ld #1 | out STRIDE
        ld #0 | st i
row_of_a:
        ld i | out LANE
        ld address | out TILE | add #COLUMNS | st address
        ld col | out LOAD
        ld i | add #1 | st i | sub row | jnz row_of_a
        jmp finish

load_columns:
        call tile
        call slot
        ld row | st b_terms
        ld col | st b_columns
        ld #COLUMNS | out STRIDE
        ld #0 | st j
column_of_b:
        ld j | add #SIDE_B | out LANE
        ld address | out TILE | add #1 | st address
        ld row | out LOAD
        ld j | add #1 | st j | sub col | jnz column_of_b
        jmp finish

store_tile:
        call tile
        ld s_rows | sub row | jnz store_shape
        ld s_columns | sub col | jnz store_shape
        call slot
        ld #1 | out STRIDE
        ld #activation | st p
        ld #0 | st i
row_of_s:
        ld address | out TILE | add #COLUMNS | st address
        ld #0 | st j
word_of_s:
        ld p | out POINTER | add #1 | st p
        ld * | out TILE_WRITE
        ld j | add #1 | st j | sub col | jnz word_of_s
        ld p | add #COLUMNS | sub col | st p
        ld i | add #1 | st i | sub row | jnz row_of_s
        jmp finish

tile:   st tile_return
        ld word | and #15 | jnz some_columns
        ld #16
some_columns:
        st col
        ld word | shr 4 | and #15 | jnz some_rows
        ld #16
some_rows:
        st row
        ld #ROWS | sub row | jnc size
        ld #COLUMNS | sub col | jnc size
        ret tile_return

slot:   st tile_return
        ld word | shr 8 | and #15 | add TILE_BASE | jc range
        st factor
        ld #LAST_SLOT | sub factor | jnc range
        ld #SLOT_WORDS | st times | call multiply
        ld product | st address
        ret tile_return

matmul: ld word | and #0xfff | jnz encoding
        ld a_rows | jz empty_buffer
        ld b_terms | jz empty_buffer
        sub a_terms | jnz inner_size
        ld a_rows | st o_rows
        ld b_columns | st o_columns
        ld a_terms | add #FIRST | out GO
        ld #0 | st a_rows | st b_terms
        jmp finish

; RELU and LIN: the array's output to the activation buffer
var activation_code
drain_relu:
        ld #relu | jmp drain_output
drain_linear:
        ld #linear
drain_output:
        st activation_code
        ld word | and #0xfff | jnz encoding
        ld o_rows | jz no_result
        st s_rows
        ld o_columns | st s_columns
        ld #0 | out SHIFTS | out BIAS
        ld #activation | st p
        ld #0 | st i
row_of_o:
        ld #0 | st j
word_of_o:
        call element
        ld p | out POINTER | add #1 | st p
        ld drained | st *
        ld j | add #1 | st j | sub o_columns | jnz word_of_o
        ld p | add #COLUMNS | sub o_columns | st p
        ld i | add #1 | st i | sub o_rows | jnz row_of_o
        jmp finish

; cell (i, j) through the drain and the activation
var drained element_return limit
element:
        st element_return
        ld i | out LANE
        add j | add #SUM_DELAY | out DRAIN
        in DRAINED | st drained
        ret activation_code
linear: ret element_return

; an activation takes as long whatever the word is
relu:   and #SIGN | jz positive
        ld #0 | st drained
        ret element_return
positive:
        ld #0 | ld #0
        ret element_return
clamp:  and #SIGN | jz not_negative
        ld #0 | jmp lowest
not_negative:
        ld drained | ld drained
lowest: st drained
        ld limit | sub drained | jc within
        ld limit | st drained
        ret element_return
within: ld #0 | ld #0
        ret element_return

; product = factor * times; overflow = 1 if it has more than 16 bits, else it is left as it was
var factor times product overflow multiply_return large
multiply:
        st multiply_return
        ld #0 | st product | st large
bit:    ld times | jz multiplied
        shr 1 | st times | jnc double
        ld overflow | or large | st overflow
        ld product | add factor | st product | jnc double
        ld #1 | st overflow
double: ld factor | add factor | st factor | jnc bit
        ld #1 | st large
        jmp bit
multiplied:
        ret multiply_return
"""
