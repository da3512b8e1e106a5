"""What ends an answer, and what of it is shown, on models that are scripts."""

import pytest

from glimp_engine import Engine, Finish, GlimpRouter, LargeOnly, RoutingParams, SamplingParams, SmallOnly, Token

PROMPT = "Go"
PIECES = [" w1", " w2.\n\n", "<|im_start|>", " w3", "\n\n", " w4"]  # then the end token
WHOLE = " w1 w2.\n\n w3\n\n w4"
NAMED = " w1 w2.\n\n<|im_start|> w3\n\n w4"


@pytest.fixture
def scripted(script):
    def make(pieces=PIECES, **options):
        models = [script.model(len(PROMPT), pieces) for _ in range(2)]
        return Engine(*models, kv_cache_bytes=1 << 20, **options)

    return make


def ask(engine, routing=None, **asked):
    """The completion, whose text is also what the events say together."""
    events = list(engine.stream(PROMPT, SamplingParams(temperature=0, max_tokens=20, **asked), routing))
    completion = events[-1].output.outputs[0]
    assert "".join(event.text for event in events if isinstance(event, (Token, Finish))) == completion.text
    for step in completion.steps:
        assert 0 <= step.text_start <= step.text_end <= len(completion.text)
    return completion


SHOWN = {"skip_special_tokens": False}
STOP_SHOWN = {"include_stop_str_in_output": True}
CASES = [
    # asked, text, stop_reason, number of tokens
    ({}, WHOLE, None, 7),
    (STOP_SHOWN, WHOLE, None, 7),  # the end token is special, and has no text
    (SHOWN, NAMED, None, 7),  # what ended the text isn't part of it
    ({**SHOWN, **STOP_SHOWN}, f"{NAMED}<|im_end|>", None, 7),
    # stop strings
    ({"stop": "w3"}, " w1 w2.\n\n ", "w3", 4),
    ({"stop": "w3", **STOP_SHOWN}, " w1 w2.\n\n w3", "w3", 4),
    ({"stop": ".\n", **STOP_SHOWN}, " w1 w2.\n", ".\n", 2),  # no more than the string itself
    ({"stop": ["zzz", "2.\n\n w"], **STOP_SHOWN}, " w1 w2.\n\n w", "2.\n\n w", 4),
    # special tokens' names
    ({"stop": "<|im_start|>"}, " w1 w2.\n\n", "<|im_start|>", 3),
    ({"stop": "<|im_start|>", **STOP_SHOWN}, " w1 w2.\n\n<|im_start|>", "<|im_start|>", 3),
    ({"stop": "<|im_start|>", **SHOWN}, " w1 w2.\n\n", "<|im_start|>", 3),
    ({"stop": "\n<|im_start|> w3", **STOP_SHOWN}, " w1 w2.\n\n<|im_start|> w3", "\n<|im_start|> w3", 4),
    ({"stop": "\n<|im_start|> w3"}, " w1 w2.\n", "\n<|im_start|> w3", 4),
    ({"stop": "<|im_start|> w9"}, WHOLE, None, 7),  # only its beginning came
    ({"stop": "im_start"}, " w1 w2.\n\n", "im_start", 3),
    ({"stop": "<|im_end|>"}, WHOLE, "<|im_end|>", 7),
    ({"stop": "<|im_end|>", **STOP_SHOWN}, f"{WHOLE}<|im_end|>", "<|im_end|>", 7),
    ({"stop": " w4<|im_end|>"}, " w1 w2.\n\n w3\n\n", " w4<|im_end|>", 7),
    ({"stop": "<|im_end|>", "ignore_eos": True}, WHOLE, "<|im_end|>", 7),
]


@pytest.mark.parametrize(("asked", "text", "stop_reason", "num_tokens"), CASES, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("router", [SmallOnly(), LargeOnly(), GlimpRouter(1.0)], ids=str)
def test_what_is_shown_of_what_ends_an_answer(scripted, asked, text, stop_reason, num_tokens, router):
    completion = ask(scripted(), RoutingParams(router=router), **asked)
    assert (completion.text, completion.finish_reason, completion.stop_reason) == (text, "stop", stop_reason)
    assert len(completion.token_ids) == num_tokens


def test_stop_tokens(scripted, script):
    ids = {piece: script.id_of(piece) for piece in PIECES}
    for piece, before in ((" w3", " w1 w2.\n\n"), (" w2.\n\n", " w1"), ("<|im_start|>", " w1 w2.\n\n")):
        for more in ({}, STOP_SHOWN, SHOWN, {**SHOWN, **STOP_SHOWN}):
            completion = ask(scripted(), stop_token_ids=[ids[piece], ids[" w4"]], **more)
            is_special = piece == "<|im_start|>"
            is_shown = bool(more.get("include_stop_str_in_output")) and not (is_special and SHOWN.keys() - more.keys())
            expected = before.replace(" w3", "<|im_start|> w3") + (piece if is_shown else "")
            if piece == " w3" and "skip_special_tokens" in more:
                expected = " w1 w2.\n\n<|im_start|>" + (piece if is_shown else "")
            assert completion.text == expected, (piece, more)
            assert (completion.finish_reason, completion.stop_reason) == ("stop", ids[piece])
            assert completion.token_ids[-1] == ids[piece]


def test_an_ignored_end_token_ends_neither_answer_nor_step(scripted, script):
    pieces = [" w1", "<|im_end|>", " w2.\n\n", "<|im_end|>", "<|im_end|>", " w3"]
    completion = ask(scripted(pieces), ignore_eos=True)
    assert completion.text == " w1 w2.\n\n w3"
    assert (completion.finish_reason, len(completion.token_ids)) == ("length", 20)
    assert [step.num_tokens for step in completion.steps] == [3, 17]
    end = script.id_of("<|im_end|>")
    assert completion.token_ids == [*map(script.id_of, pieces), *[end] * 14]


def test_stop_strings_wait_for_min_tokens(scripted):
    """As in vLLM: what is complete by then doesn't stop, what is complete later does, wherever it began."""
    pieces = [" w1", " w1", " w1", " w2", " w2"]
    for min_tokens, text in ((0, " "), (1, " w1 "), (2, " w1 w1 "), (3, " w1 w1 w1 w2 w2")):
        completion = ask(scripted(pieces), stop="w1", min_tokens=min_tokens)
        assert completion.text == text
        assert completion.stop_reason == (None if min_tokens == 3 else "w1")
    completion = ask(scripted(pieces), stop="1 w1", min_tokens=1)
    assert completion.text == " w"


def test_names_of_special_tokens_are_carried_to_no_other_vocabulary(script):
    """They are shown, and nothing else: the other model reads the same text with and without them."""
    from tiny import Script, make_text

    other = Script(make_text(words=(" v1", " w2.\n\n", " w4", "\n\n", " w1", " w3")))
    pieces = [" w1", "<|im_start|>", " w2.\n\n", " w3", "<|im_start|>", "\n\n", " w4"]
    seen = []
    for skip in (True, False):
        small = script.model(len(PROMPT), pieces, {0: 8, 3: 1})
        large = other.model(len(PROMPT), pieces)
        engine = Engine(small, large, kv_cache_bytes=1 << 20)
        assert not engine.has_one_vocabulary
        routing = RoutingParams(router=GlimpRouter(1.0))
        completion = ask(engine, routing, skip_special_tokens=skip)
        assert len({step.model for step in completion.steps}) == 2
        assert ("<|im_start|>" in completion.text) != skip
        seen.append((completion.token_ids, small.model.forwards, large.model.forwards))
    assert seen[0] == seen[1]
