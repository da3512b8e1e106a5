"""Trips over roads whose lengths have to be remembered: problems, the thoughts that solve them, and answers.

There are 64 places, and a road between any two of them: 128 are well known, 1,888 rare. A problem names a trip; most of
its legs are on well-known roads. The thoughts name a leg, recall its length, and add that up: naming and adding is
routine, recalling a rare road's length is hard, as it can't be worked out.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations, pairwise

PLACES = (
    "athens baku berlin bern bonn brest cadiz cairo calais cork delft dover dublin essen evora florence geneva ghent "
    "graz hamburg helsinki istanbul jena kyiv lagos leeds leon lille linz lisbon london lucerne lund lyon madrid malmo "
    "metz milan minsk munich nantes naples nice odessa oslo oxford padua paris pisa porto prague reims riga rome "
    "seville sofia tours trieste turin vienna vilnius warsaw york zurich"
).split()
NUM_KNOWN_ROADS = 128
SHORTEST, LONGEST = 11, 99  # km: two digits, each first digit about as often as any other
NUM_LEGS = (2, 3, 4, 5)
KNOWN_SHARE = 0.8  # of the legs, where a problem is drawn as users would ask it
SPLITS = {"test": 0, "validation": 1}  # the hash of a problem modulo 10; all others are for training


@dataclass(frozen=True)
class Problem:
    question: str
    thoughts: tuple[str, ...]  # the steps
    answer: str
    num_rare: int  # legs on rare roads

    @property
    def split(self) -> str:
        """Where it belongs, by a hash of the question alone: so no problem is in two splits."""
        digit = int(sha256(self.question.encode()).hexdigest(), 16) % 10
        return next((name for name, number in SPLITS.items() if number == digit), "train")


class RoadMap:
    """The lengths of all roads, and which are well known; the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        generator = random.Random(seed)
        roads = list(combinations(PLACES, 2))
        self._length = {road: generator.randint(SHORTEST, LONGEST) for road in roads}
        self._known = set[tuple[str, str]]()
        while len(self._known) < NUM_KNOWN_ROADS:  # two rings, so that four well-known roads lead to each place
            ring = generator.sample(PLACES, len(PLACES))
            roads_of_ring = {road_of(*leg) for leg in [*pairwise(ring), (ring[-1], ring[0])]}
            self._known |= roads_of_ring if self._known.isdisjoint(roads_of_ring) else set()
        self._by_kind = {
            place: [
                [other for other in PLACES if other != place and (road_of(place, other) in self._known) == is_known]
                for is_known in (False, True)
            ]
            for place in PLACES
        }

    def length(self, start: str, end: str) -> int:
        """In km, the same in both directions."""
        return self._length[road_of(start, end)]

    def is_known(self, start: str, end: str) -> bool:
        return road_of(start, end) in self._known

    def draw(self, generator: random.Random, num_legs: int, known_share: float) -> Problem:
        """A trip whose legs are each on a well-known road with that probability."""
        trip = [generator.choice(PLACES)]
        for _ in range(num_legs):
            is_known = generator.random() < known_share
            trip.append(generator.choice(self._by_kind[trip[-1]][is_known]))
        return self.problem(trip)

    def problem(self, trip: list[str]) -> Problem:
        """The problem of a trip, its thoughts, and its answer."""
        thoughts, total = list[str](), 0
        for start, end in pairwise(trip):
            length = self.length(start, end)
            thoughts += [f"{start} to {end}", f"{length} km"]
            if total:
                thoughts.append(f"{total} + {length} = {total + length} km")
            total += length
        rare = sum(not self.is_known(*leg) for leg in pairwise(trip))
        return Problem(f"how far is {' to '.join(trip)}?", tuple(thoughts), f"{total} km", rare)

    def draw_split(
        self, split: str, seed: object, num_legs: tuple[int, ...] = NUM_LEGS, known_share: float = KNOWN_SHARE
    ) -> Iterator[Problem]:
        """Problems of one split, without end; those for validation and test are all different."""
        generator, seen = random.Random(f"{split}/{seed}"), set[str]()
        while True:
            problem = self.draw(generator, generator.choice(num_legs), known_share)
            if problem.split != split or problem.question in seen:
                continue
            if split != "train":
                seen.add(problem.question)
            yield problem


def road_of(start: str, end: str) -> tuple[str, str]:
    return min(start, end), max(start, end)
