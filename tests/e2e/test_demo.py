"""The demo pair: what the package promises of it, on problems that neither model has read."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from glimp_engine import Engine
from glimp_engine.cli.demo import compare, load_problems
from glimp_engine.cli.main import main
from glimp_engine.demo_pair import LARGE, ROUTING, SMALL, TEST, VALIDATION
from glimp_engine.load import load_router

EXAMPLE = Path(__file__).parents[2] / "examples" / "demo_pair"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def rows():
    engine = Engine(SMALL, LARGE, device="cpu")
    found = compare(engine, load_problems(200), load_router(ROUTING, SMALL, LARGE))
    return {row.router: row for row in found}


@pytest.mark.slow
@pytest.mark.xdist_group("demo")
def test_routing_by_entropy_is_nearly_as_good_as_the_large_model_alone(rows):
    """Bounds a little wider than those measured on 1,000 problems, docs/results.md, as these are 200."""
    assert rows["large only"].accuracy >= 0.96
    assert rows["small only"].accuracy <= 0.70
    assert rows["GlimpRouter"].accuracy >= rows["large only"].accuracy - 0.025
    assert rows["GlimpRouter"].large_token_share <= 0.35


@pytest.mark.slow
@pytest.mark.xdist_group("demo")
def test_the_same_share_of_steps_at_random_is_not(rows):
    assert rows["random"].large_step_share == pytest.approx(rows["GlimpRouter"].large_step_share, abs=0.03)
    assert rows["random"].accuracy <= rows["GlimpRouter"].accuracy - 0.2


def test_the_demo_shows_steps_and_the_table(capsys):
    assert main(["demo", "--problems", "8"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("how far is ") == 5
    assert "small " in shown
    assert "large " in shown
    for router in ("small only", "large only", "GlimpRouter", "random"):
        assert router in shown


def test_no_problem_is_in_two_splits(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from problems import SPLITS, RoadMap

    for path, split in ((TEST, "test"), (VALIDATION, "validation")):
        questions = [line["problem"] for line in lines(path)]
        assert len(set(questions)) == len(questions)
        assert {int(sha256(question.encode()).hexdigest(), 16) % 10 for question in questions} == {SPLITS[split]}
    roads = RoadMap()
    training = roads.draw_split("train", "a seed")
    drawn = [next(training) for _ in range(2000)]
    assert {int(sha256(problem.question.encode()).hexdigest(), 16) % 10 for problem in drawn} == set(range(2, 10))
    for line in lines(TEST)[:50]:
        trip = line["problem"].removeprefix("how far is ").removesuffix("?").split(" to ")
        assert roads.problem(trip).answer == line["answer"]
    sys.modules.pop("problems")


def test_the_threshold_was_chosen_on_the_validation_problems():
    made = json.loads(ROUTING.read_text())
    assert made["measured_on"].endswith("validation.jsonl")
    assert made["num_problems"] == len(lines(VALIDATION)) == 500
    assert len(lines(TEST)) == 1000


def test_both_models_are_small():
    sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in (SMALL, LARGE)]
    assert sum(sizes) < 24e6
