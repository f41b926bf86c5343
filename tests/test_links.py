"""The addresses of the source and of a model's card."""

from __future__ import annotations

from page.links import card, source


def test_a_space_is_its_own_source():
    space = {"SPACE_ID": "ann/stories"}
    assert source(space) == "https://huggingface.co/spaces/ann/stories/tree/main"
    files = "https://huggingface.co/spaces/ann/stories/blob/main"
    assert card("my model?", space) == f"{files}/artifacts/my%20model%3F/README.md"


def test_elsewhere_no_address_is_known():
    assert source({}) == card("pocket", {}) == card("", {"SPACE_ID": "ann/stories"}) == ""
