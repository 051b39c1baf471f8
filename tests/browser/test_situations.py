"""Ten situations are told apart at a glance: on a phone, light and dark, by ear as well."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from situations import SITUATIONS, Situation, make_place
from small_png import smaller

if TYPE_CHECKING:
    from pathlib import Path

    from looking import Look
    from playwright.sync_api import Page

PHONE = 390

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()

FIND_BARRIERS = "() => axe.run({ resultTypes: ['violations'], selectors: false })"


def serious(page: Page) -> list[str]:
    page.evaluate(AXE)
    found = page.evaluate(FIND_BARRIERS)
    return [
        f"{rule['help']}: {place['html']}"
        for rule in found["violations"]
        if rule["impact"] in {"serious", "critical"}
        for place in rule["nodes"]
    ]


IN_SHORT = {"all-well", "work-failing", "approval-waits"}
"""What `make test` looks at; `make test-long` looks at all."""


@pytest.mark.parametrize(
    "situation",
    [
        pytest.param(each, id=each.name, marks=() if each.name in IN_SHORT else pytest.mark.long)
        for each in SITUATIONS
    ],
)
@pytest.mark.timeout(400)  # a daemon that does some tasks, and two pages that are looked at
def test_a_situation_is_seen_at_a_glance_on_a_phone_light_and_dark(
    situation: Situation, tmp_path: Path, claude: str, look: Look
):
    look.expected = ("503",)  # where the database is away
    with situation.daemon(make_place(tmp_path, claude)) as daemon:
        for scheme in ("light", "dark"):
            page = look.at(daemon.address, width=PHONE, color_scheme=scheme)
            glance = page.locator("body")
            for text in situation.says:
                expect(glance).to_contain_text(text)
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE
            assert serious(page) == []
            small = page.evaluate(SMALLEST)
            assert small >= 12, small
        look.close()


SMALLEST = """() => Math.min(
    ...[...document.querySelectorAll("main *")]
        .filter((each) => each.checkVisibility() && !each.closest("svg"))
        .filter((each) => [...each.childNodes].some((node) => node.data?.trim()))
        .map((each) => parseFloat(getComputedStyle(each).fontSize))
)"""
"""The size of the smallest letters, in pixels."""


@pytest.mark.long
def test_a_picture_with_a_palette_shows_the_same(look: Look):
    page = look.at("about:blank", width=200)
    colours = "".join(f"<b style='color:rgb({n},{n},99)'>w{n}</b> " for n in range(0, 256, 4))
    page.set_content(f"<body style='background:#fed'><h1>Readable</h1>{colours}</body>")
    picture = page.screenshot()
    small = smaller(picture)
    assert len(small) < len(picture)
    as_shown = """async (bytes) => {
        const bitmap = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
        const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
        const context = canvas.getContext("2d");
        context.drawImage(bitmap, 0, 0);
        return [...context.getImageData(0, 0, bitmap.width, bitmap.height).data];
    }"""
    before, after = (page.evaluate(as_shown, list(each)) for each in (picture, small))
    assert len(before) == len(after)
    differences = [abs(a - b) for a, b in zip(before, after, strict=True)]
    assert sum(differences) / len(differences) < 1
