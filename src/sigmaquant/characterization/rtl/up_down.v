// next = value + 1 with `move`, value - 1 with `move` and `down`, else value.
//
// The high part of an accumulator. A term that is narrower than the accumulator only moves the high part by one; adding
// its sign extension there instead would toggle all of the adder's high operand bits with every change of sign.
module up_down #(
  parameter WIDTH = 16
) (
  input  [WIDTH-1:0] value,
  input              move,
  input              down,
  output [WIDTH-1:0] next
);
  wire [WIDTH-1:0] toggle;
  assign toggle[0] = move;
  assign toggle[WIDTH-1:1] = toggle[WIDTH-2:0] & (value[WIDTH-2:0] ^ {(WIDTH-1){down}});
  assign next = value ^ toggle;
endmodule
