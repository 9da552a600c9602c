; C = A B / 2**shift + bias in one instruction, with sizes that fill no tile:
; A 12 x 20, B 20 x 19, C 12 x 19, all row-major; shift and bias per column, ReLU.
;
;   atreides run programs/gemm.s --memory programs/gemm.npz --dump out.npz
M = 12
K = 20
N = 19
LANES = 8                       ; columns of the array
TILES = 3                       ; column tiles, the last one with LAST columns
LAST = 3
A = 0                           ; addresses, in words
B = 256
C = 656

        SET  MX, M
        SET  K0, K
        SET  NT, TILES
        SET  NL, LAST
        SET  A_BASE, A
        SET  A_X, K             ; from one row of A to the next
        SET  B_BASE, B
        SET  B_K0, N            ; from one row of B to the next
        SET  B_N, LANES         ; from one column tile to the next
        SET  O_BASE, C
        SET  O_X, N
        SET  O_N, LANES
        GEMM memory, relu, column
        HALT
