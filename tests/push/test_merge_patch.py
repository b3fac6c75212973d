"""The law of merge patches: what the API server makes of one is what was meant."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fti.common.kubernetes_api import merge_patch
from tests.push.api_server import merged

values: Any = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@given(objects, objects)
def test_a_patch_makes_the_one_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert merged(before, merge_patch(before, after)) == after


@given(objects)
def test_nothing_to_change_is_an_empty_patch(value: dict[str, Any]) -> None:
    assert merge_patch(value, value) == {}
