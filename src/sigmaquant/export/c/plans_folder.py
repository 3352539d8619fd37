"""The files of a folder with several plans that are not a plan's own: the choice between them, an example, a README."""

from __future__ import annotations

import textwrap

from torch import Tensor

from sigmaquant.export.c.code import ending_functions, float_functions, run_signature
from sigmaquant.export.c.folder import codes_array
from sigmaquant.export.c.names import comment
from sigmaquant.export.c.report import CPlans, CReport


def dispatch_header(plans: CPlans) -> str:
    """``<name>.h``."""
    name, upper, first = plans.name, plans.name.upper(), plans.plans[0].report
    lines = [
        f"/* {name}: a quantized network in integer arithmetic with several plans, written by SigmaQuant.",
        " *",
        f" * Flash: {plans.weight_bytes} bytes of weights and {plans.table_bytes} bytes of tables for all plans,",
        f" * and the code. RAM: {plans.arena_bytes} bytes in a static arena, so one call at a time. A plan is a mask",
        " * over the bit planes of the weights: it touches those that it uses and no others.",
        " *",
        *(
            f" * {k}: {comment(item.name)}, {item.report.weight_bytes} bytes of weights read"
            for k, item in enumerate(plans.plans)
        ),
        " */",
        f"#ifndef {upper}_H",
        f"#define {upper}_H",
        "",
        "#include <stdint.h>",
        "",
        f"#define {upper}_PLANS {len(plans.plans)}",
        f"#define {upper}_ARENA_BYTES {plans.arena_bytes}",
    ]
    others = [item.report for item in plans.plans]
    for index, grid in enumerate((*first.read, *first.written)):
        macro = f"{upper}_{grid.place.upper()}"
        lines += ["", f"/* {comment(grid.name)}: {list(grid.whole_shape)} */", f"#define {macro}_SIZE {grid.count}"]
        same = {((*other.read, *other.written)[index].scale, (*other.read, *other.written)[index].zero_point)
                for other in others}  # fmt: skip
        if len(same) == 1:
            lines += [
                f"#define {macro}_SCALE {upper}_PLAN_0_{grid.place.upper()}_SCALE",
                f"#define {macro}_ZERO_POINT {upper}_PLAN_0_{grid.place.upper()}_ZERO_POINT",
            ]
        else:
            lines.append(f"/* its scale and zero-point are each plan's own: {name}_plan_<k>.h */")
    lines += [
        "",
        *(f'#include "{name}_plan_{k}.h"' for k in range(len(plans.plans))),
        "",
        "/* Chooses the plan of the calls that follow: 0, the largest, at first. 1: done; 0: there is no such plan.",
        " * Not while a call runs. */",
        f"int32_t {name}_set_plan(int32_t plan);",
        f"int32_t {name}_plan(void);",
        "",
        f"{run_signature(first)};",
        "",
        "/* For convenience, on the present plan's grids; the network itself computes no floats. */",
        *(f"{signature};" for signature, _, _ in float_functions(first)),
    ]
    if first.has_endings:
        lines += [
            "",
            "/* What the network returns, in place of dequantized outputs, which are what these functions read: in",
            f" * {name}_endings.c, which needs the C library's <math.h> (link with -lm). */",
            *(f"{signature};" for signature, _ in ending_functions(first)),
        ]
    return "\n".join([*lines, "", "#endif", ""])


def dispatch_source(plans: CPlans) -> str:
    """``<name>.c``."""
    name, first = plans.name, plans.plans[0].report
    parts = [
        f'/* {name}: the choice between its plans. */\n#include "{name}.h"\n\n#include "{name}_arena.h"\n',
        f"#ifndef SQ_SEPARATE\n{name}_memory {name}_arena;\n#endif\n",
        "static int32_t chosen;\n",
        f"int32_t {name}_set_plan(int32_t plan)\n{{\n    if ((plan < 0) || (plan >= {name.upper()}_PLANS)) {{\n"
        "        return 0;\n    }\n    chosen = plan;\n    return 1;\n}\n",
        f"int32_t {name}_plan(void)\n{{\n    return chosen;\n}}\n",
        _switched(plans, run_signature(first), f"{name}_run", _arguments(first)),
    ]
    for signature, kernel, grid in float_functions(first):
        verb = "quantize" if kernel == "sq_quantize" else "dequantize"
        given = "values, codes" if verb == "quantize" else "codes, values"
        parts.append(_switched(plans, signature, f"{name}_{verb}_{grid.place}", given))
    return "\n".join(parts)


def _arguments(report: CReport) -> str:
    return ", ".join(grid.place for grid in (*report.read, *report.written))


def _switched(plans: CPlans, signature: str, function: str, arguments: str) -> str:
    """A function that calls its namesake of the present plan."""
    own = function.removeprefix(plans.name)
    last = len(plans.plans) - 1
    heads = [f"case {k}" for k in range(last)] + ["default"]
    cases = [
        f"    {head}:\n        {plans.name}_plan_{k}{own}({arguments});\n        break;" for k, head in enumerate(heads)
    ]
    return f"{signature}\n{{\n    switch (chosen) {{\n" + "\n".join(cases) + "\n    }\n}\n"


def plans_main(plans: CPlans, examples: list[tuple[list[Tensor], list[Tensor]]]) -> str:
    """``main.c``: every plan in turn on an example, there and back, against the reference."""
    name, first = plans.name, plans.plans[0].report
    places = [grid.place for grid in (*first.read, *first.written)]
    reads = len(first.read)
    kinds = {grid.place: grid.kind for grid in (*first.read, *first.written)}
    size = {place: f"{name.upper()}_{place.upper()}_SIZE" for place in places}
    parts = [
        f"/* Runs {name} with every plan, from the largest to the smallest and back, and returns 0 if all output\n"
        f' * codes are the references\'. */\n#include <stdio.h>\n#include <string.h>\n\n#include "{name}.h"\n',
        "\n".join(f"static {kinds[place]} {place}[{size[place]}];" for place in places) + "\n",
    ]
    for k, (inputs, outputs) in enumerate(examples):
        for place, codes in zip(places, (*inputs, *outputs), strict=True):
            parts.append(codes_array(f"plan_{k}_{place}", size[place], codes, kinds[place]) + "\n")
    checks = []
    for k in range(len(examples)):
        copies = "\n".join(
            f"        (void)memcpy({place}, plan_{k}_{place}, sizeof {place});" for place in places[:reads]
        )
        compares = "\n".join(
            f"        count += (memcmp({place}, plan_{k}_{place}, sizeof {place}) == 0) ? 0 : 1;"
            for place in places[reads:]
        )
        checks.append(
            f"    if (plan == {k}) {{\n{copies}\n        {name}_run({', '.join(places)});\n{compares}\n    }}"
        )
    body = "\n".join(checks)
    parts.append(
        f"static int differences(int32_t plan)\n{{\n    int count = ({name}_set_plan(plan) == 1) ? 0 : 1;\n{body}\n"
        "    return count;\n}\n"
    )
    parts.append(
        f"""int main(int argc, char **argv)
{{
    int count = 0;
    const int32_t from = (argc > 1) ? (int32_t)(argv[1][0] - '0') : 0; /* this plan and smaller ones alone */
    for (int32_t plan = from; plan < {name.upper()}_PLANS; plan++) {{
        const int found = differences(plan);
        (void)printf("plan %d: %s\\n", (int)plan, (found == 0) ? "as the reference" : "NOT as the reference");
        count += found;
    }}
    for (int32_t plan = {name.upper()}_PLANS - 1; plan >= from; plan--) {{
        count += differences(plan);
    }}
    (void)printf("%s\\n", (count == 0) ? "as the reference" : "NOT as the reference");
    return (count == 0) ? 0 : 1;
}}
"""
    )
    return "\n".join(parts)


def plans_readme(plans: CPlans) -> str:
    """README.md."""
    name, first = plans.name, plans.plans[0].report
    rows = [
        f"| {k} | {comment(item.name)} | {item.report.weight_bytes} | {item.report.arena_bytes} |"
        for k, item in enumerate(plans.plans)
    ]
    about = textwrap.dedent(
        f"""\
        # {name}

        A quantized network in C99 with {len(plans.plans)} plans, integer arithmetic only, written by SigmaQuant.
        `{name}.h` is its interface: `{name}_set_plan(k)` chooses the plan of the calls that follow, and `{name}_run`
        runs it. Nothing is loaded or copied.

        - This machine: `make` builds it and runs every plan's example against its reference's result.
        - Cortex-M: `make library CC=arm-none-eabi-gcc AR=arm-none-eabi-ar TARGET="-mcpu=cortex-m4 -mthumb"`.

        | memory of all plans | bytes |
        | --- | --- |
        | flash: bit planes of weights | {plans.weight_bytes} |
        | flash: biases, factors, tables | {plans.table_bytes} |
        | RAM: arena | {plans.arena_bytes} |
        | RAM: inputs and outputs, the caller's | {first.input_bytes + first.output_bytes} |

        | plan | name | weights read, bytes | RAM, bytes |
        | --- | --- | --- | --- |
        """
    )
    end = (
        f"\nTables `…_planes_<k>` in `{name}_weights.c` are read by plan k and the larger ones (lower numbers) only.\n"
        "With `-fdata-sections` a linker script can put what small plans do not need into slower memory.\n"
    )
    return about + "\n".join(rows) + "\n" + end
