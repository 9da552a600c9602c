; Two layers on 4 samples: 16 inputs, 24 hidden units with ReLU, 10 outputs; bias and shift per
; unit. A layer's output lies where the next one reads it, as it lies.
;
;   atreides run programs/perceptron.s --memory programs/perceptron.npz --dump out.npz
SAMPLES = 4
INPUTS = 16
HIDDEN = 24
OUTPUTS = 10
LANES = 8
X = 0                           ; SAMPLES x INPUTS
W1 = 64                         ; INPUTS x HIDDEN
H = 448                         ; SAMPLES x HIDDEN
W2 = 544                        ; HIDDEN x OUTPUTS
Y = 800                         ; SAMPLES x OUTPUTS

        SET  MX, SAMPLES
        SET  B_N, LANES
        SET  O_N, LANES

first:  SET  K0, INPUTS
        SET  NT, 3
        SET  A_BASE, X
        SET  A_X, INPUTS
        SET  B_BASE, W1
        SET  B_K0, HIDDEN
        SET  O_BASE, H
        SET  O_X, HIDDEN
        SET  P_COLUMN, 0        ; parameters of the first tile; one entry per tile
        GEMM memory, relu, column

second: SET  K0, HIDDEN
        SET  NT, 2
        SET  NL, 2
        SET  A_BASE, H
        SET  A_X, HIDDEN
        SET  B_BASE, W2
        SET  B_K0, OUTPUTS
        SET  O_BASE, Y
        SET  O_X, OUTPUTS
        SET  P_COLUMN, 3
        GEMM memory, linear, column
        HALT
