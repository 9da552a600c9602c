; One attention head, 12 tokens of 16 words. Q K^T leaves exactly on the stream, because softmax is
; the host's; then O = P V with the P that lies in memory. Neither K nor P is transposed by hand.
;
;   atreides run programs/attention.s --memory programs/attention.npz --report out.json
TOKENS = 12
WIDTH = 16
LANES = 8
TILE_OF_K = 128                 ; words of 8 rows of K
Q = 0                           ; TOKENS x WIDTH each, but P
K = 192
P = 384                         ; TOKENS x TOKENS
V = 528
O = 720

        SET  MX, TOKENS
        SET  NT, 2

scores: SET  K0, WIDTH
        SET  NL, 4
        SET  A_BASE, Q
        SET  A_X, WIDTH
        SET  B_MODE, 1          ; lane j of B is row j of K
        SET  B_BASE, K
        SET  B_X, WIDTH
        SET  B_N, TILE_OF_K
        GEMM exact

output: SET  K0, TOKENS
        SET  NL, LANES
        SET  A_BASE, P
        SET  A_X, TOKENS
        SET  B_MODE, 0
        SET  B_BASE, V
        SET  B_K0, WIDTH
        SET  B_N, LANES
        SET  O_BASE, O
        SET  O_X, WIDTH
        SET  O_N, LANES
        GEMM memory
        HALT
