// Integrated clock gate: `gclk` follows `clk` in the cycles for which `en` was 1 before the rising edge.
// Synthesis replaces this model by the library's own clock-gating cell.
module clock_gate (
  input  clk,
  input  en,
  output gclk
);
  reg enable;
  always @* if (!clk) enable = en;
  assign gclk = clk & enable;
endmodule
