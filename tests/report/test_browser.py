"""The page in a real browser, where chromium, playwright and the extra `report` are there."""

import shutil

import numpy as np
import pytest

from lgbench.report import build_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
for needed in ("altair", "vl_convert", "itables"):
    pytest.importorskip(needed, reason="the extra `report` is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
ACCURACY = {"metric": "accuracy", "higher_is_better": True, "best": 1.0, "chance": 0.1, "combine": "mean"}


@pytest.fixture(scope="module")
def page_path(tmp_path_factory, store):
    """A report of ten methods with three seeds."""
    root = tmp_path_factory.mktemp("browser") / "results"
    for seed in range(3):
        for index, name in enumerate(["vanilla", "last_window", *(f"method_{k}" for k in range(8))]):
            fall = 0.01 * (index + 1)
            store(root, lambda n, fall=fall: 0.95 - fall * max(0, np.log2(n / 1024)), seed=seed, label=name,
                  method=name, references={"chance": 0.1}, **ACCURACY)  # fmt: skip
    return build_report([root], root / "report").html


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, page_path):
    """The page on a desktop without a network; whatever the console complains of fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True)
    page = context.new_page()
    complaints = []
    page.on(
        "console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_path.as_uri())
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def figure(page):
    """The first figure that answers, drawn."""
    found = page.locator("figure[data-charts]").first
    found.scroll_into_view_if_needed()
    page.wait_for_selector("figure[data-ready]")
    return found


def values_table(page):
    """The table of values, when it can be sorted."""
    table = page.locator("table.sortable", has=page.locator("td", has_text="chance")).first
    table.scroll_into_view_if_needed()
    page.wait_for_function("table => table.dataset.ready", arg=table.element_handle())
    table.evaluate("table => { table.dataset.tested = 1; }")
    return page.locator("table[data-tested]")


def methods(table):
    return table.locator("tbody tr td:first-child").all_inner_texts()


def test_a_table_is_sorted_by_a_click_on_a_heading(page):
    table = values_table(page)
    table.locator("thead th").last.click()
    page.wait_for_selector("table[data-tested] th.dt-ordering-asc")
    rising = methods(table)
    table.locator("thead th").last.click()
    page.wait_for_selector("table[data-tested] th.dt-ordering-desc")
    assert rising[0] == "chance" and methods(table) == rising[::-1]


def test_a_leaderboard_is_sorted_by_number_with_its_minus_signs_and_intervals(page):
    table = page.locator("table.sortable", has=page.locator("th", has_text="Δ to vanilla")).first
    table.scroll_into_view_if_needed()
    page.wait_for_function("table => table.dataset.ready", arg=table.element_handle())
    heading = table.locator("th", has_text="Δ to vanilla")
    heading.click()
    page.wait_for_selector("th.dt-ordering-asc")
    column = heading.evaluate("cell => cell.cellIndex")
    texts = table.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()
    numbers = [float(text.split()[0].replace("−", "-")) for text in texts if text != "baseline"]
    assert len(numbers) > 5 and min(numbers) < 0 and numbers == sorted(numbers)


def test_a_table_is_filtered_by_what_is_typed(page):
    table = values_table(page)
    box = table.locator("xpath=ancestor::div[contains(@class,'dt-container')]").locator("input")
    box.fill("method_3")
    page.wait_for_function("document.querySelectorAll('table[data-tested] tbody tr').length === 1")
    assert methods(table) == ["method_3"]


def lines(figure):
    return figure.locator(".chart").first.locator("g.mark-line path[stroke]").count()


def test_the_legend_hides_and_shows_a_line_with_the_keyboard(page, figure):
    before = lines(figure)
    button = figure.locator(".legend button", has_text="method_3")
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert button.get_attribute("aria-pressed") == "false" and lines(figure) == before - 1
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert button.get_attribute("aria-pressed") == "true" and lines(figure) == before


def test_an_axis_becomes_linear_and_logarithmic_again(page, figure):
    button = figure.locator(".scales button").first
    ticks = "g.mark-text.role-axis-label text"
    places = [text.bounding_box()["x"] for text in figure.locator(ticks).all()[:4]]
    button.click()
    page.wait_for_timeout(500)
    assert button.inner_text() == "x axis: linear"
    assert [text.bounding_box()["x"] for text in figure.locator(ticks).all()[:4]] != places


def test_a_point_tells_method_value_interval_and_seeds_and_shows_its_band(page, figure):
    point = figure.locator(".chart").first.locator("g.mark-symbol path").last
    point.hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    text = page.locator("#vg-tooltip-element").inner_text()
    for part in ("method_7", "95 % interval", "3 seeds"):
        assert part in text
    page.wait_for_timeout(300)
    bands = figure.locator(".chart").first.locator("g.mark-area path[fill]")
    assert [
        band
        for band in bands.all()
        if float(band.get_attribute("fill-opacity") or band.get_attribute("opacity") or 1) > 0.1
    ]


def test_the_page_has_no_accessibility_violation(page, figure):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    values_table(page)
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_but_tables_scrolls_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_print_opens_details_and_breaks_no_number(page):
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not(.machine):not([open])").count() == 0
    assert set(
        page.locator("td:not(.wrap)").evaluate_all("cells => cells.map(c => getComputedStyle(c).whiteSpace)")
    ) == {"nowrap"}
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
