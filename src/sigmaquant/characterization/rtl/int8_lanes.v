// LANES parallel 8-bit multiply-accumulate lanes that share one weight: acc[i] = (clr ? 0 : acc[i]) + w * a[i].
//
// All operands are two's complement, every value is allowed; narrower weights come sign-extended to 8 bits, so that
// `wbits` has no meaning here. One step a cycle: operands offered with `valid` are taken at each rising edge.
// acc holds a step's result from the edge at which the following step could be taken. This is the plain baseline: zero
// weights are multiplied like all others.
module int8_lanes #(
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
  // The product is added to the accumulator's LOW bits in one carry-save tree; TOTAL bits hold the sum's sign.
  // The Baugh-Wooley rows carry no sign extension: with the rows' negative bits inverted, the sum is too large by a
  // constant, which goes into the tree as well.
  localparam LOW   = AB + 8;
  localparam TOTAL = LOW + 2;
  localparam [TOTAL-1:0] ONE = 1;
  localparam [TOTAL-1:0] CORRECTION = (ONE << 7) + (ONE << (AB - 1)) - (ONE << (AB + 7));

  reg [7:0] weight;
  reg       first, busy;
  wire      clk_operand, clk_accumulator;

  assign ready = 1'b1;
  clock_gate gate_operand     (.clk(clk), .en(valid), .gclk(clk_operand));
  clock_gate gate_accumulator (.clk(clk), .en(busy),  .gclk(clk_accumulator));

  always @(posedge clk) busy <= valid & ~rst;
  always @(posedge clk_operand) begin
    weight <= w;
    first  <= clr;
  end

  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : lane
      reg  [AB-1:0]    activation, row;
      reg  [TOTAL-1:0] total;
      reg  [ACC-1:0]   sum;
      wire [ACC-1:0]   base = first ? {ACC{1'b0}} : sum;
      wire [ACC-1:0]   next;
      integer          j;
      always @* begin
        total = {2'b00, base[LOW-1:0]} + CORRECTION;
        for (j = 0; j < 8; j = j + 1) begin
          row   = activation & {AB{weight[j]}};
          row   = row ^ ((j == 7) ? ~(ONE << (AB - 1)) : (ONE << (AB - 1)));
          total = total + ({{(TOTAL-AB){1'b0}}, row} << j);
        end
      end
      assign next[LOW-1:0] = total[LOW-1:0];
      up_down #(.WIDTH(ACC - LOW)) high (
        .value(base[ACC-1:LOW]), .move(total[LOW]), .down(total[LOW+1]), .next(next[ACC-1:LOW]));
      always @(posedge clk_operand) activation <= a[i*AB +: AB];
      always @(posedge clk_accumulator) sum <= next;
      assign acc[i*ACC +: ACC] = sum;
    end
  endgenerate
endmodule
