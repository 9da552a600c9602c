; A 3 x 3 convolution of a 6 x 6 image with 4 channels to 8 channels, with ReLU. The image has a
; border of zeros, so it lies 8 x 8; no im2col matrix is made: the addresses walk over the image.
; Weights are (kernel row, kernel column, channel) x output channel.
;
;   atreides run programs/convolution.s --memory programs/convolution.npz --dump out.npz
SIZE = 6                        ; pixels of a row of the output
CHANNELS = 4
OUTPUTS = 8                     ; output channels, the columns of the array
LINE = 32                       ; words of a row of the image with its border
RUN = 12                        ; kernel columns times channels lie side by side
RUN_WEIGHTS = 96                ; words of the weights of one kernel row
IMAGE = 0
WEIGHTS = 256
RESULT = 576
RESULT_LINE = 48

        SET  MX, SIZE           ; output pixels along x and y
        SET  MY, SIZE
        SET  K0, RUN
        SET  K1, 3              ; kernel rows
        SET  A_BASE, IMAGE
        SET  A_X, CHANNELS
        SET  A_Y, LINE
        SET  A_K1, LINE
        SET  B_BASE, WEIGHTS
        SET  B_K0, OUTPUTS
        SET  B_K1, RUN_WEIGHTS
        SET  O_BASE, RESULT
        SET  O_X, OUTPUTS
        SET  O_Y, RESULT_LINE
        GEMM memory, relu, column
        HALT
