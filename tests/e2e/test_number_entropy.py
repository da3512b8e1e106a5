"""The entropy at a step's numbers, as a signal and as a router, and the control that knows only how late it is."""

import dataclasses
import math

import pytest
import torch
from models import whole
from tiny import SPECIAL, THINKING, make_text
from tiny_requests import GREEDY, PROMPTS, SAMPLED, check_pages, routing, token_ids

from glimp_engine import Draft, Engine, LateRouter, Model, NumberEntropyRouter, RandomRouter, SmallOnly, Verdict
from glimp_engine.checkpoints.checkpoint import load_checkpoint
from glimp_engine.kernels.reference import ReferenceOps
from glimp_engine.models.decoder import Decoder
from glimp_engine.text.digits import digit_table


@pytest.fixture
def engine(small_path, large_path):
    return Engine(small_path, large_path)


@dataclasses.dataclass(frozen=True)
class Watching(NumberEntropyRouter):
    """Keeps what it has judged."""

    drafts: list[Draft] = dataclasses.field(default_factory=list)

    def review(self, draft):
        self.drafts.append(draft)
        return super().review(draft)


def steps_of(outputs):
    return [(output, step) for output in outputs for step in output.outputs[0].steps]


def has_digit(engine, output, step):
    """Of each of the step's tokens, in its writer's words."""
    ids = output.outputs[0].token_ids[step.token_start : step.token_end]
    return [any(c.isdigit() for c in engine.token_text(i, step.model)) for i in ids]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b" 12", 1), (b"3", 1), (b"w7.\n\n", 1), (b" twelve", 0), (b"", 0), (b"\xd9\xa3", 1), ("４".encode(), 1),  # noqa: RUF001
        ("½".encode(), 0), ("Ⅳ".encode(), 0), (b"\xd9", 0), (b"\xff7", 1),
    ],
)  # fmt: skip
def test_which_tokens_have_a_digit(token, expected):
    assert digit_table([b"a", token, b"0"], 5) == bytes([0, expected, 1, 0, 0])
    assert digit_table([b"a", token, b"0"], 2) == bytes([0, expected])  # more tokens than logits


def test_a_special_token_has_none():
    """Its name isn't written: <|fim_7|> is no number."""
    text = make_text(special=(*SPECIAL, *THINKING, "<|fim_7|>"))
    ids = range(text.num_tokens)
    table = digit_table(map(text.written_bytes, ids), text.num_tokens)
    tokens = {text.bytes_of(i): table[i] for i in ids}
    assert (tokens[b"<|fim_7|>"], tokens[b" w7"], tokens[b"7"], tokens[b"w"]) == (0, 1, 1, 0)


@pytest.mark.parametrize("router", [RandomRouter(0.5), NumberEntropyRouter(2.6)], ids=["random", "reviewing"])
def test_it_is_the_mean_over_the_tokens_with_a_digit(engine, small_path, large_path, router):
    decoders = [
        Decoder(*load_checkpoint(path, torch.float64, torch.device("cpu")), ReferenceOps())
        for path in (small_path, large_path)
    ]
    seen = set()
    for output, step in steps_of(engine.generate(PROMPTS, SAMPLED, routing(router), use_tqdm=False)):
        ids = output.prompt_token_ids + output.outputs[0].token_ids
        entropies = torch.distributions.Categorical(logits=whole(decoders[step.model], ids)).entropy()
        places = torch.arange(step.token_start, step.token_end) + len(output.prompt_token_ids) - 1
        own = entropies[places][torch.tensor(has_digit(engine, output, step))]
        if len(own):
            assert step.number_entropy == pytest.approx(own.mean().item(), rel=1e-4)
        else:
            assert step.number_entropy is None
        seen.add((step.model, len(own) > 0))
    assert seen >= {(Model.SMALL, True), (Model.SMALL, False), (Model.LARGE, True)}


@pytest.mark.parametrize("path", ["foreign_path", "cousin_path"])
def test_each_vocabulary_has_digits_of_its_own(small_path, path, request):
    engine = Engine(small_path, request.getfixturevalue(path))
    outputs = engine.generate(PROMPTS, SAMPLED, routing(RandomRouter(0.5)), use_tqdm=False)
    steps = steps_of(outputs)
    assert {(step.model, step.number_entropy is None) for _, step in steps} >= {(m, False) for m in Model}
    for output, step in steps:
        assert (step.number_entropy is not None) == any(has_digit(engine, output, step))
    check_pages(engine)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_ends(engine, small_path, sampling):
    """Above all entropies the small model alone; at 0 every step with a number is the large model's, and no other."""
    alone = token_ids(Engine(small_path).generate(PROMPTS, sampling, routing(SmallOnly()), use_tqdm=False))
    never = NumberEntropyRouter(math.inf)
    assert token_ids(engine.generate(PROMPTS, sampling, routing(never), use_tqdm=False)) == alone
    steps = steps_of(engine.generate(PROMPTS, sampling, routing(NumberEntropyRouter(0)), use_tqdm=False))
    assert all(not any(has_digit(engine, output, step)) for output, step in steps if step.model is Model.SMALL)
    assert all(step.num_redone_tokens > 0 for _, step in steps if step.model is Model.LARGE)
    assert {step.model for _, step in steps} == set(Model)
    assert engine.stats().recomputed_tokens == 0
    check_pages(engine)


def test_what_is_judged_is_what_the_step_says(engine):
    router = Watching(2.4)
    steps = steps_of(engine.generate(PROMPTS[0], SAMPLED, routing(router), use_tqdm=False))
    verdicts = [NumberEntropyRouter(2.4).review(draft) for draft in router.drafts]
    kept = [draft for draft, verdict in zip(router.drafts, verdicts, strict=True) if verdict is Verdict.ACCEPT]
    assert {Verdict.ACCEPT, Verdict.REDO} == set(verdicts)
    small = [step for _, step in steps if step.model is Model.SMALL]
    assert [step.number_entropy for step in small[: len(kept)]] == [draft.number_entropy for draft in kept]


@pytest.mark.parametrize("num_tokens", [0, 1, 15, 1000])
def test_late(engine, small_path, large_path, num_tokens):
    outputs = engine.generate(PROMPTS, SAMPLED, routing(LateRouter(num_tokens)), use_tqdm=False)
    for _, step in steps_of(outputs):
        assert step.model is (Model.LARGE if step.token_start >= num_tokens else Model.SMALL)
    end = {0: large_path, 1000: small_path}.get(num_tokens)
    if end is not None:
        assert token_ids(outputs) == token_ids(
            Engine(end).generate(PROMPTS, SAMPLED, routing(SmallOnly()), use_tqdm=False)
        )
    else:
        assert {step.model for _, step in steps_of(outputs)} == set(Model)
    check_pages(engine)
