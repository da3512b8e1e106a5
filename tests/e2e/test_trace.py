"""`glimp trace`, in a real browser: what a reader sees, hovers over, and must not be harmed by."""

import json

import pytest
from browser import HOSTILE, MIN_CONTRAST, MIN_CONTRAST_OF_LINES, brightness, contrast
from proposers import Whims

from glimp_engine.cli.main import main

pytestmark = pytest.mark.slow  # a browser is started for each

PROMPT = "How many apples are there in all"


@pytest.fixture
def trace(small_path, large_path, tmp_path, capsys):
    """Runs a prompt, and gives (the run, the path of its page)."""

    def make(*arguments, change=lambda run: None, large=large_path):
        pair = ["--small", str(small_path), "--large", str(large), "--temperature", "0.9", "--max-tokens", "60"]
        assert main(["run", *pair, "--router", "glimp:2.2", "--json", *arguments, PROMPT]) == 0
        run = json.loads(capsys.readouterr().out)
        change(run)
        (tmp_path / "run.json").write_text(json.dumps(run))
        assert main(["trace", str(tmp_path / "run.json"), "-o", str(tmp_path / "trace.html")]) == 0
        capsys.readouterr()
        return run, tmp_path / "trace.html"

    return make


@pytest.fixture
def proposed_trace(trace, small_path, monkeypatch):
    """The same with proposals by whim to what knows the answer; one model as both accepts some of all kinds."""
    run, _ = trace("--speculation", "off", large=small_path)
    known = {None: run["outputs"][0]["token_ids"]}
    monkeypatch.setattr("glimp_engine.engine.Proposing", lambda *parts: Whims(1, knows=known))
    return lambda **options: trace(large=small_path, **options)


def test_the_ticks_of_a_run_add_up_to_its_counters(trace):
    run, _ = trace("--speculation", "off")
    check_ticks(run)
    completion = run["outputs"][0]
    last_writer = completion["steps"][-1]["model"]
    num_run = sum(run["stats"][last_writer][f"{kind}_tokens"] for kind in ("prompt", "catch_up", "decode"))
    assert num_run == len(run["prompt_token_ids"]) + len(completion["token_ids"]) - 1  # the last one is not run


def test_the_ticks_of_a_run_with_proposals_do_too(proposed_trace):
    run, _ = proposed_trace()
    check_ticks(run)
    assert all(run["stats"][model]["proposal_tokens"] > 0 for model in ("small", "large"))


def check_ticks(run):
    for model in ("small", "large"):
        ticks, stats = [tick for tick in run["ticks"] if tick["model"] == model], run["stats"][model]
        assert len(ticks) == stats["num_forwards"] > 0
        assert sum(tick["ended"] - tick["began"] for tick in ticks) == pytest.approx(stats["seconds"])
        for kind in ("prompt", "catch_up", "question", "decode", "proposal"):
            assert sum(each[kind] for tick in ticks for each in tick["tokens"]) == stats[f"{kind}_tokens"]
    times = [seconds for tick in run["ticks"] for seconds in (tick["began"], tick["ended"])]
    assert [0, *times, run["seconds"]] == sorted([0, *times, run["seconds"]])
    for tick in run["ticks"]:
        pages = tick["num_used_pages"] + tick["num_cached_pages"] + tick["num_free_pages"]
        assert pages == run["stats"]["num_pages"]
    assert run["ticks"][-1]["num_used_pages"] > 0


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


def test_what_was_proposed_is_marked_and_what_was_refused_shown_if_asked(proposed_trace, page):
    run, path = proposed_trace()
    page.goto(path.as_uri())
    steps = run["outputs"][0]["steps"]
    for name in ("small", "ngram"):
        marked = [p["text"] for s in steps for p in s["pieces"] if p["proposer"] == name and p["text"].strip()]
        shown = page.locator(f"#steps u.accepted.by-{name}").all_inner_texts()
        assert [text.strip() for text in shown] == [text.strip() for text in marked] != []
        counts = run["stats"]["proposers"][name]
        assert (
            f"{name} {counts['accepted_tokens']} of {counts['proposed_tokens']}"
            in page.locator("#summary").inner_text()
        )
    assert page.locator("#proposals").is_visible()
    refused = page.locator("#steps del.refused")
    texts = [p["refused"].replace("\n", "↵") for step in steps for p in step["pieces"] if p["refused"]]
    assert refused.all_text_contents() == texts != []
    assert not any(each.is_visible() for each in refused.all())
    before = page.locator("#steps").inner_text()
    page.get_by_label("show what was refused").check()
    assert all(each.is_visible() for each in refused.all())
    assert refused.first.inner_text() == texts[0]
    page.get_by_label("show what was refused").uncheck()
    assert page.locator("#steps").inner_text() == before
    step = next(i for i, each in enumerate(steps) if each["num_proposed_tokens"])
    page.locator(".step").nth(step).hover()
    counts = steps[step]["num_accepted_tokens"], steps[step]["num_proposed_tokens"]
    assert "{} of {} proposals accepted".format(*counts) in page.locator("#tip").inner_text()
    assert page.locator("rect.tick.proposal").count() > 0
    assert "proposals" in page.locator("#legend").inner_text()
    assert page.complaints == []


def test_a_page_without_proposals_says_nothing_of_them(trace, page):
    _, path = trace("--speculation", "off")
    page.goto(path.as_uri())
    assert not page.locator("#proposals").is_visible()
    assert page.locator("#steps u, #steps del, rect.tick.proposal").count() == 0
    assert "proposals" not in page.locator("#summary, #legend").first.inner_text()
    page.locator(".step").first.hover()
    assert "proposals" not in page.locator("#tip").inner_text()


def test_a_run_of_before_there_were_proposals_is_drawn(trace, page):
    def make_old(run):
        del run["stats"]["proposers"]
        for step in run["outputs"][0]["steps"]:
            del step["pieces"], step["num_proposed_tokens"], step["num_accepted_tokens"]
        for tokens in (tokens for tick in run["ticks"] for tokens in tick["tokens"]):
            del tokens["proposal"]

    run, path = trace("--speculation", "off", change=make_old)
    page.goto(path.as_uri())
    shown = page.locator(".step .text").all_inner_texts()
    assert [text.strip() for text in shown] == [step["text"].strip() for step in run["outputs"][0]["steps"]]
    assert page.locator("rect.tick").count() == len(run["ticks"])
    assert page.complaints == []


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


def test_the_first_tokens_are_within_the_window(trace, page):
    def make_one_tall(run):
        steps = run["outputs"][0]["steps"]
        run["outputs"][0]["steps"] = (steps * 20)[:20]
        run["outputs"][0]["steps"][1] = {
            **steps[1],
            "pieces": [{"text": "line\n" * 100, "proposer": None, "refused": ""}],
        }

    _, path = trace("--speculation", "off", change=make_one_tall)  # else there is a checkbox to move to
    page.goto(path.as_uri())
    inside = """() => {
        const box = document.getElementById("tip").getBoundingClientRect();
        return box.width > 0 && box.top >= 0 && box.bottom <= innerHeight && box.left >= 0 && box.right <= innerWidth;
    }"""
    page.locator(".step").nth(1).hover()
    assert page.evaluate(inside)
    page.mouse.move(0, 0)
    for _ in range(20):  # most of them are out of sight before the key is pressed
        page.keyboard.press("Tab")
        page.wait_for_function(inside, timeout=3000)
    assert page.evaluate("document.activeElement === document.querySelector('.step:last-child')")
    page.set_viewport_size({"width": 390, "height": 600})
    page.locator(".step").first.hover()
    assert page.evaluate(inside)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page_in_light_and_in_dark(proposed_trace, page, scheme):
    _, path = proposed_trace()
    page.emulate_media(color_scheme=scheme)
    page.goto(path.as_uri())
    assert (brightness(page, "body", "backgroundColor") > 0.5) == (scheme == "light")
    page.get_by_label("show what was refused").check()
    page.locator(".step").first.focus()
    behind = {"#prompt": "#prompt", "#summary": "body", "#tip .quiet": "#tip", "#tip code": "#tip code"}
    in_a_step = dict.fromkeys((".step .text", ".entropy", ".small .who", ".large .who", ".step .refused"), ".step")
    in_a_step["#proposals del"] = "body"
    for text, background in (behind | in_a_step).items():
        assert contrast(page, text, background) >= MIN_CONTRAST, text
    for line in (".step .accepted.by-small", ".step .accepted.by-ngram"):
        assert contrast(page, line, ".step", "textDecorationColor") >= MIN_CONTRAST_OF_LINES, line


def test_what_a_model_has_written_is_text_and_nothing_else(trace, page):
    def make_hostile(run):
        run["prompt_text"] = HOSTILE
        first, second = run["outputs"][0]["steps"][:2]
        first["text"] = HOSTILE
        del first["pieces"]
        first["first_tokens"][0]["text"] = HOSTILE
        second["pieces"] = [{"text": HOSTILE, "proposer": "small", "refused": HOSTILE}]

    _, path = trace(change=make_hostile)
    page.goto(path.as_uri())
    assert page.locator("#prompt").inner_text().strip() == HOSTILE.strip()
    assert page.locator(".step .text").first.inner_text() == HOSTILE.strip()
    assert page.locator(".step").nth(1).locator("u.accepted.by-small").inner_text() == HOSTILE.strip()
    assert page.locator(".step").nth(1).locator("del.refused").text_content() == HOSTILE
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


STEP = (
    '{"model": "small", "text": "", "entropy": null, "first_tokens": [], "token_start": 0, "token_end": 0, '
    '"seconds": 0, "num_redone_tokens": 0, "pieces": %s}'
)
RUN_OF = '{"prompt_text": "", "outputs": [%s], "seconds": 1, "stats": {"hand_overs": 0}, "ticks": [%s]}'


def run_of_pieces(pieces):
    return RUN_OF % ('{"finish_reason": "stop", "steps": [%s]}' % (STEP % pieces), "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected the output of `glimp run --json`, found"),
        ("[]", "found no prompt_text, outputs, seconds, stats, ticks"),
        ('{"prompt_text": "", "outputs": [], "seconds": 1, "stats": {}}', "found no ticks"),
        ('{"prompt_text": "", "outputs": 1, "seconds": 1, "stats": {}, "ticks": []}', "found no stats.hand_overs"),
        (RUN_OF % ("{}", ""), "found no outputs[0].finish_reason, outputs[0].steps"),
        (RUN_OF % ('{"finish_reason": "stop", "steps": {}}', ""), "found dict where outputs[0].steps should be a list"),
        (
            RUN_OF % ('{"finish_reason": "stop", "steps": [{"model": "small"}]}', ""),
            "found no outputs[0].steps[0].text",
        ),
        (RUN_OF % ("", '{"model": "small"}'), "found no ticks[0].began"),
        (run_of_pieces("{}"), "found dict where outputs[0].steps[0].pieces should be a list"),
        (run_of_pieces('[{"text": ""}]'), "found no outputs[0].steps[0].pieces[0].proposer"),
        (
            run_of_pieces('[{"text": "", "proposer": "large", "refused": ""}]'),
            "outputs[0].steps[0].pieces[0].proposer is 'large'; allowed: small, ngram",
        ),
        (
            RUN_OF.replace('"hand_overs": 0', '"hand_overs": 0, "proposers": []') % ("", ""),
            "found list where stats.proposers should be an object",
        ),
        (
            RUN_OF.replace('"hand_overs": 0', '"hand_overs": 0, "proposers": {"small": {}}') % ("", ""),
            "found no stats.proposers.small.proposed_tokens",
        ),
        (RUN_OF % ("", "NaN"), "found NaN, which is no JSON"),
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


def test_a_page_that_cannot_be_written_is_told_without_a_traceback(tmp_path, capsys):
    (tmp_path / "run.json").write_text(RUN_OF % ("", ""))
    assert main(["trace", str(tmp_path / "run.json"), "-o", str(tmp_path / "none" / "trace.html")]) == 1
    assert f"--out is {tmp_path / 'none' / 'trace.html'}: No such file or directory" in capsys.readouterr().err
