// Behaviour of Lattice ECP5's block RAM as yosys maps memories to it; yosys' own library has only
// its ports. Facts: Lattice TN-02204, "ECP5 and ECP5-5G Memory Usage Guide", and the layout of
// yosys' lattice/brams_16kd.txt. 2048 bytes of 9 bits; a port of 18 or 36 bits takes 2 or 4 of them
// and has its byte enables in the lowest address bits, one of 4, 2 or 1 bits part of a byte.
//
// What the data sheet leaves open is made to hurt: a byte that one port reads while the other
// writes it reads as the complement of what it was. A setting that is not here does not elaborate.
module DP16KD (
  input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
    DIA4, DIA3, DIA2, DIA1, DIA0,
  input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input CSA2, CSA1, CSA0,
  input CEA, OCEA, CLKA, WEA, RSTA,
  output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5,
    DOA4, DOA3, DOA2, DOA1, DOA0,
  input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5,
    DIB4, DIB3, DIB2, DIB1, DIB0,
  input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input CSB2, CSB1, CSB0,
  input CEB, OCEB, CLKB, WEB, RSTB,
  output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5,
    DOB4, DOB3, DOB2, DOB1, DOB0
);
  parameter DATA_WIDTH_A = 18;
  parameter REGMODE_A = "NOREG";
  parameter CSDECODE_A = "0b000";
  parameter WRITEMODE_A = "NORMAL";
  parameter CLKAMUX = "CLKA";
  parameter DATA_WIDTH_B = 18;
  parameter REGMODE_B = "NOREG";
  parameter CSDECODE_B = "0b000";
  parameter WRITEMODE_B = "NORMAL";
  parameter CLKBMUX = "CLKB";
  parameter RESETMODE = "SYNC";
  parameter ASYNC_RESET_RELEASE = "SYNC";
  parameter GSR = "AUTO";
  parameter [319:0] INITVAL_00 = 0;
  parameter [319:0] INITVAL_01 = 0;
  parameter [319:0] INITVAL_02 = 0;
  parameter [319:0] INITVAL_03 = 0;
  parameter [319:0] INITVAL_04 = 0;
  parameter [319:0] INITVAL_05 = 0;
  parameter [319:0] INITVAL_06 = 0;
  parameter [319:0] INITVAL_07 = 0;
  parameter [319:0] INITVAL_08 = 0;
  parameter [319:0] INITVAL_09 = 0;
  parameter [319:0] INITVAL_0A = 0;
  parameter [319:0] INITVAL_0B = 0;
  parameter [319:0] INITVAL_0C = 0;
  parameter [319:0] INITVAL_0D = 0;
  parameter [319:0] INITVAL_0E = 0;
  parameter [319:0] INITVAL_0F = 0;
  parameter [319:0] INITVAL_10 = 0;
  parameter [319:0] INITVAL_11 = 0;
  parameter [319:0] INITVAL_12 = 0;
  parameter [319:0] INITVAL_13 = 0;
  parameter [319:0] INITVAL_14 = 0;
  parameter [319:0] INITVAL_15 = 0;
  parameter [319:0] INITVAL_16 = 0;
  parameter [319:0] INITVAL_17 = 0;
  parameter [319:0] INITVAL_18 = 0;
  parameter [319:0] INITVAL_19 = 0;
  parameter [319:0] INITVAL_1A = 0;
  parameter [319:0] INITVAL_1B = 0;
  parameter [319:0] INITVAL_1C = 0;
  parameter [319:0] INITVAL_1D = 0;
  parameter [319:0] INITVAL_1E = 0;
  parameter [319:0] INITVAL_1F = 0;
  parameter [319:0] INITVAL_20 = 0;
  parameter [319:0] INITVAL_21 = 0;
  parameter [319:0] INITVAL_22 = 0;
  parameter [319:0] INITVAL_23 = 0;
  parameter [319:0] INITVAL_24 = 0;
  parameter [319:0] INITVAL_25 = 0;
  parameter [319:0] INITVAL_26 = 0;
  parameter [319:0] INITVAL_27 = 0;
  parameter [319:0] INITVAL_28 = 0;
  parameter [319:0] INITVAL_29 = 0;
  parameter [319:0] INITVAL_2A = 0;
  parameter [319:0] INITVAL_2B = 0;
  parameter [319:0] INITVAL_2C = 0;
  parameter [319:0] INITVAL_2D = 0;
  parameter [319:0] INITVAL_2E = 0;
  parameter [319:0] INITVAL_2F = 0;
  parameter [319:0] INITVAL_30 = 0;
  parameter [319:0] INITVAL_31 = 0;
  parameter [319:0] INITVAL_32 = 0;
  parameter [319:0] INITVAL_33 = 0;
  parameter [319:0] INITVAL_34 = 0;
  parameter [319:0] INITVAL_35 = 0;
  parameter [319:0] INITVAL_36 = 0;
  parameter [319:0] INITVAL_37 = 0;
  parameter [319:0] INITVAL_38 = 0;
  parameter [319:0] INITVAL_39 = 0;
  parameter [319:0] INITVAL_3A = 0;
  parameter [319:0] INITVAL_3B = 0;
  parameter [319:0] INITVAL_3C = 0;
  parameter [319:0] INITVAL_3D = 0;
  parameter [319:0] INITVAL_3E = 0;
  parameter [319:0] INITVAL_3F = 0;
  localparam [20479:0] INITIAL = {
    INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38,
    INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
    INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
    INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20,
    INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18,
    INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
    INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
    INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00};

  generate
    if (REGMODE_A != "NOREG" && (REGMODE_A != "OUTREG" || DATA_WIDTH_B == 36) ||
        REGMODE_B != "NOREG" && (REGMODE_B != "OUTREG" || DATA_WIDTH_B == 36) ||
        RESETMODE != "SYNC" && RESETMODE != "ASYNC" ||
        CSDECODE_A != "0b000" || CSDECODE_B != "0b000" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB" ||
        DATA_WIDTH_B == 36 && DATA_WIDTH_A != 36 && WRITEMODE_B != "NORMAL")
      this_setting_of_DP16KD_has_no_model unsupported();
  endgenerate

  reg [8:0] bytes [0:2047];
  integer n;
  initial
    for (n = 0; n < 2048; n = n + 1) bytes[n] = INITIAL[20 * (n >> 1) + 9 * (n & 1) +: 9];

  // First byte of an access, which of its 4 bytes are there, and which bits of the lowest.
  function [10:0] first(input integer width, input [13:0] address);
    first = width == 36 ? {address[13:5], 2'b0} : width == 18 ? {address[13:4], 1'b0}
        : address[13:3];
  endfunction
  function [3:0] enables(input integer width, input [13:0] address);
    enables = width == 36 ? address[3:0] : width == 18 ? {2'b0, address[1:0]} : 4'b1;
  endfunction
  function [2:0] shift(input integer width, input [13:0] address);
    shift = width == 4 ? {address[2], 2'b0} : width == 2 ? {address[2:1], 1'b0}
        : width == 1 ? address[2:0] : 3'd0;
  endfunction
  function [8:0] mask(input integer width);
    mask = width == 4 ? 9'hf : width == 2 ? 9'h3 : width == 1 ? 9'h1 : 9'h1ff;
  endfunction
  function covers(input integer width, input [13:0] address, input [10:0] index);
    covers = width == 36 ? index[10:2] == address[13:5] && address[index[1:0]]
        : width == 18 ? index[10:1] == address[13:4] && address[index[0]] : index == address[13:3];
  endfunction

  wire [13:0] address_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5,
        ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [13:0] address_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5,
        ADB4, ADB3, ADB2, ADB1, ADB0};
  wire write_a = CEA && WEA && !(CSA2 || CSA1 || CSA0);
  wire write_b = CEB && WEB && !(CSB2 || CSB1 || CSB0);
  wire [17:0] data_low = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
        DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
  wire [17:0] data_high = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
        DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
  wire [35:0] data_a = {DATA_WIDTH_A == 36 ? data_high : 18'b0, data_low};
  wire [35:0] data_b = {18'b0, data_high};
  reg [35:0] read_a = 0, read_b = 0;
  // The registers behind the outputs, which REGMODE puts there.
  reg [17:0] held_a = 0, held_b = 0;
  wire clear_a = RESETMODE == "ASYNC" && RSTA;
  wire clear_b = RESETMODE == "ASYNC" && RSTB;
  always @(posedge CLKA or posedge clear_a)
    if (clear_a || RSTA) held_a <= 0; else if (OCEA) held_a <= read_a[17:0];
  always @(posedge CLKB or posedge clear_b)
    if (clear_b || RSTB) held_b <= 0; else if (OCEB) held_b <= read_b[17:0];
  // A port of 36 bits gives its lower half on DOA; here only port B reads so wide.
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
        DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0} =
      DATA_WIDTH_B == 36 ? read_b[17:0] : REGMODE_A == "OUTREG" ? held_a : read_a[17:0];
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
        DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0} =
      DATA_WIDTH_B == 36 ? read_b[35:18] : REGMODE_B == "OUTREG" ? held_b : read_b[17:0];

  integer i_a;
  reg [8:0] old_a, new_a, bits_a;
  reg [10:0] index_a;
  always @(posedge CLKA or posedge clear_a) if (clear_a) read_a <= 0; else begin
    for (i_a = 0; i_a < 4; i_a = i_a + 1) begin
      index_a = first(DATA_WIDTH_A, address_a) + i_a;
      old_a = bytes[index_a];
      bits_a = mask(DATA_WIDTH_A) << shift(DATA_WIDTH_A, address_a);
      new_a = data_a[9 * i_a +: 9] << shift(DATA_WIDTH_A, address_a);
      new_a = old_a & ~bits_a | new_a & bits_a;
      if (write_a && (enables(DATA_WIDTH_A, address_a) >> i_a & 1)) bytes[index_a] <= new_a;
      else new_a = old_a;
      if (write_b && covers(DATA_WIDTH_B, address_b, index_a)) begin
        old_a = ~old_a;
        new_a = ~new_a;
      end
      if (CEA && (!WEA || WRITEMODE_A != "NORMAL"))
        read_a[9 * i_a +: 9] <= ((WEA && WRITEMODE_A == "WRITETHROUGH" ? new_a : old_a)
            & bits_a) >> shift(DATA_WIDTH_A, address_a);
    end
    if (RSTA) read_a <= 0;
  end

  integer i_b;
  reg [8:0] old_b, new_b, bits_b;
  reg [10:0] index_b;
  always @(posedge CLKB or posedge clear_b) if (clear_b) read_b <= 0; else begin
    for (i_b = 0; i_b < 4; i_b = i_b + 1) begin
      index_b = first(DATA_WIDTH_B, address_b) + i_b;
      old_b = bytes[index_b];
      bits_b = mask(DATA_WIDTH_B) << shift(DATA_WIDTH_B, address_b);
      new_b = data_b[9 * i_b +: 9] << shift(DATA_WIDTH_B, address_b);
      new_b = old_b & ~bits_b | new_b & bits_b;
      if (write_b && (enables(DATA_WIDTH_B, address_b) >> i_b & 1)) bytes[index_b] <= new_b;
      else new_b = old_b;
      if (write_a && covers(DATA_WIDTH_A, address_a, index_b)) begin
        old_b = ~old_b;
        new_b = ~new_b;
      end
      if (CEB && (!WEB || WRITEMODE_B != "NORMAL"))
        read_b[9 * i_b +: 9] <= ((WEB && WRITEMODE_B == "WRITETHROUGH" ? new_b : old_b)
            & bits_b) >> shift(DATA_WIDTH_B, address_b);
    end
    if (RSTB) read_b <= 0;
  end
endmodule
