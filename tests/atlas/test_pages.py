"""The atlas in a real browser, from files, without a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from accessible import faults
from chromium import CHROMIUM, Browser
from mammo_sae.atlas.live import Live
from mammo_sae.atlas.runs import compare_runs
from mammo_sae.stores.tables import write_table
from serving import serving
from small_atlas import (
    CONCEPT,
    IDS,
    NAME,
    WITHOUT,
    make_atlas,
    write_run,
)
from two_runs import write_two_runs

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(
        CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed"
    ),
]
SAE = "finetuned/head/topk/0"
PAGES = [
    *("index.html", "layer.html", f"latent.html#{SAE}/0", f"image.html#{IDS[0]}"),
    *("confounders.html", "interventions.html", "truth.html", "compare.html"),
]
DRAWN = "[...document.querySelectorAll('canvas[aria-hidden]')].map(one => one.toDataURL())"


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"))
    return make_atlas(folder, tmp_path_factory.mktemp("out") / "atlas")


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas of a run without boxes, confounders and latents that fire, and without pictures."""
    folder = write_run(tmp_path_factory.mktemp("poor"), poor=True)
    return make_atlas(folder, tmp_path_factory.mktemp("out") / "atlas", images="none")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas of a run with names, partners, quality and a concept without a positive image."""
    folder = write_run(tmp_path_factory.mktemp("full"), more=True)
    return make_atlas(folder, tmp_path_factory.mktemp("out") / "atlas")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def page(atlas, browser):
    """Open a page by its name; afterwards nothing was wrong and only files were read.

    A folder in place of the atlas may be given.
    """
    browser.faults.clear()
    browser.requests.clear()
    browser.size(1280, 900)
    browser.scheme("light")

    def opened(name: str, atlas: Path = atlas) -> Browser:
        file, _, place = name.partition("#")
        browser.open((atlas / file).as_uri() + (f"#{place}" if place else ""))
        return browser

    yield opened
    assert browser.faults == []
    assert browser.requests
    assert [
        url for url in browser.requests if not url.startswith(("file:///", "about:", "blob:"))
    ] == []


def _text(page: Browser, selector: str) -> str:
    return page.run(f"document.querySelector({selector!r}).innerText")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [375, 1280, 1920])
def test_a_page_shows_its_content_and_is_no_wider_than_the_window(page, name, width):
    tab = page(name)
    tab.size(width, 900)
    assert tab.run("document.getElementById('problem')?.hidden ?? true")
    assert len(_text(tab, "main")) > 60
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("document.querySelectorAll('h1').length") == 1
    assert tab.run("document.querySelectorAll('img:not([alt])').length") == 0
    assert tab.run("[...document.querySelectorAll('select, input')].filter(e => !e.labels.length && !e.ariaLabel).length") == 0  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_has_no_serious_fault_of_accessibility(page, name, scheme):
    tab = page(name)
    tab.scheme(scheme)
    tab.open(tab.run("location.href"))
    assert faults(tab) == []


def test_the_check_of_accessibility_finds_faults(page):
    tab = page(f"latent.html#{SAE}/0")
    tab.run("""document.querySelector('img').removeAttribute('alt');
        document.getElementById('headline').style.color = '#eeeeee'""")
    found = faults(tab)
    assert [line.partition(":")[0] for line in found] == ["color-contrast", "image-alt"]
    assert "#headline" in found[0]


def test_the_start_page_shows_the_first_latent_on_its_image_and_links_to_it(page):
    tab = page("index.html")
    tab.wait("document.querySelector('.gallery img').complete")
    assert tab.run("document.querySelector('.gallery img').naturalWidth") == 16
    assert tab.run("document.querySelector('.gallery a').getAttribute('href')") == (
        f"latent.html#{SAE}/0"
    )
    assert "masse<ä>" in _text(tab, "main").lower()


def test_the_table_of_a_layer_is_sorted_filtered_and_searched(page):
    tab = page("layer.html")
    cells = "[...document.querySelectorAll('#table tbody tr')].map(r => r.cells[0].innerText)"
    assert tab.run(cells) == ["0", "1"]  # by rank, and without the dead latent
    tab.run("document.querySelector('#table thead th').click()")
    tab.run("document.querySelector('#table thead th').click()")
    tab.wait(f"String({cells}) === '1,0'")
    tab.run("document.getElementById('alive').click()")
    tab.wait(f"{cells}.length === 3")
    tab.run("document.getElementById('verdict').value = 'confounded'")
    tab.run("document.getElementById('verdict').dispatchEvent(new Event('change'))")
    tab.wait(f"String({cells}) === '0'")
    tab.run("""document.getElementById('verdict').value = '';
        document.getElementById('verdict').dispatchEvent(new Event('change'))""")
    tab.wait(f"{cells}.length === 3")
    tab.run("""(box => { box.value = 'marker'; box.dispatchEvent(new Event('input')); })(
        document.querySelector('#table input[type=search]'))""")
    tab.wait(f"String({cells}) === '0'")


def test_the_scatter_keeps_the_size_of_its_letters_in_a_narrow_window(page):
    tab = page("layer.html")
    width = "document.getElementById('scatter').width"
    assert tab.run(width) == 720
    tab.size(375, 900)
    tab.run("document.getElementById('concept').dispatchEvent(new Event('change'))")
    tab.wait(f"{width} < 720")
    assert tab.run(width) == 375 - 2 * 16  # the window without the page's margins


def test_the_keys_go_to_the_next_and_the_previous_latent(page):
    tab = page(f"latent.html#{SAE}/0")
    tab.key("ArrowRight")
    tab.wait("document.getElementById('title').innerText === 'Latent 1'")
    assert tab.run("location.hash") == f"#{SAE}/1"
    assert tab.run("document.getElementById('permalink').getAttribute('href')") == (
        f"latent.html#{SAE}/1"
    )
    tab.key("ArrowLeft")
    tab.wait("document.getElementById('title').innerText === 'Latent 0'")


def test_a_latent_that_does_not_exist_and_a_dead_one_say_so(page):
    tab = page(f"latent.html#{SAE}/99")
    tab.wait("!document.getElementById('problem').hidden")
    assert _text(tab, "#problem") == "No latent 99; this SAE has latents 0 to 2."
    tab.run(f"location.hash = '{SAE}/2'")
    tab.wait("document.getElementById('title').innerText === 'Latent 2'")
    tab.wait("document.getElementById('groups').innerText.includes('No such image.')")
    assert "dead: active in no cell" in _text(tab, "#headline")


@pytest.mark.parametrize("control", ["opacity", "threshold"])
def test_a_slider_changes_the_heat_maps(page, control):
    tab = page(f"latent.html#{SAE}/0")
    before = tab.run(DRAWN)
    move = "(box => {{ box.value = {}; box.dispatchEvent(new Event('input')); }})(document.getElementById('{}'))"  # fmt: skip  # noqa: E501
    tab.run(move.format(80, control))
    assert tab.run(DRAWN) != before


def test_boxes_are_drawn_and_can_be_hidden(page):
    tab = page(f"latent.html#{SAE}/0")
    before = tab.run(DRAWN)
    tab.run("document.getElementById('boxes').click()")
    assert tab.run(DRAWN) != before
    tab.run("document.getElementById('boxes').click()")
    assert tab.run(DRAWN) == before


def test_outlines_are_hidden_until_they_are_wanted(page):
    tab = page(f"latent.html#{SAE}/0")
    lines = "(one => [getComputedStyle(one).display, one.naturalWidth])(document.querySelector('img.outline'))"  # fmt: skip  # noqa: E501
    assert tab.run(lines) == ["none", 0]
    tab.run("document.getElementById('outlines').click()")
    tab.wait("document.querySelector('img.outline').naturalWidth")
    assert tab.run(lines) == ["block", 16]
    tab.key("ArrowRight")
    tab.wait("document.getElementById('title').innerText === 'Latent 1'")
    tab.wait("document.querySelector('img.outline')?.naturalWidth")


def test_the_grey_level_window_and_the_zoom_change_the_picture(page):
    tab = page(f"latent.html#{SAE}/0")
    tab.run("""for (const [name, value] of [['low', 51], ['high', 204], ['zoom', 3]]) {
        document.getElementById(name).value = value;
        document.getElementById(name).dispatchEvent(new Event('input'));
    }""")
    slope = "document.querySelector('#window feFuncG').getAttribute('slope')"
    assert float(tab.run(slope)) == pytest.approx(255 / 153)
    widths = "[...document.querySelectorAll('.sheet, .view')].slice(0, 2).map(e => e.clientWidth)"
    view, sheet = tab.run(widths)
    assert sheet == pytest.approx(3 * view, abs=3)


def test_the_parts_of_a_score_are_on_the_page_of_the_image(page):
    tab = page(f"image.html#{IDS[1]}")
    assert "Any image of the run" not in _text(tab, "main")  # a static atlas has some images
    rows = tab.run("[...document.querySelectorAll('#layers table')[0].rows].slice(1).map(r => [r.cells[0].innerText, r.cells[1].innerText])")  # fmt: skip  # noqa: E501
    assert rows == [
        ["the head's offset and the SAE's bias", "4"],
        ["latent 0", "3"],
        ["latent 1", "0.600"],
        ["the 0 other latents that fire", "0"],
        ["what the SAE leaves out (its error)", "2.400"],
        ["Logit", "10"],
    ]


def test_two_addresses_at_once_do_not_mix_on_the_page(page):
    tab = page(f"image.html#{IDS[0]}")
    tab.run(f"location.hash = '{IDS[1]}'; location.hash = '{IDS[2]}'")
    tab.wait(f"document.body.dataset.ready === '#{IDS[2]}'")
    tab.run("new Promise(done => setTimeout(done, 200))")
    assert _text(tab, "h1") == f"Image {IDS[2]}"
    assert tab.run("document.querySelectorAll('#layers h2').length") == 1
    assert tab.run("document.querySelectorAll('#whole figure').length") == 1


def test_an_sae_is_not_compared_with_itself(page):
    tab = page("compare.html")
    assert "Choose two SAEs." in _text(tab, "main")
    assert tab.run("document.getElementById('a').value") == SAE


def test_the_page_of_two_runs_says_what_is_new_and_links_to_both(page, tmp_path):
    runs = write_two_runs(tmp_path)
    compare_runs(["before", "after"], runs, tmp_path / "both")
    tab = page("runs.html", tmp_path / "both")
    said = _text(tab, "#said")
    assert "1 of the 3 latents of A with images have a match in B: a correlation above" in said
    assert "0 of these have another verdict in B." in said
    assert "2 of the 3 latents of B with images have no match in A." in said
    cells = "[...document.querySelectorAll('#matches tbody tr')].map(r => [...r.cells].slice(0, 3).map(c => c.innerText))"  # fmt: skip  # noqa: E501
    tab.run("""(box => { box.value = 'in both'; box.dispatchEvent(new Event('change')); })(
        document.getElementById('change'))""")
    tab.wait(f"{cells}.length === 1")
    assert tab.run(cells) == [["in both", "0", "1"]]
    links = "[...document.querySelectorAll('#matches tbody a')].map(a => a.getAttribute('href'))"
    assert tab.run(links) == [
        f"../before/atlas/latent.html#{SAE}/0", f"../after/atlas/latent.html#{SAE}/1",
    ]  # fmt: skip
    tab.run("""(box => { box.value = 'only in B'; box.dispatchEvent(new Event('change')); })(
        document.getElementById('change'))""")
    tab.wait(f"{cells}.length === 2")
    assert {link for link in tab.run(links) if "after" in link} == {
        f"../after/atlas/latent.html#{SAE}/0", f"../after/atlas/latent.html#{SAE}/2",
    }  # fmt: skip
    assert faults(tab) == []
    tab.run(
        """ATLAS['nearest/1/SAE'] = {};
        document.getElementById('change').dispatchEvent(new Event('change'))""".replace("SAE", SAE)
    )
    tab.wait("document.getElementById('matches').innerText.includes('Only the latents of B')")
    assert tab.run("document.querySelector('#matches a').getAttribute('href')") == (
        f"#2/{SAE}/1/{SAE}"
    )


def test_the_matrix_of_confounders_has_the_auroc_of_all_images(page, tmp_path):
    write_run(tmp_path)
    test = {
        "encoder": "finetuned", "layer": "head", "sae": "topk", "seed": 0, "latent": 0,
        "concept": CONCEPT, "kind": "acquisition", "q": 0.01, "reason": "",
    }  # fmt: skip
    tests = [
        # The confounder of some images is unknown, so this AUROC is not that of all images.
        {"confounder": "age_bin", "crude_auroc": 0.6, "verdict": "concept-aligned"},
        {"confounder": "marker", "crude_auroc": 0.9, "verdict": "confounded"},
    ]
    rows = [{**test, **one, "stratified_auroc": 0.55} for one in tests]
    write_table(pd.DataFrame(rows), tmp_path / "tables" / "confounds.parquet")
    tab = page("confounders.html", make_atlas(tmp_path, tmp_path / "atlas"))
    cells = "[...document.querySelectorAll('.matrix tr')].map(r => [...r.cells].map(c => c.innerText))"  # fmt: skip  # noqa: E501
    assert tab.run(cells) == [
        ["Latent", "All images", "age bin", "marker"],
        ["latent 0", "0.900", "0.550", "0.550 confounded"],
    ]
    assert tab.run("document.querySelectorAll('#charts svg a').length") == 2


def test_a_table_that_the_run_does_not_have_is_named(page):
    tab = page("truth.html")
    assert "The run has no table truth for finetuned, head, topk, seed 0." in _text(tab, "main")
    assert CONCEPT not in _text(tab, "main")


def test_a_latent_is_downloaded_as_csv_and_json(page):
    tab = page(f"latent.html#{SAE}/0")
    tab.run("""window.saved = [];
        HTMLAnchorElement.prototype.click = function () { saved.push(this.download, fetch(this.href).then(r => r.text())); };
        URL.revokeObjectURL = () => null;
        document.getElementById('csv').click(); document.getElementById('json').click();""")  # noqa: E501
    names = tab.run("[saved[0], saved[2]]")
    assert names == ["latent-finetuned-head-topk-0-0.csv", "latent-finetuned-head-topk-0-0.json"]
    csv, text = tab.run("Promise.all([saved[1], saved[3]])")
    assert csv.startswith("table,row,column,value\n")
    assert "latents,0,auroc,0.9\n" in csv
    assert '"concept": "masse<ä>"' in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("index.html", "No latent was tested for masse<ä>: no latent fires."),
        ("layer.html", "No data available in table"),
        (f"latent.html#{SAE}/0", "This latent has no images in the atlas."),
        ("latent.html", "This latent has no images in the atlas."),
        ("image.html", "This atlas shows no image."),
        ("confounders.html", "The run has no table confounds for finetuned, head, topk, seed 0."),
        ("interventions.html", "The run has no table interventions for finetuned, head, topk"),
        ("truth.html", "The run has no table truth for finetuned, head, topk, seed 0."),
    ],
)
def test_a_run_without_boxes_confounders_and_live_latents_says_what_is_missing(
    page, poor, name, said
):
    tab = page(name, poor)
    assert said.lower() in _text(tab, "main").lower()


@pytest.fixture
def served(tmp_path_factory, browser):
    """Open a page of a served atlas, which has images of latent 0 alone in its folder.

    Afterwards nothing was wrong, and only this server was asked.
    """
    browser.faults.clear()
    browser.requests.clear()
    browser.scheme("light")
    run = tmp_path_factory.mktemp("served")
    write_run(run)
    make_atlas(run, run / "atlas", latents=1)
    with serving(run / "atlas", Live(run / "atlas")) as made:
        host = f"http://127.0.0.1:{made.server_port}/"

        def opened(name: str) -> Browser:
            browser.open(host + name)
            return browser

        yield opened
        browser.send("Page.navigate", url="about:blank")
    assert browser.faults == []
    asked = [url for url in browser.requests if not url.startswith(("about:", "blob:"))]
    assert asked
    assert [url for url in asked if not url.startswith(host)] == []


CAPTIONS = "[...document.querySelectorAll('{} figcaption')].map(one => one.innerText)"


def test_a_served_page_shows_a_latent_and_images_that_the_folder_does_not_hold(served):
    tab = served(f"latent.html#{SAE}/1")
    tab.wait("document.getElementById('groups').innerText.includes('All images of the test split')")
    tab.run("document.querySelector('#groups > button').click()")
    last = CAPTIONS.format("#groups > .gallery:nth-last-child(2)")
    tab.wait(f"{last}.length === 5")
    assert tab.run(last) == [
        f"{IDS[i]} {truth}, activation {activation}"
        for i, truth, activation in [
            (4, "negative", 3), (3, "negative", 2), (1, "positive", 1), (0, "positive", 0),
            (2, "positive", 0),
        ]
    ]  # fmt: skip
    button = "document.querySelector('#groups > button')"
    assert tab.run(f"{button}.innerText") == "Show more images (5 of 5 are shown)"
    assert tab.run(f"{button}.disabled")
    pixel = "(view => [...view.getContext('2d').getImageData(0, 0, 1, 1).data])([...document.querySelectorAll('canvas[aria-hidden]')].slice(-5)[{}])"  # fmt: skip  # noqa: E501
    assert tab.run(pixel.format(0)) == pytest.approx([255, 243, 191, 153], abs=2)  # the highest
    assert tab.run(pixel.format(4))[3] == 0  # no activation
    assert faults(tab) == []


def test_a_served_page_shows_any_latent_in_any_image(served):
    tab = served(f"image.html#{IDS[5]}")
    tab.wait(
        "document.querySelector('#layers .gallery')?.innerText === 'None of the latents fires.'"
    )
    assert "Patient id: p5" in _text(tab, "#facts")
    tab.wait("document.querySelector('#whole img').naturalWidth === 16")
    tab.run(
        """(box => { box.value = 'IDENTIFIER'; box.dispatchEvent(new Event('change')); })(
        document.getElementById('pseudonym'))""".replace("IDENTIFIER", IDS[1])
    )
    fires = CAPTIONS.format("#layers")
    tab.wait(f"{fires}.length === 2")
    assert tab.run(fires) == [
        "latent 0 activation 3, 75 % of its highest", "latent 1 activation 1, 33 % of its highest",
    ]  # fmt: skip
    tab.run("""(box => { box.value = 2; box.dispatchEvent(new Event('change')); })(
        document.querySelector('#layers input[type=number]'))""")
    tab.wait(f"{fires}.length === 3")
    assert tab.run(fires)[2] == "latent 2 activation 0"


def test_a_latent_is_found_by_its_name_and_markup_in_it_is_text(page, full):
    tab = page("layer.html", full)
    cells = "[...document.querySelectorAll('#table tbody tr')].map(r => r.cells[0].innerText)"
    assert tab.run(cells) == ["0", "1"]
    tab.run("""(box => { box.value = 'dense mass'; box.dispatchEvent(new Event('input')); })(
        document.querySelector('#table input[type=search]'))""")
    tab.wait(f"String({cells}) === '0'")
    assert NAME in _text(tab, "#table")
    tab = page(f"latent.html#{SAE}/0", full)
    assert f"Its name is “{NAME}” (q 0.0100, runner-up “a marker”)." in _text(tab, "#headline")
    assert tab.run("document.querySelectorAll('main script').length") == 0
    tab = page(f"latent.html#{SAE}/1", full)
    assert "name" not in _text(tab, "#headline")
    assert "not significant" in _text(tab, "#sections")
    links = "[...document.querySelectorAll('#sections a')].map(a => a.getAttribute('href'))"
    assert f"latent.html#{SAE}/0" in tab.run(links)


def test_the_page_of_a_layer_has_the_quality_and_the_controls(page, full):
    tab = page("layer.html", full)
    rows = "[...document.querySelectorAll('{} tr')].map(r => [...r.cells].map(c => c.innerText))"
    heads, row = tab.run(rows.format("#quality"))
    assert dict(zip(heads, row, strict=True)) == {
        "SAE": SAE, "Kind": "this page", "Explained variance": "0.750", "PCA": "0.500",
        "Channels": "0.250", "Active latents per cell": "2", "Latents": "3",
        "Share of dead latents": "0.333", "AUROC lost": "0.0200 [-0.0100, 0.0500]",
    }  # fmt: skip
    assert not tab.run("document.getElementById('beside').hidden")
    tab.run("document.querySelector('#beside summary').click()")
    heads, row = tab.run(rows.format("#controls"))
    assert dict(zip(heads, row, strict=True)) == {
        "Trained": "topk", "Control": "untrained", "Measure": "auroc best", "Split": "test",
        "Trained value": "0.900 [0.800, 0.950]", "Control value": "0.600 [0.500, 0.700]",
        "Difference": "0.300 [0.200, 0.400]", "Outcome": "wins",
    }  # fmt: skip


def test_a_concept_without_a_positive_image_is_said_on_every_page(page, full):
    tab = page("index.html", full)
    assert f"No latent was tested for {WITHOUT}: no positive image." in _text(tab, "main")
    tab = page("layer.html", full)
    tab.run(f"""(box => {{ box.value = '{WITHOUT}'; box.dispatchEvent(new Event('change')); }})(
        document.getElementById('concept'))""")
    tab.wait("!document.querySelector('#table th:nth-child(4)')")  # latent, name, firing rate
    assert tab.run("document.getElementById('beside').hidden")
    assert tab.run("document.getElementById('problem').hidden")
    tab = page(f"latent.html#{SAE}/0", full)
    assert "Ohne Befund: no AUROC." in _text(tab, "#summary")


@pytest.mark.parametrize("width", [375, 1920])
@pytest.mark.parametrize("name", ["index.html", "layer.html", f"latent.html#{SAE}/0"])
def test_names_and_quality_are_no_wider_than_the_window_and_accessible(page, full, name, width):
    tab = page(name, full)
    tab.size(width, 900)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert faults(tab) == []
