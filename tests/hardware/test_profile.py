"""Hardware profiles: what is read, and what is said of what cannot be."""

from __future__ import annotations

import copy
import json

import pytest

from hardware_documents import DOCUMENT
from sigmaquant.errors import HardwareProfileError
from sigmaquant.hardware.profile import HardwareProfile, load_profile, shipped_profiles


def changed(*path_and_value):
    *path, last, value = path_and_value
    document = copy.deepcopy(DOCUMENT)
    place = document
    for key in path:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


def test_round_trip():
    profile = HardwareProfile.from_dict(DOCUMENT)
    assert HardwareProfile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profiles_are_valid_and_named_as_their_files(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description
    assert profile.baseline is None or profile.baseline in shipped_profiles()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed("name", ...), "the key 'name' is missing"),
        (changed("compute", "clock_mhz", ...), r"the key 'compute\.clock_mhz' is missing"),
        (changed("compute", "clock_mzh", 1.0), r"no key 'compute\.clock_mzh'\. Did you mean 'clock_mhz'"),
        (changed("compute", "clock_mhz", -1.0), r"compute\.clock_mhz: input should be greater than 0; it is '-1\.0'"),
        (changed("compute", "clock_mhz", "fast"), r"compute\.clock_mhz: .*valid number"),
        (changed("compute", "table", []), r"compute\.table: .*at least 1 item"),
        (changed("compute", "table", 0, "w_bits", 9), r"compute\.table\.0\.w_bits: .*less than or equal to 8"),
        (changed("compute", "table", 1, "w_bits", 2), r"compute: .*two entries for layer, w_bits, a_bits = \(None, 2"),
        (changed("memory", {"weights_in": "dram"}), 'weights_in is "dram", but there is no key'),
        (changed("schema_version", 2), "schema_version is 2, this release reads 1"),
        (changed("method", "date", "yesterday"), r"method\.date: "),
        ([], "the document: "),
    ],
)
def test_wrong_documents_are_told_by_key(document, message):
    with pytest.raises(HardwareProfileError, match=message):
        HardwareProfile.from_dict(document, "toy.json")


def test_files(tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(DOCUMENT))
    assert load_profile(path) == load_profile(str(path)) == HardwareProfile.from_dict(DOCUMENT)
    path.write_text("{")
    with pytest.raises(HardwareProfileError, match="is not JSON"):
        load_profile(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(HardwareProfileError, match="cannot be read"):
        load_profile(path)
    with pytest.raises(HardwareProfileError, match="cannot be read"):
        load_profile(tmp_path / "none.json")
    with pytest.raises(HardwareProfileError, match=r"no hardware profile 'idael'\. Did you mean 'ideal'"):
        load_profile("idael")
