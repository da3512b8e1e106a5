"""`glimp trace`, in a real browser: what a reader sees, hovers over, and must not be harmed by."""

import json
import os
import shutil

import pytest

from glimp_engine.cli.main import main

PROMPT = "How many apples are there in all"
HOSTILE = "</script><img src=x onerror=\"document.title='harmed'\"> \"quoted\" & 'so' "


@pytest.fixture(scope="session")
def chromium():
    """The path of a browser; CI sets GLIMP_NEEDS_BROWSER, so that it can't go without one unnoticed."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None and os.environ.get("GLIMP_NEEDS_BROWSER"):
        pytest.fail("GLIMP_NEEDS_BROWSER is set, and there is no chromium")
    if path is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    return path


@pytest.fixture
def trace(small_path, large_path, tmp_path, capsys):
    """Runs a prompt, and gives (the run, the path of its page)."""

    def make(*arguments, change=lambda run: None):
        pair = ["--small", str(small_path), "--large", str(large_path), "--temperature", "0.9", "--max-tokens", "60"]
        assert main(["run", *pair, "--router", "glimp:2.2", "--json", *arguments, PROMPT]) == 0
        run = json.loads(capsys.readouterr().out)
        change(run)
        (tmp_path / "run.json").write_text(json.dumps(run))
        assert main(["trace", str(tmp_path / "run.json"), "-o", str(tmp_path / "trace.html")]) == 0
        return run, tmp_path / "trace.html"

    return make


@pytest.fixture
def page(chromium):
    """A page that remembers what it has complained about, and what it has asked for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1100, "height": 1200})
        opened.complaints, opened.requests = [], []
        opened.on("console", lambda message: opened.complaints.append(message.text))
        opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.on("request", lambda request: opened.requests.append(request.url))
        yield opened
        browser.close()


def test_the_page_shows_the_steps_and_when_each_model_ran(trace, page):
    run, path = trace()
    page.goto(path.as_uri())
    steps = run["outputs"][0]["steps"]
    blocks = page.locator(".step")
    assert blocks.count() == len(steps)
    assert {step["model"] for step in steps} == {"small", "large"}
    for i, step in enumerate(steps):
        assert step["model"] in blocks.nth(i).get_attribute("class").split()
        assert blocks.nth(i).locator(".entropy").inner_text() == f"{step['entropy']:.3f} nats"
    for model in ("small", "large"):
        assert page.locator(f"rect.tick.{model}").count() == sum(tick["model"] == model for tick in run["ticks"])
    assert page.locator("rect.tick.catch_up").count() > 0
    assert page.locator("rect.tick.prompt").count() > 0
    assert page.locator("#pages path").count() == 1
    assert page.complaints == []
    assert page.requests == [path.as_uri()]


def test_hovering_and_the_keyboard_show_the_five_most_likely_first_tokens(trace, page):
    run, path = trace()
    page.goto(path.as_uri())
    tip = page.locator("#tip")
    assert not tip.is_visible()
    for i, step in enumerate(run["outputs"][0]["steps"][:3]):
        page.locator(".step").nth(i).hover()
        rows = tip.locator("tr")
        assert rows.count() == 5
        probability = rows.first.locator("td").nth(1).inner_text()
        assert probability == f"{100 * 2.718281828459045 ** step['first_tokens'][0]['logprob']:.2f}%"
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    page.locator(".step").first.focus()
    assert tip.is_visible()
    assert page.complaints == []


def test_what_a_model_has_written_is_text_and_nothing_else(trace, page):
    def make_hostile(run):
        run["prompt_text"] = HOSTILE
        run["outputs"][0]["steps"][0]["text"] = HOSTILE
        run["outputs"][0]["steps"][0]["first_tokens"][0]["text"] = HOSTILE

    _, path = trace(change=make_hostile)
    page.goto(path.as_uri())
    assert page.locator("#prompt").inner_text().strip() == HOSTILE.strip()
    assert page.locator(".step .text").first.inner_text() == HOSTILE.strip()
    page.locator(".step").first.hover()
    assert page.locator("#tip img").count() == 0
    assert page.title() == "An answer by two models"
    assert page.complaints == []


def test_a_long_answer_is_drawn_in_time(trace, page):
    def lengthen(run):
        completion = run["outputs"][0]
        completion["steps"] = (completion["steps"] * 300)[:300]
        run["ticks"] = (run["ticks"] * 400)[:20000]

    _, path = trace(change=lengthen)
    page.set_default_timeout(20000)
    page.goto(path.as_uri())
    assert page.locator(".step").count() == 300
    page.locator(".step").nth(299).hover()
    assert page.locator("#tip").is_visible()


def test_a_failed_run_says_why(trace, page):
    def fail(run):
        run.update(error="the small model's logits are not numbers", outputs=[])

    _, path = trace(change=fail)
    page.goto(path.as_uri())
    assert "logits are not numbers" in page.locator("#error").inner_text()
    assert page.complaints == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected the output of `glimp run --json`, found"),
        ("[]", "found no prompt_text, outputs, seconds, stats, ticks"),
        ('{"prompt_text": "", "outputs": [], "seconds": 1, "stats": {}}', "found no ticks"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_run_is_refused(tmp_path, capsys, text, message):
    path = tmp_path / "run.json"
    if text is not None:
        path.write_text(text)
    assert main(["trace", str(path), "-o", str(tmp_path / "trace.html")]) == 1
    told = capsys.readouterr().err
    assert str(path) in told
    assert message in told
