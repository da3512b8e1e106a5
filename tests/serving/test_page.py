"""The page at `/`, in a real browser, over the demo pair: what a newcomer does, sees, and must not be harmed by."""

import json
import re
import time
import urllib.request
from itertools import pairwise

import pytest
from browser import HOSTILE, MIN_CONTRAST, MIN_CONTRAST_OF_LINES, brightness, contrast
from serving.conftest import OPTIONS
from serving.running import running

from glimp_engine import Engine, GlimpRouter, RoutingParams, SmallOnly
from glimp_engine.demo_pair import LARGE, ROUTING, SMALL
from glimp_engine.load import load_router
from glimp_engine.serving.page import page_response

pytestmark = pytest.mark.slow  # a browser is started for each

QUESTION = "how far is leon to geneva to paris to leon?"
STEPS = 10  # of its answer by both models, at any threshold
ONLY_STATUS = "Failed to load resource: the server responded with a status of"  # what a browser says of a refusal


@pytest.fixture
def expect(page):
    from playwright.sync_api import expect

    expect.set_options(timeout=20000)
    return expect


@pytest.fixture
def opened(page, server, expect):
    """The page, once it knows the models."""
    page.goto(server.url)
    expect(page.locator("#served")).to_have_text("demo")
    return page


@pytest.fixture(scope="module")
def slow_server():
    """A token every 20 ms, so that there is time to press a key."""
    engine = Engine(SMALL, LARGE, loop="host", speculation="off", **OPTIONS)
    advance = engine.advance

    def advance_slowly():
        time.sleep(0.02)
        return advance()

    engine.advance = advance_slowly
    with running(engine, model_names=("slow",), routing=RoutingParams(router=GlimpRouter(0.1))) as found:
        yield found


@pytest.fixture(scope="module")
def locked_server():
    with running(Engine(SMALL, **OPTIONS), model_names=("locked",), api_keys=("sesame",)) as found:
        yield found


def ask(page, expect, question=QUESTION, button="#ask"):
    page.locator("#question").fill(question)
    page.locator(button).click()
    expect(page.locator("#status")).to_contain_text("Done")


def steps_by_api(server, **fields):
    """The steps of the same answer, not streamed."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "include_steps": True, **fields}
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["glimp"]["steps"]


def writers(page, phase):
    return page.locator(f".{phase} .step .who").all_inner_texts()


def answer_with(page, *events):
    """What the server would stream, written here."""
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, headers={"Content-Type": "text/event-stream"}, body=body),
    )


def piece(index, text, phase="thinking", **more):
    fields = {"index": index, "model": "small", "phase": phase, "entropy": 0.5, "text": text, "num_tokens": 1}
    return {**fields, "begins": True, "is_hand_over": False, "ends": True, "seconds": 0.1, **more}


def chunk(*pieces, finish=None):
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], "glimp": {"pieces": list(pieces)}}


# Asking.


def test_an_answer_grows_in_both_models_colours_and_is_the_api_s(opened, server, expect):
    opened.locator("#threshold").fill("0.1")
    ask(opened, expect)
    steps = steps_by_api(server, routing={"threshold": 0.1})
    shown = opened.locator(".step")
    assert shown.count() == len(steps) == STEPS
    assert {step["model"] for step in steps} == {"small", "large"}
    for i, step in enumerate(steps):
        assert step["model"] in shown.nth(i).get_attribute("class").split()
        assert shown.nth(i).locator(".text").text_content() == step["text"].strip()
        told = "\N{EN DASH}" if step["entropy"] is None else f"{step['entropy']:.3f} nats"
        assert shown.nth(i).locator(".entropy").text_content() == told
    thought = [step["text"].strip() for step in steps if step["phase"] == "thinking"]
    assert opened.locator(".thinking .text").all_text_contents() == thought
    assert opened.locator(".answer .text").all_text_contents() == [steps[-1]["text"].strip()]
    colours = {
        model: opened.locator(f".step.{model} .text").first.evaluate("each => getComputedStyle(each).color")
        for model in ("small", "large")
    }
    assert colours["small"] != colours["large"]
    assert opened.complaints == []


def test_the_numbers_are_those_of_the_steps(opened, server, expect):
    opened.locator("#threshold").fill("0.1")
    ask(opened, expect)
    steps = steps_by_api(server, routing={"threshold": 0.1})
    numbers = dict(zip(*(opened.locator(f".numbers {tag}").all_inner_texts() for tag in ("dt", "dd")), strict=True))
    num_tokens = sum(step["num_tokens"] for step in steps)
    assert numbers["tokens"] == str(num_tokens)
    hand_overs = sum(a["model"] != b["model"] for a, b in pairwise(steps))
    assert numbers["hand-overs"] == str(hand_overs)
    seconds = {name: float(numbers[name].removesuffix(" s")) for name in ("time", "first token")}
    assert 0 < seconds["first token"] <= seconds["time"] < 20
    assert float(numbers["tokens/s"]) == pytest.approx(num_tokens / seconds["time"], rel=0.1)
    num_large = sum(step["num_tokens"] for step in steps if step["model"] == "large")
    of_tokens, of_seconds = opened.locator(".share span").all_inner_texts()
    assert of_tokens == f"large: {100 * num_large / num_tokens:.0f}% of tokens"
    assert re.fullmatch(r"large: \d+% of seconds", of_seconds)
    assert opened.locator("#status").inner_text().startswith(f"Done: {num_tokens} tokens in ")
    assert opened.locator(".thinking summary").inner_text().startswith(f"Thinking {STEPS - 1} steps, ")


def test_the_slider_s_ends_are_the_large_and_the_small_model(opened, expect):
    for end, number, model in (("0", "0", "large"), ("100", "∞", "small")):
        opened.locator("#slider").fill(end)
        assert opened.locator("#threshold").input_value() == number
        ask(opened, expect)
        assert writers(opened, "thinking") == [model] * (STEPS - 1)
        assert writers(opened, "answer") == ["large"]
    assert opened.complaints == []


def test_the_slider_and_the_number_follow_each_other(opened):
    slider, number = opened.locator("#slider"), opened.locator("#threshold")
    assert number.input_value() == f"{load_router(ROUTING, SMALL, LARGE).threshold:g}"  # the server's own
    for at, nats in (("1", "0.01"), ("99", "3"), ("50", "0.17")):
        slider.fill(at)
        assert number.input_value() == nats
        assert slider.get_attribute("aria-valuetext") == f"{nats} nats"
    for nats, at in (("0", "0"), ("0,01", "1"), ("1e9", "99"), ("inf", "100"), ("3", "99"), ("0.17", "50")):
        number.fill(nats)
        assert slider.input_value() == at
    number.fill("much")
    assert slider.input_value() == "50"
    opened.locator("#question").fill(QUESTION)
    opened.locator("#ask").click()
    assert "The threshold is “much”" in opened.locator("#error").inner_text()
    assert not any("chat" in url for url in opened.requests)


@pytest.mark.parametrize("model", ["small", "large"])
def test_one_model_alone_writes_the_thinking_and_the_answer(opened, expect, model):
    opened.get_by_label(f"{model} only").check()
    assert opened.locator("#slider").is_disabled()
    assert opened.locator("#both").get_attribute("aria-disabled") == str(model == "large").lower()
    ask(opened, expect)
    assert set(writers(opened, "thinking") + writers(opened, "answer")) == {model}
    assert opened.locator(".run h2").inner_text() == f"The {model} model alone"


def test_side_by_side(opened, server, expect):
    opened.locator("#threshold").fill("0.1")
    ask(opened, expect, button="#both")
    runs = opened.locator(".run")
    assert runs.locator("h2").all_inner_texts() == ["GlimpRouter at 0.1 nats", "The large model alone"]
    for run, routing in zip(runs.all(), ({"threshold": 0.1}, {"router": "large"}), strict=True):
        texts = [step["text"].strip() for step in steps_by_api(server, routing=routing)]
        assert run.locator(".text").all_text_contents() == texts
    boxes = [run.bounding_box() for run in runs.all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    times = [float(time.removesuffix(" s")) for time in opened.locator(".run dd:first-of-type").all_inner_texts()[::5]]
    told = opened.locator("#ratio").inner_text()
    found = re.match(r"([\d.]+) times as (fast|slow) as the large model alone: ", told)
    ratio = float(found[1]) if found[2] == "fast" else 1 / float(found[1])
    assert ratio == pytest.approx(times[1] / times[0], rel=0.2)  # they are shown with two digits
    assert "both at once" in told
    assert "The answers are the same" in told
    assert opened.complaints == []


def test_side_by_side_one_after_the_other(slow_server, page, expect):
    page.goto(slow_server.url)
    page.locator("#more summary").click()
    page.get_by_label("one after the other").check()
    page.locator("#question").fill(QUESTION)
    page.locator("#both").click()
    expect(page.locator(".run").nth(1).locator(".step").first).to_be_visible()
    assert page.locator(".run").nth(0).locator(".answer").is_visible()
    assert page.locator(".run").nth(0).locator(".open").count() == 0
    expect(page.locator("#status")).to_contain_text("Done")
    assert "one after the other" in page.locator("#ratio").inner_text()


def test_both_columns_grow_at_once(slow_server, page, expect):
    page.goto(slow_server.url)
    page.locator("#question").fill(QUESTION)
    page.locator("#both").click()
    for i in (0, 1):
        expect(page.locator(".run").nth(i).locator(".step.open .text")).to_have_text(re.compile("."))
    assert page.locator("#stop").is_enabled()
    assert page.locator("#status").inner_text() == "Writing …"
    assert page.locator("#ratio").inner_text() == ""
    expect(page.locator("#status")).to_contain_text("Done")
    assert page.locator(".open").count() == 0
    assert not page.locator("#stop").is_enabled()


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop(slow_server, page, expect, how):
    page.goto(slow_server.url)
    page.locator("#question").fill(QUESTION)
    page.locator("#both").click()
    expect(page.locator(".step").nth(2)).to_be_visible()
    assert slow_server.door.num_unfinished == 2
    page.locator("#stop").click() if how == "button" else page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("Stopped.")
    deadline = time.monotonic() + 10
    while slow_server.door.num_unfinished and time.monotonic() < deadline:
        time.sleep(0.01)
    assert slow_server.door.num_unfinished == 0
    text = page.locator("#answers").inner_text()
    assert "Stopped." in text
    page.wait_for_timeout(200)
    assert page.locator("#answers").inner_text() == text
    assert page.locator("#ratio").inner_text() == ""
    assert page.evaluate("document.activeElement.id") == "question"
    ask(page, expect)  # and it can be asked again
    assert page.complaints == []


def test_temperature_and_most_tokens_are_sent_if_given(opened, expect):
    bodies = []
    opened.on("request", lambda request: bodies.append(request.post_data_json) if request.post_data else None)
    ask(opened, expect)
    opened.locator("#more summary").click()
    opened.locator("#temperature").fill("0.5")
    opened.locator("#max-tokens").fill("7")
    ask(opened, expect)
    assert [body.get("temperature") for body in bodies] == [None, 0.5]
    assert [body.get("max_tokens") for body in bodies] == [None, 7]
    assert [body["model"] for body in bodies] == ["demo", "demo"]
    assert "Cut off" in opened.locator(".run").inner_text()
    assert opened.locator("#model option").all_inner_texts() == ["demo", "alias"]
    opened.locator("#model").select_option("alias")
    opened.locator("#max-tokens").fill("0")
    opened.locator("#more summary").click()
    opened.locator("#ask").click()  # the field that isn't right is shown
    assert opened.locator("#max-tokens").is_visible()
    opened.locator("#max-tokens").fill("")
    ask(opened, expect)
    assert bodies[-1]["model"] == "alias"


# By the keyboard.


def test_the_keyboard_is_enough(opened, expect):
    press = opened.keyboard.press
    assert opened.evaluate("document.activeElement.id") == "question"
    opened.keyboard.type("how far is leon to geneva")
    press("Shift+Enter")
    opened.keyboard.type("to paris to leon?")
    assert opened.locator("#question").input_value() == "how far is leon to geneva\nto paris to leon?"
    opened.locator("#question").fill(QUESTION)
    press("Tab")
    press("Tab")
    assert opened.evaluate("document.activeElement.id") == "slider"
    press("Home")
    assert opened.locator("#threshold").input_value() == "0"
    press("Shift+Tab")
    press("ArrowRight")
    assert opened.get_by_label("small only").is_checked()
    press("ArrowLeft")
    press("Shift+Tab")
    press("Enter")
    expect(opened.locator("#status")).to_contain_text("Done")
    assert writers(opened, "thinking") == ["large"] * (STEPS - 1)
    press("Control+Enter")
    expect(opened.locator(".run")).to_have_count(2)
    expect(opened.locator("#status")).to_contain_text("beside it")
    for _ in range(20):
        press("Tab")
        if opened.evaluate("document.activeElement.classList.contains('step')"):
            break
        outline = opened.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", opened.evaluate("document.activeElement.outerHTML")
    index = "[...document.querySelectorAll('.step')].indexOf(document.activeElement)"
    assert opened.evaluate(index) == 0
    assert "entropy" in opened.locator("#tip").inner_text()
    for key, at in (
        ("ArrowDown", 1),
        ("End", STEPS - 1),
        ("ArrowDown", STEPS - 1),
        ("ArrowUp", STEPS - 2),
        ("Home", 0),
    ):
        press(key)
        assert opened.evaluate(index) == at
    press("Escape")
    assert not opened.locator("#tip").is_visible()
    press("Tab")  # the other column's thinking, and its steps
    press("Tab")
    assert opened.evaluate(index) == STEPS
    assert opened.complaints == []


def test_every_field_has_a_label_and_the_end_is_announced(opened, expect):
    fields = opened.locator("input, textarea, select, button")
    for field in fields.all():
        named = field.evaluate(
            "each => each.ariaLabel || each.textContent || (each.labels.length && each.labels[0].textContent)"
        )
        assert str(named or "").strip(), field.evaluate("each => each.outerHTML")
    ask(opened, expect)
    assert opened.get_by_role("status").inner_text() == opened.locator("#status").inner_text() != ""
    assert opened.locator("[aria-live], [role=status], [role=alert]").locator(".step").count() == 0


def test_details_of_a_step_under_the_mouse(opened, server, expect):
    opened.locator("#threshold").fill("0.1")
    ask(opened, expect)
    steps = steps_by_api(server, routing={"threshold": 0.1})
    tip = opened.locator("#tip")
    assert not tip.is_visible()
    for i in (0, 3, STEPS - 1):
        opened.locator(".step").nth(i).hover()
        rows = dict(row.split("\t") for row in tip.locator("table").inner_text().splitlines() if "\t" in row)
        assert rows["tokens"] == str(steps[i]["num_tokens"])
        assert rows["writer"].startswith(f"the {steps[i]['model']} model")
        if steps[i]["entropy"] is None:
            assert rows["glimpse"] == "none was taken"
        else:
            assert float(rows["entropy"].removesuffix(" nats")) == pytest.approx(steps[i]["entropy"], rel=1e-3)
        assert rows["time"].endswith(" s")
    opened.mouse.move(0, 0)
    assert not tip.is_visible()


# What goes wrong.


def test_a_prompt_that_is_too_long_is_told_of_in_the_server_s_words(opened, expect):
    opened.locator("#question").fill(QUESTION * 100)
    opened.locator("#ask").click()
    error = opened.locator(".run .error")
    expect(error).to_contain_text("The server says: ")
    assert "max_model_len" in error.inner_text()
    assert opened.locator("#status").inner_text() == "That didn't work."
    assert [each for each in opened.complaints if not each.startswith(ONLY_STATUS)] == []
    ask(opened, expect)  # and it goes on
    assert opened.locator(".error").all_inner_texts() == ["", ""]


def test_an_error_within_the_stream_leaves_what_was_written(opened, expect):
    answer_with(opened, chunk(piece(0, "so far\n\n")), {"error": {"message": "the engine has failed"}})
    opened.locator("#question").fill(QUESTION)
    opened.locator("#ask").click()
    expect(opened.locator(".run .error")).to_have_text("The server says: the engine has failed")
    assert opened.locator(".text").all_text_contents() == ["so far"]


def test_a_stream_that_breaks_off_and_a_server_that_is_gone(opened, expect):
    answer_with(opened, chunk(piece(0, "so far", ends=False)))
    opened.locator("#question").fill(QUESTION)
    opened.locator("#ask").click()
    expect(opened.locator(".run .error")).to_contain_text("broke off")
    assert opened.locator(".open").count() == 0
    opened.unroute("**/v1/chat/completions")
    opened.route("**/v1/chat/completions", lambda route: route.abort())
    opened.locator("#ask").click()
    expect(opened.locator(".run .error")).to_contain_text("can't be reached")
    opened.unroute("**/v1/chat/completions")
    opened.route("**/v1/chat/completions", lambda route: route.fulfill(status=502, body="<html>Bad gateway"))
    opened.locator("#ask").click()
    expect(opened.locator(".run .error")).to_contain_text("The server says: 502")


def test_an_empty_question_is_not_asked(opened):
    opened.locator("#question").fill("  ")
    opened.keyboard.press("Enter")
    assert opened.locator("#error").inner_text() == "There is no question yet."
    assert not any("chat" in url for url in opened.requests)


def test_a_key_is_asked_for_when_the_server_wants_one(locked_server, page, expect):
    page.goto(locked_server.url)
    key = page.get_by_label("API key")
    expect(key).to_be_visible()
    expect(page.locator("#error")).to_have_text("This server asks for an API key.")
    key.fill("wrong")
    key.press("Tab")
    expect(page.locator("#error")).to_contain_text("doesn't know this API key")
    key.fill("sesame")
    key.press("Tab")
    expect(page.locator("#served")).to_have_text("locked")
    expect(page.locator("#error")).to_have_text("")
    for choice in ("#routers", "#threshold-row", "#both"):  # there is no large model
        assert not page.locator(choice).is_visible()
    ask(page, expect)
    assert set(writers(page, "thinking") + writers(page, "answer")) == {"small"}
    assert [each for each in page.complaints if not each.startswith(ONLY_STATUS)] == []


def test_without_a_key_to_give_none_is_asked_for(opened):
    assert not opened.get_by_label("API key").is_visible()


# What a page must not do, and how it looks.


def test_what_models_and_servers_write_is_text_and_nothing_else(opened, expect):
    answer_with(
        opened,
        chunk(piece(0, HOSTILE)),
        chunk(piece(1, HOSTILE, phase="answer", model="<img src=x>"), finish="stop"),
    )
    ask(opened, expect, question=HOSTILE)
    assert opened.locator(".text").all_text_contents() == [HOSTILE.strip()] * 2
    opened.locator(".step").first.hover()
    opened.unroute("**/v1/chat/completions")
    answer_with(opened, {"error": {"message": HOSTILE}})
    opened.locator("#ask").click()
    expect(opened.locator(".run .error")).to_have_text(f"The server says: {HOSTILE.strip()}")
    assert opened.locator("img").count() == 0
    assert opened.title() == "One answer by two models"
    assert opened.complaints == []


def test_text_that_comes_in_parts_keeps_its_lines_but_not_the_blank_ones_around_it(opened, expect):
    texts = ["\n", "\n  if x", ":\n", "\n    y", "\n", "\n"]
    parts = [piece(0, text, begins=i == 0, ends=i == len(texts) - 1) for i, text in enumerate(texts)]
    answer_with(opened, *[chunk(part) for part in parts], chunk(finish="length"))
    ask(opened, expect)
    assert opened.locator(".text").all_text_contents() == ["  if x:\n\n    y"]
    assert opened.locator(".run .quiet", has_text="Cut off").is_visible()


def test_a_model_that_does_not_think_has_an_answer_only(opened, expect):
    answer_with(opened, chunk(piece(0, "one\n\n", "answer"), piece(1, "two", "answer"), finish="stop"))
    ask(opened, expect)
    assert not opened.locator(".thinking").is_visible()
    assert opened.locator(".answer .text").all_text_contents() == ["one", "two"]


def test_nothing_is_asked_of_anybody_else_and_the_browser_is_told_so(opened, server, expect):
    with urllib.request.urlopen(server.url) as response:
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = response.headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "connect-src 'self'", "img-src data:", "frame-ancestors 'none'"):
        assert part in policy
    ask(opened, expect, button="#both")
    assert opened.requests == [f"{server.url}{path}" for path in ("/", "/v1/models", *["/v1/chat/completions"] * 2)]
    assert opened.complaints == []


def test_a_narrow_window_has_no_horizontal_scroll_bar(opened, expect):
    opened.set_viewport_size({"width": 360, "height": 640})
    opened.locator("#more summary").click()
    is_within = "document.documentElement.scrollWidth <= 360"
    assert opened.evaluate(is_within)
    ask(opened, expect, button="#both")
    assert opened.evaluate(is_within)
    first, second = (run.bounding_box() for run in opened.locator(".run").all())
    assert first["y"] + first["height"] <= second["y"]
    for step in opened.locator(".step").all():
        step.hover()
        assert opened.evaluate(is_within)
    answer_with(opened, chunk(piece(0, "x" * 500), piece(1, "y" * 500, "answer"), finish="stop"))
    ask(opened, expect, question="z" * 500)
    assert opened.evaluate(is_within)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page_in_light_and_in_dark(opened, expect, scheme):
    opened.emulate_media(color_scheme=scheme)
    assert (brightness(opened, "body", "backgroundColor") > 0.5) == (scheme == "light")
    opened.locator("#threshold").fill("0.1")
    ask(opened, expect)
    opened.locator(".step").first.hover()
    behind = {"h1": "body", "#served": "body", "#tip .quiet": "#tip", "dt": "body", ".error": "body", "#ask": "#ask"}
    in_a_step = (".small .text", ".large .text", ".small .who", ".large .who", ".step .entropy")
    for text, background in (behind | dict.fromkeys(in_a_step, ".thinking .step")).items():
        assert contrast(opened, text, background) >= MIN_CONTRAST, text
    for line in ("#question", "#threshold", "#both"):
        assert contrast(opened, line, "body", "borderTopColor") >= MIN_CONTRAST_OF_LINES, line


def test_nothing_moves_for_who_wants_no_motion(opened, expect):
    ask(opened, expect)
    assert opened.locator(".open").count() == 0
    opened.evaluate("document.querySelector('.step').classList.add('open')")  # as while it's written
    for motion, name in (("reduce", "none"), ("no-preference", "blink")):
        opened.emulate_media(reduced_motion=motion)
        assert (
            opened.evaluate("getComputedStyle(document.querySelector('.open .text'), '::after').animationName") == name
        )


def test_the_window_follows_what_is_written_unless_its_reader_scrolls(slow_server, page, expect):
    page.set_viewport_size({"width": 700, "height": 500})
    page.goto(slow_server.url)
    page.locator("#question").fill(QUESTION)
    page.locator("#ask").click()
    expect(page.locator(".step")).to_have_count(STEPS)
    below = "document.documentElement.scrollHeight - innerHeight - scrollY"
    assert page.evaluate(below) < 120  # a line or two may have come since
    expect(page.locator("#status")).to_contain_text("Done")
    page.locator("#ask").click()
    expect(page.locator(".step").nth(4)).to_be_visible()
    page.mouse.wheel(0, -2000)
    expect(page.locator("#status")).to_contain_text("Done")
    assert page.evaluate("scrollY") == 0


def test_a_long_answer_is_drawn_in_time(opened, expect):
    pieces = [piece(i, "some words of a step\n\n") for i in range(1000)]
    pieces.append(piece(1000, "word " * 20000, "answer"))
    answer_with(opened, *[chunk(each) for each in pieces], chunk(finish="stop"))
    began = time.monotonic()
    ask(opened, expect)
    assert time.monotonic() - began < 15
    assert opened.locator(".step").count() == 1001


@pytest.mark.parametrize(
    ("router", "threshold"),
    [
        (GlimpRouter(0.04), "0.04"),
        (GlimpRouter(float("inf")), "inf"),
        (GlimpRouter(0.3, "margin"), "1"),
        (GlimpRouter(large_fraction=0.2), "1"),
        (SmallOnly(), "1"),
    ],
)
def test_the_slider_begins_at_the_server_s_threshold_in_nats(router, threshold):
    assert f'data-threshold="{threshold}"' in page_response(RoutingParams(router=router)).body.decode()
