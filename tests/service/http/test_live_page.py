"""The live page in a real browser, against a real service."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from service.http.security.keys import new_key
from tests.service.processes import DEADLINE, Process, command, environment, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MILLISECONDS = 1000 * DEADLINE
CONFIG = """
[stream]
url = "memory://"
window = 0.5
batch_rows = 16
[features]
user = { id = "category" }
item = { id = "category", colour = "category" }
[ranker.fm]
factors = 4
bits = 10
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine's path"),
]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("page")
    config = folder / "page.toml"
    config.write_text(CONFIG)
    with serving(config, folder) as process, httpx.Client(base_url=process.url, timeout=DEADLINE) as client:
        items = [
            {"type": "item", "item": f"<i>{n}</i>", "attributes": {"colour": "red" if n % 2 else "blue"}} for n in range(10)
        ]
        assert client.post("/v1/events", json=items).status_code == 202
        for n in range(60):
            request = {"user": f"u{n % 7}", "n": 8, "repeat": True} | ({"by": "popularity"} if n % 2 else {})
            ranking = client.post("/v1/recommend", json=request).json()
            clicks = [
                {"type": "interaction", "user": f"u{n % 7}", "item": ranked["item"], "request_id": ranking["request_id"]}
                for ranked in ranking["items"]
                if ranked["item"] in ("<i>3</i>", "<i>5</i>")
            ]
            assert client.post("/v1/events", json=clicks).status_code == 202
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def page(browser: Browser, running: Process, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1100, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
    page.on("request", lambda asked: None if asked.url.startswith(running.url) else problems.append(f"asked {asked.url}"))
    page.goto(running.url)
    yield page
    context.close()
    assert problems == [], "no errors, and nothing is fetched from anywhere else"


def is_problem(message: ConsoleMessage) -> bool:
    """Whether a console message is an error. The browser also logs each refused request, which is expected."""
    return message.type == "error" and "422" not in message.text


def wait_until(page: Page, script: str) -> None:
    """Wait until a script returns true. Playwright's own function needs a page that allows eval."""
    until = time.monotonic() + DEADLINE
    while not page.evaluate(script):
        assert time.monotonic() < until, script
        page.wait_for_timeout(100)


def test_the_pages_work_with_a_key_as_the_browsers_password(browser: Browser, tmp_path: Path) -> None:
    key, entry = new_key("page", ["read", "admin"])
    config, file = tmp_path / "keys.toml", tmp_path / "keys"
    file.write_text(entry)
    file.chmod(0o600)
    config.write_text(f'{CONFIG}[server]\nkeys = "{file}"\n')
    with serving(config, tmp_path) as process:
        context = browser.new_context(http_credentials={"username": "", "password": key})
        page = context.new_page()
        page.set_default_timeout(MILLISECONDS)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith(process.url) else problems.append(f"asked {asked.url}"))
        page.goto(process.url)
        page.wait_for_selector("#connection.live")
        wait_until(page, "samples.length > 1 && learners.length > 0")
        page.get_by_label("User").fill("u1")
        page.get_by_role("button", name="Recommend").click()
        wait_until(page, "document.getElementById('message').textContent.includes('Nothing to recommend yet')")
        page.goto(f"{process.url}/docs")
        page.get_by_text("Find and rank items for a user").click()
        page.get_by_role("button", name="Try it out").click()
        with page.expect_response("**/v1/recommend") as answer:
            page.get_by_role("button", name="Execute").click()
        assert answer.value.status in (200, 422)
        page.wait_for_selector(".responses-table.live-responses-table")
        context.close()
        assert [text for text in problems if not re.search("401|422", text)] == [], "only refusals that are part of the test"


def test_numbers_and_charts_are_alive(page: Page) -> None:
    page.wait_for_selector("#connection.live")
    wait_until(page, "Number(document.getElementById('events').textContent.replace(/,/g, '')) >= 400")
    assert page.locator("figure:not([hidden]) canvas").count() == 4
    wait_until(page, "document.querySelector('[data-chart=ctr] [role=img]').ariaLabel.includes('popularity')")
    label = page.locator("[data-chart=auc] [role=img]").get_attribute("aria-label") or ""
    assert "fm" in label and "popularity" in label
    drawn = page.evaluate(
        """() => [...document.querySelectorAll('figure:not([hidden]) canvas')].map((canvas) => {
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(new Uint32Array(data.buffer)).size;
        })"""
    )
    assert all(colours > 3 for colours in drawn), "lines, not blank sheets"
    first = page.evaluate("samples[samples.length - 1].time")
    wait_until(page, f"samples[samples.length - 1].time > {first}")


def test_each_learner_says_its_own_numbers(page: Page) -> None:
    page.wait_for_selector("#connection.live")
    wait_until(page, "document.querySelectorAll('#told tbody tr').length > 0")
    read = "() => [...document.querySelectorAll('#told tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    told, rows = page.evaluate("samples[samples.length - 1].metrics"), page.evaluate(read)
    assert [name for name, _ in rows] == [name for name, numbers in told.items() if numbers]
    assert ["fm", "capped 0"] in rows
    page.evaluate("drawTold({gated: {open: 1, kept: 0, steps: 12345.6, gain: 0.00321}, mute: {}})")
    assert page.evaluate(read) == [["gated", "open 1, kept 0, steps 12,346, gain 0.0032"]]
    page.evaluate("drawTold({mute: {}})")
    assert not page.locator("#told").is_visible()


def test_it_says_what_it_is_and_hides_the_texts_of_the_demonstration(page: Page) -> None:
    page.wait_for_selector("#connection.live")
    assert "recommends items and learns from every click" in page.locator(".about").first.inner_text()
    wait_until(page, "learners.length && Object.keys(samples[samples.length - 1].sources).length == 2")
    for part in ("#demo", "#lift", "[data-chart=lift]"):
        assert not page.locator(part).is_visible(), part
    sources = "{fm: {rows: 2000, ctr: 0.2}, popularity: {rows: 1000, ctr: 0.16}}"
    assert page.evaluate(f"lift({{sources: {sources}}})") == pytest.approx(0.25)
    assert page.evaluate(f"control({{sources: {sources}}})") == "popularity"


def test_the_demonstration_says_that_its_visitors_are_simulated_and_when_tastes_change(
    browser: Browser, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w+") as out:
        demo = subprocess.Popen(command("demo", "--port", "0", "--seconds", "60"), env=environment(), stdout=out)
        try:
            until = time.monotonic() + DEADLINE
            while not (found := re.search(r"http://\S+/", (tmp_path / "out").read_text())):
                assert time.monotonic() < until and demo.poll() is None
                time.sleep(0.1)
            page = browser.new_context().new_page()
            page.goto(found[0])
            wait_until(page, "document.getElementById('next').textContent > 0")
            text = page.locator("#demo").inner_text()
            assert "The visitors are simulated." in text
            next_change = int(re.search(r"change every 36 s,\s+next in (\d+) s", text)[1])
            wait_until(page, f"document.getElementById('next').textContent < {next_change}")
            assert "clicks vs. popularity" in page.locator("#lift").inner_text()
            wait_until(page, "/^[+\\u2212]\\d+ %$/.test(document.querySelector('#lift dd').textContent)")
            assert page.locator("[data-chart=lift]").is_visible()
            assert not page.locator("[data-chart=auc]").is_visible()
        finally:
            demo.terminate()
            assert demo.wait(DEADLINE) == 0


def test_a_ranking_is_shown_with_its_reasons(page: Page) -> None:
    page.get_by_label("User").fill("u1")
    page.get_by_role("button", name="Recommend").click()
    page.wait_for_selector("#ranking tbody tr")
    rows = page.locator("#ranking tbody tr")
    assert rows.count() == 8
    text = rows.first.inner_text()
    assert "<i>" in text, "ids are text, never markup"
    assert "popularity" in text and "item.id" in text and "colour" in text
    assert page.locator("#ranking .bar span").count() > 8
    assert "fm" in page.locator("#message").inner_text()


def test_a_refusal_is_shown_and_the_page_goes_on(page: Page) -> None:
    page.evaluate("document.getElementById('user').removeAttribute('maxlength')")
    page.get_by_label("User").fill("x" * 300)
    with page.expect_response("**/v1/recommend") as answer:
        page.get_by_role("button", name="Recommend").click()
    assert answer.value.status == 422
    page.wait_for_selector("#message.error")
    assert "user" in page.locator("#message").inner_text()
    page.get_by_label("User").fill("u2")
    page.get_by_role("button", name="Recommend").click()
    page.wait_for_selector("#ranking tbody tr")
