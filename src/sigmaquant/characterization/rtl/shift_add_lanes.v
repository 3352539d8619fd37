// Plain shift-add: LANES lanes share one weight, whose bits are worked off one a cycle, the lowest first.
//
// acc[i] = (clr ? 0 : acc[i]) + w * a[i] in `wbits` (2..8) cycles. All operands are two's complement, every value is
// allowed; bits of w above `wbits` are ignored. Operands are taken at a rising edge with `valid` and `ready`; acc holds
// the step's result from the edge at which the following step could be taken. A zero bit costs its cycle, but the
// accumulators are not clocked in it.
module shift_add_lanes #(
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
  // A zero bit leaves them as they are, a zero weight the lanes' activations as well.
  reg [7:0] left;                // bits still to do after the current one
  reg [2:0] position, shift;
  reg       digit, neg, first, last, busy;

  wire       take    = valid & ready;
  wire [7:0] coming  = take ? w : left;
  wire [2:0] place   = take ? 3'd0 : position + 3'd1;
  wire       is_last = (place == wbits - 4'd1);
  assign ready = ~busy | last;

  always @(posedge clk) begin
    left     <= coming >> 1;
    position <= place;
    digit    <= coming[0];
    if (coming[0]) begin
      shift <= place;
      neg   <= is_last;          // the highest bit of two's complement counts negative
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
        .zero(first & ~digit), .neg(neg), .shift(shift),
        .a(a[i*AB +: AB]), .acc(acc[i*ACC +: ACC]));
    end
  endgenerate
endmodule
