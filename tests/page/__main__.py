"""`make page`: a real browser on the operator's page; `--pictures FOLDER` also takes the screenshots of the docs.

It signs in, filters, opens a job, searches its results, follows what happens without a reload, and cancels a job. Each
page is looked at by axe-core in light and dark, must have no error in its console, must not move while it loads, must
fit a phone, and must be readable without JavaScript.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.harness.service import Service
from tests.page.demo import NIGHTS, SLOW, content, demo
from tests.page.tools import axe, chromium

WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SHIFT = 0.02
"""The layout shift of a page that loads, in the unit of the browser, at most."""
OBSERVE = """
window.shift = 0;
new PerformanceObserver((list) => list.getEntries().forEach((each) => { window.shift += each.value; }))
  .observe({ type: "layout-shift", buffered: true });
"""


class Visit:
    """A browser with its own session.

    Args:
        browser: chromium.
        url: the address of the service.
        options: those of `Browser.new_context`.

    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self._context = browser.new_context(base_url=url, **options)
        self.page = self._context.new_page()
        self.errors: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.add_init_script(OBSERVE)

    def close(self) -> None:
        assert self.errors == []
        self._context.close()


@contextmanager
def visit(browser: Browser, service: Service, token: str | None, **options: Any) -> Iterator[Page]:
    """Open a browser, signed in if there is a token; at the end its console has no errors."""
    visitor = Visit(browser, service.url, **options)
    if token is not None:
        visitor.page.goto(f"/login?token={token}")
    yield visitor.page
    visitor.close()


def sign_in_and_look_around(browser: Browser, service: Service, token: str) -> None:
    """Use the page as an operator does."""
    with visit(browser, service, None, viewport=WIDE) as page:
        page.goto("/")
        expect(page).to_have_url(f"{service.url}/login")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
        expect(page.locator("tbody tr")).to_have_count(NIGHTS + 2)

        page.get_by_label("Key").fill("reviews-0")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("tbody tr")).to_have_count(9)
        assert "text=reviews-0" in page.url
        page.get_by_role("link", name="reviews-05").click()
        expect(page.get_by_role("heading", name="Why requests did not succeed")).to_be_visible()
        page.get_by_label("custom_id").fill("reviews-05/17")
        page.get_by_role("button", name="Search").click()
        found = page.locator("details.result")
        expect(found).to_have_count(1)
        found.locator("summary").click()
        expect(found.locator("pre")).to_contain_text('"custom_id": "reviews-05/17"')
        with page.expect_download() as download:
            page.get_by_role("link", name="Download results").click()
        assert len(download.value.path().read_bytes().splitlines()) == 40 + 13 * 4


def follow_and_cancel(browser: Browser, service: Service, token: str) -> None:
    """A job that arrives appears by itself; a button cancels one."""
    with visit(browser, service, token, viewport=WIDE) as page:
        expect(page.locator("tbody tr")).to_have_count(NIGHTS + 2)
        service.call("POST", "/api/v1/jobs", params={"key": "just-now"}, content=content("just-now", 5))
        expect(page.get_by_role("link", name="just-now")).to_be_visible(timeout=30_000)
        expect(page.locator("tbody tr", has_text="just-now").locator(".state-done")).to_be_visible(timeout=60_000)
        page.goto("/jobs/tickets")
        page.get_by_text("Cancel…").click()
        page.get_by_role("button", name="Cancel this job").click()
        expect(page.locator("h1 .state-done, h1 .state-cancelling")).to_be_visible(timeout=30_000)


def look_with_axe(browser: Browser, service: Service, token: str) -> None:
    """Every page, in light and dark, wide and narrow: no violation, no shift, no scrolling to the side."""
    script = axe()
    for scheme in ("light", "dark"):
        for size in (WIDE, PHONE):
            with visit(browser, service, token, viewport=size, color_scheme=scheme, bypass_csp=True) as page:
                for path in ("/", "/jobs/reviews-05", f"/jobs/{SLOW}", "/login"):
                    page.goto(path)
                    page.evaluate(script)
                    result = page.evaluate("axe.run()")
                    told = [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in result["violations"]]
                    assert told == [], f"{path} in {scheme}: {told}"
                    assert page.evaluate("window.shift") <= SHIFT, path
                    wider = page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth")
                    assert wider <= 0, f"{path} is {wider} pixels wider than {size['width']}"


def read_without_javascript(browser: Browser, service: Service, token: str) -> None:
    with visit(browser, service, token, viewport=WIDE, java_script_enabled=False) as page:
        page.goto("/")
        expect(page.get_by_role("link", name="reviews-05")).to_be_visible()
        page.goto("/jobs/reviews-05")
        expect(page.get_by_role("button", name="Retry failed")).to_be_visible()


def take_pictures(browser: Browser, service: Service, token: str, folder: Path) -> None:
    """Take the pictures of the docs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path, options in (
        ("page", "/", {"viewport": WIDE}),
        ("page-dark", "/", {"viewport": WIDE, "color_scheme": "dark"}),
        ("page-phone", "/", {"viewport": PHONE}),
        ("page-job", "/jobs/reviews-05", {"viewport": WIDE}),
    ):
        with visit(browser, service, token, **options) as page:
            page.goto(path)
            page.screenshot(path=folder / f"{name}.png")


def main() -> None:
    """Run everything; the first thing that does not hold ends the program."""
    parser = argparse.ArgumentParser(prog="python -m tests.page")
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, demo(Path(folder)) as (service, token), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        if options.pictures is not None:
            take_pictures(browser, service, token, options.pictures)
            return
        for step in (sign_in_and_look_around, look_with_axe, read_without_javascript, follow_and_cancel):
            step(browser, service, token)
            print(f"ok   {step.__name__.replace('_', ' ')}")
        browser.close()


if __name__ == "__main__":
    main()
