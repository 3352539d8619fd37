// Dot product of LANES 8-bit weights and activations a cycle: acc = (clr ? 0 : acc) + sum of w[i] * a[i].
//
// All operands are two's complement, every value is allowed; narrower weights come sign-extended to 8 bits, so that
// `wbits` has no meaning here. One step a cycle: operands offered with `valid` are taken at each rising edge.
// acc holds a step's result from the edge at which the following step could be taken.
module int8_dot #(
  parameter AB    = 8,   // activation bits
  parameter ACC   = 32,  // accumulator bits
  parameter LANES = 16   // products a step
) (
  input                  clk,
  input                  rst,    // synchronous
  input                  valid,
  input                  clr,    // first step of a dot product
  input  [3:0]           wbits,
  input  [LANES*8-1:0]   w,
  input  [LANES*AB-1:0]  a,
  output [ACC-1:0]       acc,
  output                 ready
);
  // As in int8_lanes, for all products in one tree: Baugh-Wooley rows without sign extension and one constant.
  localparam LOW   = AB + 8 + $clog2(LANES);
  localparam TOTAL = LOW + 2;
  localparam [TOTAL-1:0] ONE = 1;
  localparam [TOTAL-1:0] CORRECTION = LANES * ((ONE << 7) + (ONE << (AB - 1)) - (ONE << (AB + 7)));

  reg [LANES*8-1:0]  weight;
  reg [LANES*AB-1:0] activation;
  reg                first, busy;
  reg [AB-1:0]       row;
  reg [TOTAL-1:0]    total;
  reg [ACC-1:0]      sum;
  wire [ACC-1:0]     base = first ? {ACC{1'b0}} : sum;
  wire [ACC-1:0]     next;
  wire               clk_operand, clk_accumulator;
  integer            i, j;

  assign ready = 1'b1;
  assign acc = sum;
  clock_gate gate_operand     (.clk(clk), .en(valid), .gclk(clk_operand));
  clock_gate gate_accumulator (.clk(clk), .en(busy),  .gclk(clk_accumulator));

  always @* begin
    total = {2'b00, base[LOW-1:0]} + CORRECTION;
    for (i = 0; i < LANES; i = i + 1)
      for (j = 0; j < 8; j = j + 1) begin
        row   = activation[i*AB +: AB] & {AB{weight[i*8 + j]}};
        row   = row ^ ((j == 7) ? ~(ONE << (AB - 1)) : (ONE << (AB - 1)));
        total = total + ({{(TOTAL-AB){1'b0}}, row} << j);
      end
  end
  assign next[LOW-1:0] = total[LOW-1:0];
  up_down #(.WIDTH(ACC - LOW)) high (
    .value(base[ACC-1:LOW]), .move(total[LOW]), .down(total[LOW+1]), .next(next[ACC-1:LOW]));

  always @(posedge clk) busy <= valid & ~rst;
  always @(posedge clk_operand) begin
    weight     <= w;
    activation <= a;
    first      <= clr;
  end
  always @(posedge clk_accumulator) sum <= next;
endmodule
