"""The examples that show how the engine is embedded run, and are short."""

import asyncio
import importlib.util
from pathlib import Path

import httpx
import pytest
from serving.conftest import OPTIONS

from glimp_engine import Engine
from glimp_engine.demo_pair import LARGE, SMALL
from glimp_engine.serving import AsyncEngine

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["embed_asyncio", "embed_fastapi"])
def test_an_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) <= 40


def test_embedding_in_asyncio(capsys):
    asyncio.run(load("embed_asyncio").main())
    told = capsys.readouterr().out
    assert told.count(" -> ") == 3
    assert told.endswith("3 answers\n")


def test_embedding_in_fastapi():
    async def whole():
        async with AsyncEngine(Engine(SMALL, LARGE, **OPTIONS)) as engine:
            transport = httpx.ASGITransport(load("embed_fastapi").application(engine))
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                own = await client.get("/ask", params={"question": "how far is porto to metz?"})
                models = await client.get("/v1/models")
        return own.text, models.json()["data"][0]["id"]

    text, name = asyncio.run(whole())
    assert text.strip().endswith("km")
    assert name == "demo"
