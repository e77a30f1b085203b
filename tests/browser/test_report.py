"""The page about a run in a browser: of the digits, and of as many classes as ImageNet has."""

import pytest
from axe_playwright_python.sync_playwright import Axe

import train as train_command
from tests.browser.conftest import RULES, SCHEMES, WIDTHS, picture
from tests.helpers import synthetic_runs
from tests.helpers.runs import small
from tools import report as report_command
from tools.reporting import page as report_page

VIEWS = [(scheme, width) for scheme in SCHEMES for width in WIDTHS]
# Of each drawing: its box, and whether each thing that is drawn of data has a box and a colour.
DRAWINGS = """() => [...document.querySelectorAll('.drawing')].map(drawing => {
  const box = drawing.querySelector('svg').getBoundingClientRect();
  const data = [...drawing.querySelectorAll('[id*="-data-"]')].map(group => {
    const mark = group.matches('image') ? group : group.querySelector('path, image');
    const size = mark.getBoundingClientRect();
    const colour = mark.matches('image') ? 'of its own' : getComputedStyle(mark).stroke;
    return size.width > 0 && colour !== 'none' && colour !== '';
  });
  return {width: box.width, height: box.height, data};
})"""
FOCUS = """() => {
  const at = document.activeElement, style = getComputedStyle(at);
  return {at: at.outerHTML.slice(0, 90), outline: style.outlineStyle,
          width: parseFloat(style.outlineWidth)};
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{name: path} of a page of the digits, and of 1000 classes beside two more runs."""
    folder = tmp_path_factory.mktemp("pages")
    train_command.train(small(), folder / "digits")
    report_command.report(folder / "digits", out=folder / "digits.html")
    run, *others = [
        synthetic_runs.run(folder / name, 1000, num_epochs)
        for name, num_epochs in (("tiny", 300), ("shorter", 200), ("shortest", 100))
    ]
    findings = synthetic_runs.findings(1000)
    (folder / "1000.html").write_text(report_page.render(run, findings))
    (folder / "compared.html").write_text(report_page.render(run, findings, others))
    return {name: folder / f"{name}.html" for name in ("digits", "1000", "compared")}


@pytest.mark.parametrize("scheme, width", VIEWS)
@pytest.mark.parametrize("name, drawings", [("digits", 7), ("1000", 8), ("compared", 8)])
def test_every_plot_is_drawn_and_the_page_fits(pages, opened, name, drawings, scheme, width):
    with opened(pages[name], scheme, width, reduced_motion="reduce") as page:
        drawn = page.evaluate(DRAWINGS)
        assert len(drawn) == drawings
        for drawing in drawn:
            assert drawing["width"] > 200 and drawing["height"] > 100
            assert drawing["data"] and all(drawing["data"])
        loaded = "images => images.length && images.every(i => i.complete && i.naturalWidth)"
        assert page.eval_on_selector_all("img", loaded)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.said == []
        picture(page, f"{name}_{scheme}_{width}", full_page=True)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["digits", "1000", "compared"])
def test_nothing_is_amiss_for_those_who_do_not_see_it_well(pages, opened, name, scheme):
    with opened(pages[name], scheme, 1280) as page:
        page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        results = Axe().run(page, options=RULES)
        told = [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0].get("failureSummary"))
                for v in results.response["violations"]]  # fmt: skip
        assert told == []
        assert len(results.response["passes"]) > 20


@pytest.mark.parametrize("scheme, width", VIEWS)
def test_the_keys_reach_everything_and_show_where_they_are(pages, opened, scheme, width):
    with opened(pages["digits"], scheme, width) as page:
        page.keyboard.press("Tab")
        first = page.evaluate(FOCUS)
        assert (
            first["at"].startswith('<a class="skip"')
            and page.locator(".skip").bounding_box()["x"] >= 0
        )
        reachable = page.locator("a[href], summary, .scroll:visible").count()
        reached = [first]
        for _ in range(reachable - 1):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(FOCUS))
        assert all(focus["outline"] == "solid" and focus["width"] >= 2 for focus in reached)
        assert len({focus["at"] for focus in reached}) > 20
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details[open] table").first.is_visible()


def test_the_colours_of_the_plots_are_those_of_the_theme(pages, opened):
    colours = {}
    for scheme in SCHEMES:
        with opened(pages["digits"], scheme, 1280) as page:
            stroke = "path => getComputedStyle(path).stroke"
            colours[scheme] = page.eval_on_selector("#plot-top1 [id*='-data-'] path", stroke)
    assert colours["light"] != colours["dark"]


def test_the_page_of_1000_classes_is_of_a_size_to_send(pages):
    assert pages["digits"].stat().st_size < 3e6 and pages["1000"].stat().st_size < 10e6
