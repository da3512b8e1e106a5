"""Characters of several tokens: no step ends inside one, and what is streamed is what comes out."""

import pytest
from tiny import Script, make_text

from glimp_engine import Engine, Finish, GlimpRouter, LargeOnly, Model, RoutingParams, SamplingParams, SmallOnly, Token
from glimp_engine.text.boundaries import Boundary, BoundaryTable

GREEDY = SamplingParams(temperature=0)
PROMPT = "Go"


def run(pair, prompt=PROMPT, max_step_tokens=3, router=None, **sampling):
    """(streamed text, completion)."""
    engine = Engine(*pair, kv_cache_bytes=1 << 20)
    routing = RoutingParams(
        router=router or GlimpRouter(1.0), max_step_tokens=max_step_tokens, stop_repeated_steps=False
    )
    events = list(engine.stream(prompt, SamplingParams(temperature=0, **sampling), routing))
    streamed = "".join(event.text for event in events if isinstance(event, Token | Finish))
    output = events[-1].output
    assert output.error is None
    return streamed, output.outputs[0]


class Bytes(Script):
    """Writes any bytes, one token each, by whatever vocabulary."""

    def id_of(self, piece):
        return [self.text.bytes_of(i) for i in range(self.vocab_size)].index(
            piece.encode() if isinstance(piece, str) else piece
        )


def pair_of(raw, num_equal=None):
    """Two models with unrelated vocabularies that write the same bytes; num_equal: what the small one is unsure of."""
    texts = make_text(), make_text(words=(" other",))
    return [
        Bytes(text).model(len(PROMPT), [bytes([byte]) for byte in raw], num_equal if which is Model.SMALL else None)
        for which, text in zip(Model, texts, strict=True)
    ]


@pytest.mark.parametrize("max_step_tokens", [1, 2, 3, 4, 5])
def test_a_step_ends_behind_a_character(max_step_tokens):
    written = "a語é👩b\n\nü"
    unsure = dict.fromkeys(range(len(written.encode())), 5)  # each step by the large model
    streamed, completion = run(pair_of(written.encode(), unsure), max_step_tokens=max_step_tokens)
    assert streamed == completion.text == written
    for step in completion.steps:
        assert "\N{REPLACEMENT CHARACTER}" not in completion.text[step.text_start : step.text_end]
        assert step.num_tokens <= max_step_tokens + 3


@pytest.mark.parametrize("num_equal", [{}, dict.fromkeys(range(14), 5), dict.fromkeys(range(0, 14, 3), 5)])
def test_what_never_becomes_a_character_is_shown_where_it_stands(num_equal):
    raw = b"a\xe8\xaa\xff\xe8\xe8\xe8b\xf0\x9f\n\nc\xc3"
    streamed, completion = run(pair_of(raw, num_equal), max_step_tokens=2)
    assert streamed == completion.text
    assert completion.text.startswith("a\N{REPLACEMENT CHARACTER}")
    assert all(step.text_end >= step.text_start for step in completion.steps)


def test_a_stop_string_behind_it_is_found():
    raw = "語x STOP y".encode()
    streamed, completion = run(pair_of(raw, dict.fromkeys(range(len(raw)), 5)), max_step_tokens=1, stop="STOP")
    assert streamed == completion.text == "語x "


def test_a_thinking_budget_ends_behind_a_character_too():
    text = make_text(template="{{ '<think>\n' }}")
    length = len(text.encode("<think>\n", allow_special=True))
    num_forced = len(text.end_of_thinking("", text.marks))
    pieces = [bytes([byte]) for byte in "語".encode() + b"." * num_forced + b"x"]
    engine = Engine(Bytes(text).model(length, pieces), kv_cache_bytes=1 << 20)
    routing = RoutingParams(router=SmallOnly(), max_thinking_tokens=2)
    completion = engine.generate("<think>\n", GREEDY, routing, use_tqdm=False)[0].outputs[0]
    assert completion.text == "語\n</think>\n\nx"


def test_a_token_that_ends_inside_a_character_completes_no_step():
    tokens = [b"a", b"\n\n", b"\n\n\xe8", b"\xaa\x9e", b"\n\n\xc3\xa9", b"\n\n\xf0\x9f\x91"]
    table = BoundaryTable.build(tokens, [], [], len(tokens), skip_code_fences=False)

    def completed(*token_ids):
        state, boundaries = table.start_state, []
        for token_id in token_ids:
            state, boundary = table.advance(state, int(table.token_class[token_id]))
            boundaries.append(boundary)
        return boundaries[-1]

    assert completed(0, 1) == completed(0, 4) == Boundary.BLANK_LINE
    assert completed(0, 2) == completed(0, 5) == completed(0, 2, 3) == Boundary.NONE
    assert completed(0, 2, 3, 1) == Boundary.BLANK_LINE


@pytest.mark.parametrize("router", [SmallOnly(), LargeOnly()], ids=str)
def test_what_a_budget_cuts_is_completed_by_its_own_writer(router):
    streamed, completion = run(pair_of("ab語".encode()), router=router, max_tokens=4)
    assert streamed == completion.text == "ab\N{REPLACEMENT CHARACTER}"
