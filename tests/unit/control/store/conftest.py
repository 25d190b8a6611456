import pytest

pytest.register_assert_rewrite("tests.unit.control.store.conformance")
