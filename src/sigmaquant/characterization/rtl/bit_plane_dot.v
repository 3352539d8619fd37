// Bit-plane serial dot product: each cycle brings one bit of each of LANES weights, the lowest plane first.
//
// acc = (clr ? 0 : acc) + sum of w[i] * a[i] in `wbits` (2..8) cycles. All operands are two's complement, every value
// is allowed. The weights come from a memory that stores them plane by plane, so that none are held here. With `valid`
// a plane is taken at each rising edge; `a` and `clr` are taken with plane 0. acc holds the step's result from the edge
// at which the following step's plane 0 could be taken.
module bit_plane_dot #(
  parameter AB    = 8,   // activation bits
  parameter ACC   = 32,  // accumulator bits
  parameter LANES = 16   // products a step
) (
  input                  clk,
  input                  rst,    // synchronous
  input                  valid,
  input                  clr,    // first step of a dot product
  input  [3:0]           wbits,
  input  [LANES-1:0]     w,
  input  [LANES*AB-1:0]  a,
  output [ACC-1:0]       acc,
  output                 ready
);
  localparam SUM  = AB + $clog2(LANES) + 1;  // bits of the sum of LANES activations
  localparam TERM = SUM + 7;

  reg [LANES-1:0]    plane;
  reg [LANES*AB-1:0] activation;
  reg [2:0]          coming, position;      // numbers of the plane at the input and of the one being added
  reg                first, negative, busy;
  reg [AB-1:0]       row;
  reg [SUM-1:0]      total;
  reg [ACC-1:0]      sum;
  integer            i;

  wire lowest  = (coming == 3'd0);
  wire highest = (coming == wbits - 4'd1);  // counts negative in two's complement
  assign ready = 1'b1;
  assign acc = sum;

  wire clk_operand, clk_plane, clk_accumulator;
  clock_gate gate_operand     (.clk(clk), .en(valid & lowest), .gclk(clk_operand));
  clock_gate gate_plane       (.clk(clk), .en(valid | rst),    .gclk(clk_plane));
  clock_gate gate_accumulator (.clk(clk), .en(busy),           .gclk(clk_accumulator));

  always @(posedge clk) busy <= valid & ~rst;
  always @(posedge clk_operand) activation <= a;
  always @(posedge clk_plane) begin
    plane    <= w;
    first    <= clr & lowest;
    negative <= highest;
    position <= coming;
    coming   <= (rst | highest) ? 3'd0 : coming + 3'd1;
  end

  // Signed terms without sign extension: inverted sign bits make the sum too large by LANES * 2^(AB-1).
  always @* begin
    total = -(LANES << (AB - 1));
    for (i = 0; i < LANES; i = i + 1) begin
      row       = activation[i*AB +: AB] & {AB{plane[i]}};
      row[AB-1] = ~row[AB-1];
      total     = total + row;
    end
  end

  // -(t << s) = ~(t << s) + 1, and ~(t << s) is ~t shifted left with ones coming in; the 1 is the adder's carry.
  wire [SUM-1:0]    operand  = total ^ {SUM{negative}};
  wire [TERM+6:0]   shifted  = {{7{operand[SUM-1]}}, operand, {7{negative}}} << position;
  wire [TERM-1:0]   term     = shifted[TERM+6:7];
  wire [ACC-1:0]    base     = first ? {ACC{1'b0}} : sum;
  wire [ACC-1:0]    next;
  wire              carry, unused;
  assign {carry, next[TERM-1:0], unused} = {1'b0, base[TERM-1:0], 1'b1} + {1'b0, term, negative};
  up_down #(.WIDTH(ACC - TERM)) high (
    .value(base[ACC-1:TERM]), .move(carry ^ term[TERM-1]), .down(term[TERM-1]), .next(next[ACC-1:TERM]));
  always @(posedge clk_accumulator) sum <= next;
endmodule
