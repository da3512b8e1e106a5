"""A text that grows by pieces is the pieces' text."""

from hypothesis import given
from hypothesis import strategies as st

from glimp_engine.sequences.growing_text import GrowingText

CHANGES = st.lists(st.one_of(st.text(max_size=5), st.floats(0, 1), st.none()), max_size=30)


@given(CHANGES)
def test_it_is_what_a_string_would_be(changes):
    """Pieces are added, a share of all is kept, or it's read."""
    ours, text = GrowingText(), ""
    for change in changes:
        if isinstance(change, str):
            ours.add(change)
            text += change
        elif change is not None:
            num_kept = int(change * len(text))
            ours.cut(num_kept)
            text = text[:num_kept]
        else:
            assert str(ours) == text
        assert len(ours) == len(text)
    assert str(ours) == text
