"""Detokenisation and stop strings: the pieces add up to the whole, however it is cut."""

from hypothesis import given
from hypothesis import strategies as st

from glimp_engine.text.detokenizer import Detokenizer, StopStrings

# Emoji with joiners, CJK, combining marks, and bytes that are no UTF-8 at all.
TEXTS = ["a", "é", "e\u0301", "語", "👩‍🔬", "🏳️‍🌈", "\n\n", " x"]
written = st.lists(st.one_of(st.sampled_from(TEXTS).map(str.encode), st.binary(max_size=3)), max_size=12)


def split(raw: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=12)) | {0, len(raw)})
    return [raw[a:b] for a, b in zip(cuts, cuts[1:] or [len(raw)], strict=False)]


@given(pieces=written, data=st.data())
def test_pushes_add_up_to_the_decoded_whole(pieces, data):
    raw = b"".join(pieces)
    tokens = split(raw, data)
    detokenizer = Detokenizer(tokens.__getitem__)
    text = "".join(detokenizer.push(i) for i in range(len(tokens))) + detokenizer.flush()
    assert text == raw.decode(errors="replace")


@given(text=st.lists(st.sampled_from(TEXTS)).map("".join), data=st.data())
def test_no_character_is_ever_split(text, data):
    tokens = split(text.encode(), data)
    detokenizer = Detokenizer(tokens.__getitem__)
    shown = [detokenizer.push(i) for i in range(len(tokens))]
    assert "\ufffd" not in "".join(shown)
    assert "".join(shown) == text


def test_a_truncated_character_is_replaced_at_the_end_only():
    detokenizer = Detokenizer(["語".encode()[:2], b"a"].__getitem__)
    assert (detokenizer.push(0), detokenizer.flush()) == ("", "\ufffd")
    assert Detokenizer([b"\xff"].__getitem__).push(0) == "\ufffd"


def naive_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Read one character more at a time, until some stop is complete."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(
    text=st.text("ab\n語", max_size=30),
    stops=st.lists(st.text("ab\n語", min_size=1, max_size=4), max_size=4),
    data=st.data(),
)
def test_stop_strings_do_not_depend_on_the_chunks(text, stops, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=10)) | {0, len(text)})
    chunks = [text[a:b] for a, b in zip(cuts, cuts[1:] or [len(text)], strict=False)]
    watch = StopStrings(stops)
    shown = ""
    for chunk in chunks:
        shown += watch.push(chunk)
        expected, _ = naive_stop(text, stops)
        assert expected.startswith(shown)  # nothing shown has to be taken back
    shown += watch.flush()
    assert (shown, watch.matched) == naive_stop(text, stops)


def test_only_what_may_be_a_stop_is_held_back():
    watch = StopStrings(["\n\nQ:"])
    assert [watch.push(text) for text in ("A.", "\n", "\nB", "\n\nQ", ": C", "D")] == ["A.", "", "\n\nB", "", "", ""]
    assert (watch.matched, watch.flush()) == ("\n\nQ:", "")


def naive_hidden_stop(pieces, stops):
    """As naive_stop, in the text with its hidden parts and in the one without: (what is shown, the stop)."""
    full, mask = "", []
    for text, hidden in pieces:
        for char, is_shown in [*((c, True) for c in text), *((c, False) for c in hidden)]:
            full, mask = full + char, [*mask, is_shown]
            places = [i for i, shown in enumerate(mask) if shown]
            visible = "".join(full[i] for i in places)
            found = [(len(full) - len(stop), stop) for stop in stops if full.endswith(stop)]
            if is_shown:
                found += [(places[len(places) - len(stop)], stop) for stop in stops if visible.endswith(stop)]
            if found:
                start, stop = min(found)
                return "".join(c for c, shown in zip(full[:start], mask, strict=False) if shown), stop
    return "".join(c for c, shown in zip(full, mask, strict=True) if shown), None


@given(
    pieces=st.lists(st.tuples(st.text("ab<", max_size=4), st.sampled_from(["", "", "<a>", "<b>"])), max_size=9),
    stops=st.lists(st.text("ab<>", min_size=1, max_size=6), max_size=4, unique=True),
    is_stop_shown=st.booleans(),
)
def test_stop_strings_are_found_with_and_without_what_is_hidden(pieces, stops, is_stop_shown):
    watch, shown = StopStrings(stops, is_stop_shown), ""
    expected, stop = naive_hidden_stop(pieces, stops)
    expected += stop if is_stop_shown and stop else ""
    for text, hidden in pieces:
        mark = watch.mark()
        watch.push("b<a", "<b>")
        watch.take_back(mark)
        shown += watch.push(text, hidden)
        assert expected.startswith(shown)
    assert (shown + watch.flush(), watch.matched) == (expected, stop)
