"""Microcode: the loops of GEMM and ADD, after their checks.

Per batch, rows of tiles, column tile: the lanes of a chunk of at most DEPTH terms are loaded one
after the other, then all of its slices go to the array; after the last, cell by cell is drained.
"""

from __future__ import annotations

from typing import Final

GEMM: Final = """
var g_left a_g b_g o_g column_g row_g
var m_left x a_row a_y o_row o_y row_m rows_used
var t_left a_t b_t o_t column_t columns_used
var first k2_left a_k2 b_k2 k1_left a_k1 b_k1 k0_left k0 a_k0 b_k0 chunk
var a_stride b_stride a_chunk b_chunk shifts
checked:
        ld CLAMP | and #SIGN | jnz no_limit
        ld CLAMP
        jmp limited
no_limit:
        ld #0
limited:
        st limit
        ld function | add #activations | out POINTER | ld * | st activation_code

; strides along k0, and from chunk to chunk
        ld A_MODE | jz a_lanes
        ld A_K0 | jmp a_strides
a_lanes:
        ld #1
a_strides:
        st a_stride | st factor
        ld #DEPTH | st times | call multiply
        ld product | st a_chunk
        ld b_mode | jz b_slices
        ld #1 | jmp b_strides
b_slices:
        ld B_K0
b_strides:
        st b_stride | st factor
        ld #DEPTH | st times | call multiply
        ld product | st b_chunk

; where the columns of B begin
        ld #0 | st n | st j
columns_of_b:
        ld j | add #column_offsets | out POINTER | ld n | st *
        ld b_mode | jz next_to_it
        ld n | add B_X | jmp column_found
next_to_it:
        ld n | add #1
column_found:
        st n
        ld j | add #1 | st j | sub #COLUMNS | jnz columns_of_b

        ld G | st g_left
        ld A_BASE | st a_g
        ld B_BASE | st b_g
        ld O_BASE | st o_g
        ld P_COLUMN | st column_g
        ld P_ROW | st row_g

next_g: ld m_rows | st m_left
        ld #0 | st x | st a_row | st a_y | st o_row | st o_y
        ld row_g | st row_m

; rows of this tile, and where they begin
next_m: ld m_left | sub #ROWS | jc full
        ld m_left | jmp rows_known
full:   ld #ROWS
rows_known:
        st rows_used
        ld #0 | st i
next_row:
        ld i | add #row_offsets | out POINTER | ld a_row | st *
        ld i | add #output_offsets | out POINTER | ld o_row | st *
        ld x | add #1 | st x | sub MX | jz next_y
        ld o_row | add O_X | st o_row
        ld a_row | add A_X | jmp moved
next_y: st x
        ld o_y | add O_Y | st o_y | st o_row
        ld a_y | add A_Y | st a_y
moved:  st n
        ld A_MODE | jz moved_in_lanes
        ld a_row | add #1 | st n
moved_in_lanes:
        ld n | st a_row
        ld i | add #1 | st i | sub rows_used | jnz next_row

        ld NT | st t_left
        ld a_g | st a_t
        ld b_g | st b_t
        ld o_g | st o_t
        ld column_g | st column_t

next_t: ld #COLUMNS | st columns_used
        ld t_left | sub #1 | jnz columns_known
        ld NL | st columns_used
columns_known:
        ld #FIRST | st first
        ld K2 | st k2_left
        ld a_t | st a_k2
        ld b_t | st b_k2
next_k2:
        ld K1 | st k1_left
        ld a_k2 | st a_k1
        ld b_k2 | st b_k1
next_k1:
        ld K0 | st k0_left
        ld #0 | st k0
        ld a_k1 | st a_k0
        ld b_k1 | st b_k0
next_k0:
        ld k0_left | sub #DEPTH | jc whole
        ld k0_left | jmp chunk_known
whole:  ld #DEPTH
chunk_known:
        st chunk

        ld a_stride | out STRIDE
        ld #0 | st i
lane_of_a:
        ld i | out LANE
        add #row_offsets | out POINTER
        ld * | add a_k0 | out TILE
        ld chunk | out LOAD
        ld i | add #1 | st i | sub rows_used | jnz lane_of_a

        ld #0 | st j
        ld b_mode | sub #IDENTITY | jz identity
        ld b_stride | out STRIDE
lane_of_b:
        ld j | add #SIDE_B | out LANE
        ld j | add #column_offsets | out POINTER
        ld * | add b_k0 | out TILE
        ld chunk | out LOAD
        ld j | add #1 | st j | sub columns_used | jnz lane_of_b
        jmp loaded

; 2**-S in lane j where k0 = j
identity:
        ld k1_left | sub K1 | jnz later
        ld B_K0 | jmp shift_known
later:  ld B_K1
shift_known:
        and #15 | add #powers | out POINTER | ld * | st p
lane_of_i:
        ld j | add #SIDE_B | out LANE
        ld k0 | st n
        ld chunk | st times
word_of_i:
        ld n | sub j | jz one
        ld #0 | jmp zero
one:    ld p
zero:   out LANE_WRITE
        ld n | add #1 | st n
        ld times | sub #1 | st times | jnz word_of_i
        ld j | add #1 | st j | sub columns_used | jnz lane_of_i

loaded: ld chunk | add first | out GO
        ld #0 | st first
        ld a_k0 | add a_chunk | st a_k0
        ld b_k0 | add b_chunk | st b_k0
        ld k0 | add chunk | st k0
        ld k0_left | sub chunk | st k0_left | jnz next_k0
        ld a_k1 | add A_K1 | st a_k1
        ld b_k1 | add B_K1 | st b_k1
        ld k1_left | sub #1 | st k1_left | jnz next_k1
        ld a_k2 | add A_K2 | st a_k2
        ld b_k2 | add B_K2 | st b_k2
        ld k2_left | sub #1 | st k2_left | jnz next_k2

; the entry of the tile's column parameters
        ld column_t | and #COLUMN_ENTRY_MASK | st factor
        ld #COLUMNS | st times | call multiply
        ld product | add #columns | st p
        ld #1 | out STRIDE
        ld #0 | st i
row_out:
        ld i | add #output_offsets | out POINTER
        ld * | add o_t | out TILE
        ld flags | and #ROW | jz no_row_shift
        ld row_m | add i | and #ROW_MASK | add #rows | out POINTER
        ld * | jmp row_shift
no_row_shift:
        ld #0
row_shift:
        st shifts | out SHIFTS
        ld #0 | out BIAS | st j
word_out:
        ld flags | and #COLUMN | jz no_column
        ld p | add j | out POINTER
        ld * | out BIAS
unless WIDE_BIAS and #0xff00 | or shifts | out SHIFTS
if WIDE_BIAS ld p | add j | add #BEHIND_BIAS | out POINTER
if WIDE_BIAS ld * | or shifts | out SHIFTS
no_column:
        call element
        ld dest | jz to_memory
        sub #EXACT | jz sum_out
        ld drained | out ROW_WORD
        jmp word_done
sum_out:
        out ROW_SUM
        jmp word_done
to_memory:
        ld drained | out TILE_WRITE
word_done:
        ld j | add #1 | st j | sub columns_used | jnz word_out
        ld dest | jz row_done

; a row of results: lanes that are not used, then what it is
        ld columns_used | sub #COLUMNS | st n | jz beat
unused: ld #0 | out ROW_WORD
        ld n | add #1 | st n | jnz unused
beat:   ld columns_used | add columns_used | st n
        add n | st n
        add n | add dest | sub #1 | st n
        ld g_left | sub #1 | jnz not_last
        ld t_left | sub #1 | jnz not_last
        ld m_left | sub #1 | sub i | jnz not_last
        ld n | add #LAST | st n
not_last:
        ld n | out BEAT
row_done:
        ld i | add #1 | st i | sub rows_used | jnz row_out

        ld a_t | add A_N | st a_t
        ld b_t | add B_N | st b_t
        ld o_t | add O_N | st o_t
        ld column_t | add #1 | st column_t
        ld t_left | sub #1 | st t_left | jnz next_t
        ld row_m | add #ROWS | st row_m
        ld m_left | sub rows_used | st m_left | jnz next_m
        ld a_g | add A_G | st a_g
        ld b_g | add B_G | st b_g
        ld o_g | add O_G | st o_g
        ld column_g | add P_COLUMN_G | st column_g
        ld row_g | add P_ROW_G | st row_g
        ld g_left | sub #1 | st g_left | jnz next_g

        ld #0 | st a_rows | st b_terms | st o_rows
        jmp finish
"""
