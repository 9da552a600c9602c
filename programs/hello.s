; One product of two 8 x 8 tiles, as published for Superfloat's Chip-1: tile 2 = tile 0 * tile 1.
;
;   atreides run programs/hello.s --memory programs/hello.npz --dump out.npz
        LDR  0, 8, 8            ; A
        LDC  1, 8, 8            ; B
        MATMUL
        LIN
        STR  2, 8, 8
