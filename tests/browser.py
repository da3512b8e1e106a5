"""What tests of a page in a real browser share; the fixtures `chromium` and `page` are in conftest.py."""

import os
import re
import shutil
from contextlib import contextmanager

import pytest

MIN_CONTRAST = 4.5  # WCAG 2.1, 1.4.3
MIN_CONTRAST_OF_LINES = 3  # 1.4.11
HOSTILE = "</script ><!--<script ></script><img src=x onerror=\"document.title='harmed'\"> \"quoted\" & 'so' "


def chromium_path():
    """The path of a browser; CI sets GLIMP_NEEDS_BROWSER, so that it can't go without one unnoticed."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None and os.environ.get("GLIMP_NEEDS_BROWSER"):
        pytest.fail("GLIMP_NEEDS_BROWSER is set, and there is no chromium")
    if path is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    return path


@contextmanager
def opened_page(chromium, **options):
    """A page that remembers what it has complained about, and what it has asked for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(**options)
        opened.complaints, opened.requests = [], []
        opened.on("console", lambda message: opened.complaints.append(message.text))
        opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.on("request", lambda request: opened.requests.append(request.url))
        yield opened
        browser.close()


def contrast(page, text, background, name="color"):
    """Between a colour of one element and the background of another, by their selectors."""
    low, high = sorted((brightness(page, text, name), brightness(page, background, "backgroundColor")))
    return (high + 0.05) / (low + 0.05)


def brightness(page, selector, name):
    """The relative luminance of a colour that is in force, 0 to 1, as WCAG defines it."""
    colour = page.evaluate(f"getComputedStyle(document.querySelector({selector!r})).{name}")
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
