"""The report in a real browser: the map works, nothing hostile runs, everything fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.tools import reporting
from tests.tools.browser import Browser, browser

WIDTHS = (320, 400, 700, 1000, 1400)


class Pages(NamedTuple):
    """Pages of logs, each written once."""

    sound: Path
    damaged: Path
    hostile: Path
    riddled: Path
    numerous: Path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here."""
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Pages of a log of each sort."""
    place = tmp_path_factory.mktemp("pages")

    def made(make: Callable[[Path], Path], status: int) -> Path:
        output = place / f"{make.__name__}.html"
        reporting.page_of(make(place / make.__name__), output, status)
        return output

    return Pages(
        sound=made(reporting.sound, 0),
        damaged=made(reporting.damaged, 4),
        hostile=made(reporting.hostile, 4),
        riddled=made(reporting.riddled, 4),
        numerous=made(reporting.numerous, 5),
    )


def cells(chromium: Browser, kind: str = "") -> list[WebElement]:
    """The cells of the map, or those of a kind."""
    return chromium.driver.find_elements(By.CSS_SELECTOR, f"#map .cell{kind}")


def title(chromium: Browser) -> str:
    """What the detail is about."""
    return chromium.driver.find_element(By.ID, "detail-title").text


def facts(chromium: Browser) -> str:
    """What the detail says."""
    return chromium.driver.find_element(By.ID, "detail-facts").text


def press(chromium: Browser, *keys: str) -> None:
    """Press keys, one after the other, wherever the focus is."""
    ActionChains(chromium.driver).send_keys(*keys).perform()


# ---- the map


def test_a_click_shows_the_detail(chromium: Browser, pages: Pages) -> None:
    """Each cell shows what it is about, and is marked as chosen."""
    chromium.show(pages.damaged)
    assert "No part of the map is chosen" == title(chromium)
    torn = cells(chromium, ".torn")[0]
    torn.click()
    assert title(chromium).startswith("segment 3: torn")
    assert "expected" in facts(chromium)
    assert "true" == torn.get_attribute("aria-current")

    valid = cells(chromium, ".valid")[0]
    valid.click()
    assert title(chromium).startswith("segment 1: valid")
    assert "frames" in facts(chromium)
    assert torn.get_attribute("aria-current") is None
    assert [] == chromium.said()


def test_the_keyboard_alone_is_enough(chromium: Browser, pages: Pages) -> None:
    """Tab goes to the map once; the arrows, Home and End go on; Enter and Space choose."""
    chromium.show(pages.damaged)
    everything = cells(chromium)
    assert 1 == sum(cell.get_attribute("tabindex") == "0" for cell in everything)
    for _ in range(30):
        press(chromium, Keys.TAB)
        if chromium.driver.switch_to.active_element in everything:
            break
    assert chromium.driver.switch_to.active_element == everything[0]
    press(chromium, Keys.ENTER)
    assert title(chromium).startswith("segment 1: header")
    press(chromium, Keys.ARROW_RIGHT)
    assert title(chromium).startswith("segment 1: valid")
    press(chromium, Keys.ARROW_LEFT)
    assert title(chromium).startswith("segment 1: header")
    press(chromium, Keys.ARROW_DOWN)
    assert title(chromium).startswith("segment 2: ")
    press(chromium, Keys.END)
    assert title(chromium).startswith("segment 2: unused")
    press(chromium, Keys.HOME, Keys.ARROW_UP, Keys.HOME, Keys.SPACE)
    assert title(chromium).startswith("segment 1: header")
    press(chromium, Keys.ARROW_LEFT)
    assert title(chromium).startswith("segment 1: header"), "there is nothing before it"
    press(chromium, Keys.TAB)
    assert chromium.driver.switch_to.active_element not in everything
    assert [] == chromium.said()


def test_the_next_fault_is_one_press_away(chromium: Browser, pages: Pages) -> None:
    """The button goes from fault to fault and begins anew at the end."""
    chromium.show(pages.damaged)
    button = chromium.driver.find_element(By.ID, "fault")
    seen = []
    for _ in range(4):
        button.click()
        seen.append(title(chromium).split(",")[0])
    damaged, torn = "segment 1: damaged", "segment 3: torn"
    assert [damaged, damaged, torn, damaged] == seen


def test_a_finding_leads_to_the_map(chromium: Browser, pages: Pages) -> None:
    """Its cell is chosen, has the focus and can be seen."""
    chromium.show(pages.damaged)
    chromium.driver.find_elements(By.CSS_SELECTOR, "button.show")[-1].click()
    assert title(chromium).startswith("segment 3: torn")
    chosen = chromium.driver.switch_to.active_element
    assert "true" == chosen.get_attribute("aria-current")
    top, bottom, height = chromium.run(
        "const b = arguments[0].getBoundingClientRect(); return [b.top, b.bottom, innerHeight]",
        chosen,
    )
    assert 0 <= top < bottom <= height


@pytest.mark.parametrize("width", WIDTHS)
def test_the_smallest_part_can_be_seen_and_hit(chromium: Browser, pages: Pages, width: int) -> None:
    """No cell is narrower than 8 pixels, and all of a row fit into it, also of the fullest."""
    for path in (pages.damaged, pages.riddled, pages.numerous):
        chromium.show(path, width=width)
        narrowest, lowest, beyond = chromium.run(
            """
            const boxes = [...document.querySelectorAll('#map .cell')]
              .map((cell) => cell.getBoundingClientRect());
            const edge = document.getElementById('map').getBoundingClientRect().right;
            return [Math.min(...boxes.map((b) => b.width)), Math.min(...boxes.map((b) => b.height)),
                    Math.max(...boxes.map((b) => b.right)) - edge];
            """
        )
        assert narrowest >= 8
        assert lowest >= 24
        assert beyond <= 1


def test_what_shares_a_cell_is_listed(chromium: Browser, pages: Pages) -> None:
    """The detail of several regions is a table of them, and says how many are left out."""
    chromium.show(pages.riddled)
    cells(chromium, ".many")[3].click()
    assert "shown as one for want of room" in facts(chromium)
    parts = chromium.driver.find_element(By.ID, "detail-parts")
    assert "damaged" in parts.text
    assert 10 < len(parts.find_elements(By.TAG_NAME, "tr"))


# ---- the page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows(chromium: Browser, pages: Pages, width: int, scheme: str) -> None:
    """No page is wider than the window, with a detail shown or without."""
    for path in pages:
        chromium.show(path, width=width, scheme=scheme)
        for _ in range(2):
            widths = chromium.run("return [document.documentElement.scrollWidth, innerWidth]")
            assert widths[0] <= widths[1] == width, path
            chromium.run("document.querySelector('#map .cell:not(.header)').click()")
            chromium.run("document.querySelectorAll('details').forEach((d) => { d.open = true })")
        assert [] == chromium.said()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_written_can_be_read(chromium: Browser, pages: Pages, scheme: str) -> None:
    """Text has a contrast of 4.5 to 1 at least, in both schemes."""
    chromium.show(pages.damaged, scheme=scheme)
    poor = chromium.run(
        """
        const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => {
          const [x, y, z] = [r, g, b].map((c) => c / 255)
            .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
          return 0.2126 * x + 0.7152 * y + 0.0722 * z;
        };
        const behind = (node) => {
          for (let at = node; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
          }
          return [255, 255, 255];
        };
        const found = [];
        const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
          const node = walker.currentNode.parentElement;
          if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
          if (['SCRIPT', 'STYLE', 'NOSCRIPT'].includes(node.tagName)) continue;
          const style = getComputedStyle(node);
          const ink = rgb(node instanceof SVGElement ? style.fill : style.color);
          const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
          if ((a + 0.05) / (b + 0.05) < 4.5) found.push(node.tagName + ': ' + node.textContent);
        }
        return found;
        """
    )
    assert [] == poor
    paper = chromium.run("return getComputedStyle(document.body).backgroundColor")
    assert ("rgb(20, 23, 27)" == paper) == (scheme == "dark")


def test_everything_that_can_be_pressed_has_a_name(chromium: Browser, pages: Pages) -> None:
    """Buttons and pictures say what they are to whoever cannot see them."""
    chromium.show(pages.damaged)
    names = chromium.run(
        """
        return [...document.querySelectorAll('button, svg, [role=group]')].map(
          (each) => each.getAttribute('aria-label') || each.textContent.trim());
        """
    )
    assert len(names) > 20
    assert all(names)
    group = "segment 1: sealed"
    assert any(name.startswith(group) for name in names)
    patterns = chromium.run(
        """
        return [...new Set([...document.querySelectorAll('.legend .cell')].map((each) => {
          const style = getComputedStyle(each);
          return style.backgroundImage + style.borderStyle + (each.matches('.unused, .valid, .seal')
            ? style.backgroundColor : '');
        }))].length
        """
    )
    assert patterns == chromium.run("return document.querySelectorAll('.legend .cell').length")


# ---- what must not run


def test_nothing_of_what_the_log_holds_runs(chromium: Browser, pages: Pages) -> None:
    """A key, a table and a path with script tags: no dialog, no message, nothing changed."""
    assert reporting.SCRIPT.replace("<", "&lt;").replace(">", "&gt;") in pages.hostile.read_text()
    chromium.show(pages.hostile)
    for cell in cells(chromium):
        cell.click()
    assert chromium.run("return typeof window.hacked") == "undefined"
    with pytest.raises(NoAlertPresentException):
        _ = chromium.driver.switch_to.alert.text
    assert [] == chromium.said()
    assert reporting.SCRIPT in chromium.run("return document.body.innerText")


def test_the_policy_stops_what_would_get_through(chromium: Browser, pages: Pages) -> None:
    """A second barrier: neither an injected script nor an address does anything."""
    chromium.show(pages.sound)
    chromium.run(
        """
        const script = document.createElement('script');
        try { script.textContent = 'window.hacked = 1'; document.body.append(script); }
        catch (refused) {}
        const image = document.createElement('img');
        image.src = 'data:image/gif;base64,R0lGODlhAQABAAAAACw=';
        document.body.append(image);
        try { document.body.innerHTML = '<p onclick="1">'; } catch (refused) {}
        """
    )
    assert chromium.run("return typeof window.hacked") == "undefined"
    assert chromium.run("return document.querySelectorAll('h1').length") == 1
    assert "Content Security Policy" in " ".join(chromium.said())


def test_without_a_script_the_page_still_says_everything_but_details(
    chromium: Browser, pages: Pages
) -> None:
    """Verdict, findings and figures are there; why the map shows no details is said."""
    chromium.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chromium.show(pages.damaged)
        words = chromium.driver.find_element(By.TAG_NAME, "body").text
    finally:
        chromium.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "damage in mid-log" in words
    assert "this browser runs none" in words
    assert "show on the map" not in words
