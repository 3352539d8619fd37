"""The networks that the benchmark brings itself run, and its tables say what its rows say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from sigmaquant.graph import trace

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OWN = ("ds-cnn", "bc-resnet", "fastestdet", "lstm-cell-vad", "llama-plain")


@pytest.fixture(scope="module")
def networks():
    """The benchmark's modules by name; afterwards they are gone."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {
            name: importlib.import_module(f"networks.{name}") for name in ("registry", "subject", "tables", "measure")
        }
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in [name for name in sys.modules if name.split(".")[0] == "networks"]:
            del sys.modules[name]


def test_names_and_groups(networks):
    entries = networks["registry"].entries()
    groups = [entry.group for entry in entries.values()]
    assert set(groups) == set(networks["subject"].GROUPS) == set(networks["tables"].GROUPS)
    assert groups.count("convolutional") >= 80
    assert all(name == entry.name for name, entry in entries.items())


@pytest.mark.parametrize("name", OWN)
def test_own_networks_are_alive_and_traced_exactly(networks, name):
    subject, measure = networks["subject"], networks["measure"]
    torch.manual_seed(0)
    model, inputs = networks["registry"].entries()[name].build()
    subject.enliven_(model, inputs)
    examples = inputs(3)
    with torch.no_grad():
        outputs = measure.tensors(subject.call(model, examples))
    assert all(float((out[0] - out[1]).abs().max()) > 0 for out in outputs), "two inputs, two outputs"
    graph = trace(model, inputs(2))
    assert measure.difference(lambda x: subject.call(model, x), graph.module, examples) <= 1e-5


def test_one_network_from_module_to_files(networks, capsys):
    networks["measure"].measure("tc-resnet8", ["onnx", "packed"])
    row: dict = {"network": "tc-resnet8", "group": "convolutional"}
    for line in capsys.readouterr().out.splitlines():
        row.update(json.loads(line))
    tables = networks["tables"]
    assert tables.traced(row)
    assert tables.whole(row)
    assert row["integers"]["steps"] <= 1
    assert [tables.in_file(row, kind) for kind in ("onnx", "packed", "c")] == ["same", "same", "–"]
    assert tables.raw_errors(row) == []


def rows():
    good = {
        "network": "good", "group": "convolutional", "parameters": 1000, "cpu_s": 2.0, "trace": {"difference": 0.0},
        "quantized_parameters": 0.99, "quantized_macs": 1.0,
        "integers": {"float": {}, "behind": {}, "steps": 1, "where": "a", "beyond": 0.0},
        "files": {"onnx": {"same": True}, "litert": {"refused": "'a': no kernel."}, "c": {"same": False}},
    }  # fmt: skip
    left = {
        **good,
        "network": "left",
        "integers": {"float": {"prelu": 2}, "behind": {"relu": 1}, "steps": 0},
        "files": {},
    }
    raw = {**good, "network": "raw", "integers": {"float": {}, "raw": "TypeError at lower.py:3 (f): no"}, "files": {}}
    off = {
        "network": "off",
        "group": "recurrent",
        "parameters": 10,
        "trace": {"refused": "no batch"},
        "ended": "out of time",
    }
    return [good, left, raw, off]


def test_tables(networks, tmp_path):
    tables = networks["tables"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [{**rows()[0], "cpu_s": 99.0}, *rows()]))
    found = tables.read(path)
    assert [row["network"] for row in found] == ["good", "left", "raw", "off"]
    assert found[0]["cpu_s"] == 2.0, "the last row counts"
    counts = tables.counts([row for row in found if row["group"] == "convolutional"])
    assert counts["networks"] == "3"
    assert counts["traced"] == "3 (100 %)"
    assert counts["wholly integer"] == "1 (33 %)"
    assert counts["onnx"] == "1 (33 %)"
    assert counts["files that differ"] == "1"
    assert counts["raw errors"] == "1"
    table = tables.table(found)
    assert "| good | 0.00 M | 99.0 % | 100.0 % | – | 1 | yes | no | **differs** | – | 2 |" in table
    assert "`prelu`" in table
    assert "| off | 0.00 M | not traced |" in table
    causes = tables.causes(found)
    assert "1 × prelu" in causes
    assert "TypeError at lower.py:3" in causes
    assert "1 × litert: 'a': no kernel." in causes
    assert "out of time" in causes
