"""docs/configuration.md is what the table of options says."""

from __future__ import annotations

from tools.generate_config_reference import PAGE, page

from penstock.config import OPTIONS


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make docs"


def test_every_option_is_on_it() -> None:
    text = page()
    assert [option.name for option in OPTIONS if f"`{option.name}`" not in text] == []
