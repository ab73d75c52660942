"""Everything here needs the pretended device."""

import sys

import pytest

PRETENDED = getattr(sys.modules.get("tests.pretend.device"), "MISSING", "not asked for") is None


def pytest_collection_modifyitems(items):
    for item in items:
        if "pretend" in item.path.parts and not PRETENDED:
            item.add_marker(pytest.mark.skip(reason="needs the pretended device: python -m pytest -p tests.pretend.device"))
