// Shift-add with zero skipping over canonical signed digits: LANES lanes share one weight, one non-zero digit a cycle.
//
// acc[i] = (clr ? 0 : acc[i]) + w * a[i] in max(1, non-zero digits of w) cycles. All operands are two's complement,
// every value is allowed; narrower weights come sign-extended to 8 bits, so that `wbits` has no meaning here. Operands
// are taken at a rising edge with `valid` and `ready`; acc holds the step's result from the edge at which the
// following step could be taken.
module csd_lanes #(
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
  // Recoding without a carry chain of its own: w = (3w - w) / 2, so a digit is non-zero where 3w and w differ, and
  // negative where w has the bit.
  wire [9:0] single = {{2{w[7]}}, w};
  wire [9:0] triple = single + {single[8:0], 1'b0};
  wire [9:0] differ = single ^ triple;

  // All that controls the lanes comes straight from registers: a glitch would go through every lane's shifter and adder.
  // A zero weight leaves them and the lanes' activations as they are.
  reg [7:0] nonzero, negative;   // digits still to do after the current one
  reg [2:0] shift;
  reg       digit, neg, first, busy;

  wire       take   = valid & ready;
  wire [7:0] coming = take ? differ[8:1] : nonzero;
  wire [7:0] signs  = take ? single[8:1] : negative;
  wire [7:0] lowest = coming & (~coming + 8'd1);
  assign ready = ~busy | ~|nonzero;

  always @(posedge clk) begin
    nonzero  <= coming ^ lowest;
    negative <= signs;
    digit    <= |coming;
    if (|coming) begin
      neg   <= |(signs & lowest);
      shift <= {|lowest[7:4], |(lowest & 8'hCC), |(lowest & 8'hAA)};
    end
    first <= take & clr;
    busy  <= ~rst & (take | (busy & ~ready));
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
