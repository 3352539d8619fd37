// Radix-4 Booth digits in series: LANES lanes share one weight, one digit of {-2, -1, 0, 1, 2} a cycle, lowest first.
//
// acc[i] = (clr ? 0 : acc[i]) + w * a[i] in ceil(wbits / 2) cycles, wbits in 2..8. All operands are two's complement,
// every value is allowed; narrower weights come sign-extended to 8 bits. Operands are taken at a rising edge with
// `valid` and `ready`; acc holds the step's result from the edge at which the following step could be taken. A zero
// digit costs its cycle, but the accumulators are not clocked in it.
module booth4_lanes #(
  parameter AB    = 8,   // activation bits
  parameter ACC   = 32,  // accumulator bits
  parameter LANES = 16
) (
  input                  clk,
  input                  rst,    // synchronous
  input                  valid,
  input                  clr,    // first step of a dot product
  input  [3:0]           wbits,
  input  [7:0]           w,
  input  [LANES*AB-1:0]  a,
  output [LANES*ACC-1:0] acc,
  output                 ready
);
  // All that controls the lanes comes straight from registers: a glitch would go through every lane's shifter and adder.
  // A zero digit leaves them as they are, a zero weight the lanes' activations as well.
  reg [6:0] left;                // bits after those of the current digit, and the highest of these below them
  reg [1:0] position;
  reg [2:0] shift;
  reg       digit, neg, first, last, busy;

  wire       take    = valid & ready;
  wire [8:0] coming  = take ? {w, 1'b0} : {{2{left[6]}}, left};
  wire [1:0] place   = take ? 2'd0 : position + 2'd1;
  wire [3:0] highest = wbits - 4'd1;
  wire       one     = coming[0] ^ coming[1];
  wire       two     = (coming[2:0] == 3'b011) | (coming[2:0] == 3'b100);
  wire       is_last = (place == highest[2:1]);
  assign ready = ~busy | last;

  always @(posedge clk) begin
    left     <= coming[8:2];
    position <= place;
    digit    <= one | two;
    if (one | two) begin
      shift <= {place, two};
      neg   <= coming[2];
    end
    first <= take & clr;
    last  <= is_last;
    busy  <= ~rst & (take | (busy & ~last));
  end

  wire clk_operand, clk_accumulator;
  clock_gate gate_operand     (.clk(clk), .en(take & |w),              .gclk(clk_operand));
  clock_gate gate_accumulator (.clk(clk), .en(busy & (digit | first)), .gclk(clk_accumulator));

  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : lane
      shift_add_lane #(.AB(AB), .ACC(ACC)) unit (
        .clk_operand(clk_operand), .clk_accumulator(clk_accumulator), .clr(first),
        .zero(first & ~digit), .neg(neg), .shift(shift), .a(a[i*AB +: AB]), .acc(acc[i*ACC +: ACC]));
    end
  endgenerate
endmodule
