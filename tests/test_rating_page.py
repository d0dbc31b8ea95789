"""The rating page in a real browser: two raters rate everything by keyboard, reload, lose the server, finish; import."""

import csv
import json
import random
from urllib.parse import urlsplit

import pytest

import browser as chromium
from browser import wait
from conftest import runner
from emplifai.records import CRITERIA
from rating_study import MODELS, Server, draw, emplifai, make


@pytest.fixture(scope="module")
def browser():
    driver = chromium.start()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = make(tmp_path_factory.mktemp("page"), hostile=True)
    project, tokens = draw(folder, "page", "--raters", "4", "--items", "8", "--repeat", "0.25")
    with Server(project) as server:
        yield folder, server, tokens


def one(browser, selector: str):
    return browser.find_element("css selector", selector)


def position(browser) -> int | None:
    """Of the item shown; None on any other page, and while pages change."""
    found = browser.execute_script("return document.querySelector('form[data-rate]')?.dataset.position ?? null")
    return None if found is None else int(found)


def keys(browser, *pressed: str) -> None:
    from selenium.webdriver import ActionChains

    for key in pressed:
        ActionChains(browser).send_keys(key).perform()


def states(browser) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('fieldset')].map(f => f.dataset.state)")


def enter(browser, server, token: str) -> None:
    """Open the link, agree, begin."""
    browser.get(f"{server.url}/enter#{token}")
    wait(lambda: one(browser, "button[value=agree]"), "the consent page").click()
    wait(lambda: "手引き" in one(browser, "h1").text, "the guide")
    one(browser, "form button").click()
    wait(lambda: position(browser) is not None, "the first item")


def rate_all(browser, pages: list[str], score) -> dict[tuple[int, str], int]:
    """By keyboard alone, three digits and Enter an item, with a reload in the middle of each third."""
    from selenium.webdriver.common.keys import Keys

    given = {}
    while (place := position(browser)) is not None:
        chosen = {c: score() for c in CRITERIA}
        pages.append(browser.page_source)
        keys(browser, str(chosen["fluency"]))
        wait(lambda: states(browser)[0] == "saved", "the first score to be saved")
        if place % 3 == 1:
            browser.refresh()
            wait(lambda: position(browser) == place and states(browser) == ["saved", "", ""], "the item after a reload")
        keys(browser, str(chosen["empathy"]), str(chosen["emotion_empathy"]))
        wait(lambda: states(browser) == ["saved"] * 3, "all scores to be saved")
        pages.append(browser.page_source)
        keys(browser, Keys.ENTER)
        wait(lambda: "ご協力" in browser.page_source or position(browser) == place + 1, "the next item")
        given |= {(place, c): s for c, s in chosen.items()}
    return given


def test_two_raters_rate_everything_and_the_numbers_arrive_unchanged(study, browser):
    folder, server, tokens = study
    pages, given, scores = [], {}, random.Random(1)
    other = chromium.start()
    try:
        for driver, rater in ((browser, "r01"), (other, "r02")):
            driver.get_log("performance")
            enter(driver, server, tokens[rater])
            given[rater] = rate_all(driver, pages, lambda: scores.randint(1, 5))
            pages.append(driver.page_source)
            assert tokens[rater] not in driver.current_url
            assert [line for line in driver.get_log("browser") if line["level"] in ("SEVERE", "WARNING")] == []
            events = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
            asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
            assert {urlsplit(url).netloc for url in asked} == {urlsplit(server.url).netloc}
            assert not any(tokens[rater] in url.split("#")[0] for url in asked)
    finally:
        other.quit()
    assert not any(name in page for page in pages for name in (*MODELS, "xylophone", "dlg-"))
    emplifai(folder, "import", server.project)
    design, key = (json.loads((server.project / name).read_text()) for name in ("design.json", "key.json"))
    want = {
        (rater, item["dialogue_id"], item["model"], c): given[rater][place, c]
        for rater in given
        for place, item in enumerate(key["items"][i] for i in design["orders"][rater])
        if item["kind"] == "item"
        for c in CRITERIA
    }
    with open(folder / "data/ratings/page.csv", encoding="utf-8") as file:
        rows = {(r["rater_id"], r["dialogue_id"], r["model"], r["criterion"]): int(r["score"]) for r in csv.DictReader(file)}
    assert rows == want and len(rows) == 2 * 8 * 3
    correlated(folder, rows)


def correlated(folder, rows: dict[tuple, int]) -> None:
    """What correlate makes of them: the mean of the two raters, reply by reply."""
    replies = sorted({key[1:] for key in rows})
    lines = [f"j,{dialogue},{model},{criterion},{1 + k % 5}" for k, (dialogue, model, criterion) in enumerate(replies)]
    (folder / "judged.csv").write_text("\n".join(["judge,dialogue_id,model,criterion,score", *lines]))
    command = [
        "correlate",
        "--ratings",
        "data/ratings/page.csv",
        "--judgements",
        "judged.csv",
        "--out",
        "out",
        "--resamples",
        "100",
    ]
    runner(folder)("emplifai", *command)
    with open(folder / "out/items.csv", encoding="utf-8") as file:
        means = {(r["dialogue_id"], r["model"], r["criterion"]): float(r["human_mean"]) for r in csv.DictReader(file)}
    assert means == {reply: (rows["r01", *reply] + rows["r02", *reply]) / 2 for reply in replies}
    assert "simulated" not in (folder / "out/agreement.csv").read_text("utf-8")


def test_what_was_not_saved_is_called_so_and_sent_again(study, browser):
    _, server, tokens = study
    enter(browser, server, tokens["r03"])
    server.kill()
    keys(browser, "4")
    wait(lambda: "まだ保存されていません" in one(browser, "[data-status]").text, "the page to say that it is not saved")
    keys(browser, "2")
    assert states(browser) == ["unsaved", "unsaved", ""]
    server.start()
    wait(lambda: states(browser) == ["saved", "saved", ""], "the page to send it again")
    browser.refresh()
    wait(lambda: states(browser) == ["saved", "saved", ""], "the scores after a reload")
    assert [one(browser, f"input[name={c}]:checked").get_attribute("value") for c in CRITERIA[:2]] == ["4", "2"]


def test_enter_wants_all_criteria_and_the_mouse_works_too(study, browser):
    from selenium.webdriver.common.keys import Keys

    wait(lambda: position(browser) == 0, "the open item")
    keys(browser, Keys.ENTER)
    wait(lambda: "まだ選んでいない" in one(browser, "[data-status]").text, "the page to ask for the third")
    browser.execute_script("document.querySelector('input[name=emotion_empathy][value=\"5\"]').closest('label').click()")
    wait(lambda: states(browser) == ["saved"] * 3, "the click to be saved")
    one(browser, "button[name=next]").click()
    wait(lambda: position(browser) == 1, "the next item")
    browser.back()
    wait(lambda: position(browser) == 1, "the same item: there is no way back")


def test_a_second_tab_is_told_what_the_first_one_saved(study, browser):
    server = study[1]
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(server.url)
    wait(lambda: position(browser) == 1, "the same item in the second tab")
    keys(browser, "5")
    wait(lambda: states(browser)[0] == "saved", "the second tab to save")
    browser.close()
    browser.switch_to.window(first)
    keys(browser, "1")
    wait(lambda: "ほかの画面で点数が変わりました" in one(browser, "[data-status]").text, "the first tab to be told")
    assert one(browser, "input[name=fluency]:checked").get_attribute("value") == "5"
    assert states(browser)[0] == "saved"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_phone_and_desk_in_light_and_dark(study, browser, width, scheme):
    server = study[1]
    settings = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    for path in ("/enter", "/", "/guide", "/withdraw"):
        browser.get(server.url + path)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path
        faint = browser.execute_script(CONTRAST)
        assert not faint, (path, scheme, faint)
    browser.get(server.url)
    assert browser.execute_script("return [...document.querySelectorAll('input[type=radio]')].every(i => i.labels.length)")
    if width == 390:
        low = browser.execute_script(
            "return Math.min(...[...document.querySelectorAll('fieldset label')].map(l => l.offsetHeight))"
        )
        assert low >= 44  # pixels a finger needs (WCAG 2.5.5)


# Texts with less contrast to their ground than WCAG 2 AA asks of normal text, 4.5.
CONTRAST = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = (c) => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number); return 0.2126*channel(r) + 0.7152*channel(g) + 0.0722*channel(b); };
const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c; } return "rgb(255,255,255)"; };
return [...document.querySelectorAll("body *")].filter((e) => !["SCRIPT", "STYLE"].includes(e.tagName) && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
  .map((e) => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))]; return [e.textContent.slice(0, 20), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; })
  .filter(([, ratio]) => ratio < 4.5);
"""  # noqa: E501
