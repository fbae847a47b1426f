"""Read pages as a browser does, and require of all of them what a reader needs."""

import re
from pathlib import Path

import pytest

html5lib = pytest.importorskip("html5lib")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


def parsed(file):
    """Return the page, which a parser of HTML takes without a single error."""
    return html5lib.HTMLParser(namespaceHTMLElements=False, strict=True).parse(
        Path(file).read_text(encoding="utf-8")
    )


def text(element):
    """Return the text of an element, with single spaces."""
    return " ".join("".join(element.itertext()).split())


def rows(page, section):
    """Return the texts of the cells of all rows in a section."""
    found = page.find(f".//section[@id='{section}']")
    return [[text(cell) for cell in row if cell.tag in ("td", "th")] for row in found.iter("tr")]


def require_self_contained(page):
    """Require that a browser loads and runs nothing for the page."""
    for element in page.iter():
        assert element.tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in element.attrib if name.startswith("on") or name == "srcset"]
        for name in ("src", "href"):
            if name in element.attrib:
                assert re.match(r"data:image/(svg\+xml|png|jpeg);base64,|#", element.get(name))
    assert not re.search(r"url\(|@import", "".join(style.text for style in page.iter("style")))


def require_readable(page):
    """Require a language, a size for phones, alternative texts, headers, and links that lead."""
    assert page.get("lang") == "en"
    assert page.find(".//meta[@name='viewport']").get("content").startswith("width=device-width")
    assert all(len(image.get("alt")) > 5 for image in page.iter("img"))
    assert all(header.get("scope") in ("row", "col", "colgroup") for header in page.iter("th"))
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert {link.get("href")[1:] for link in page.iter("a")} == {
        section.get("id") for section in page.iter("section")
    }
    for region in page.iter("div"):
        if region.get("class") == "wide":  # scrolls alone, and by the keyboard
            assert region.get("tabindex") == "0" and region.get("aria-labelledby") in ids
