// One lane of a shift-add array: acc = (clr ? 0 : acc) + (zero ? 0 : neg ? -(a << shift) : a << shift).
module shift_add_lane #(
  parameter AB  = 8,   // activation bits
  parameter ACC = 32   // accumulator bits
) (
  input           clk_operand,
  input           clk_accumulator,
  input           clr,
  input           zero,
  input           neg,
  input  [2:0]    shift,
  input  [AB-1:0] a,
  output [ACC-1:0] acc
);
  localparam TERM = AB + 7;

  reg [AB-1:0]  activation;
  reg [ACC-1:0] sum;
  always @(posedge clk_operand) activation <= a;

  // -(a << s) = ~(a << s) + 1, and ~(a << s) is ~a shifted left with ones coming in; the 1 is the adder's carry.
  wire [AB-1:0]   operand  = (zero ? {AB{1'b0}} : activation) ^ {AB{neg}};
  wire [AB+13:0]  shifted  = {{7{operand[AB-1]}}, operand, {7{neg}}} << shift;
  wire [TERM-1:0] term     = shifted[AB+13:7];
  wire [ACC-1:0]  base     = clr ? {ACC{1'b0}} : sum;
  wire [ACC-1:0]  next;
  wire            carry, unused;
  assign {carry, next[TERM-1:0], unused} = {1'b0, base[TERM-1:0], 1'b1} + {1'b0, term, neg};
  up_down #(.WIDTH(ACC - TERM)) high (
    .value(base[ACC-1:TERM]), .move(carry ^ term[TERM-1]), .down(term[TERM-1]), .next(next[ACC-1:TERM]));

  always @(posedge clk_accumulator) sum <= next;
  assign acc = sum;
endmodule
