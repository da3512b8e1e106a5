"""One server over the demo pair for all tests that don't need one of their own."""

import json

import pytest
from serving.running import running

from glimp_engine import Engine, RoutingParams
from glimp_engine.demo_pair import LARGE, ROUTING, SMALL, TEST
from glimp_engine.load import load_router

OPTIONS = {"device": "cpu", "kv_cache_bytes": 64 << 20, "num_threads": 1}


@pytest.fixture(scope="session")
def questions():
    return [json.loads(line)["problem"] for line in TEST.read_text().splitlines()[:40]]


@pytest.fixture(scope="session")
def routing():
    return RoutingParams(router=load_router(ROUTING, SMALL, LARGE))


@pytest.fixture(scope="session")
def server(routing):
    with running(Engine(SMALL, LARGE, **OPTIONS), model_names=("demo", "alias"), routing=routing) as found:
        yield found


@pytest.fixture(scope="session")
def engine():
    """The same pair in process, to compare with."""
    return Engine(SMALL, LARGE, **OPTIONS)
