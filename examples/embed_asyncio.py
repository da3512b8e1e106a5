"""Many questions at once from asyncio, each with its answer as it grows: `python examples/embed_asyncio.py`."""

import asyncio

from glimp_engine import Engine, GlimpRouter, RoutingParams, SamplingParams
from glimp_engine.demo_pair import LARGE, SMALL
from glimp_engine.serving import AsyncEngine

QUESTIONS = ("how far is porto to metz?", "how far is lyon to madrid to delft?", "how far is oslo to turin?")
GREEDY = SamplingParams(temperature=0)
ROUTING = RoutingParams(router=GlimpRouter(0.1))


async def answer(engine: AsyncEngine, question: str) -> str:
    """The answer, told step by step; a task that is cancelled ends its request."""
    text = ""
    async for delta in engine.stream([{"role": "user", "content": question}], GREEDY, ROUTING):
        for piece in delta.pieces:
            text += piece.text
            if piece.ends:
                print(f"{question:40} {piece.step.model!s:5} wrote step {piece.step.index}")
    return text


async def main() -> None:
    async with AsyncEngine(Engine(SMALL, LARGE)) as engine:
        answers = await asyncio.gather(*[answer(engine, question) for question in QUESTIONS])
        for question, text in zip(QUESTIONS, answers, strict=True):
            print(question, "->", text.strip().rpartition("\n")[2])
        print((await engine.stats()).num_finished, "answers")


if __name__ == "__main__":
    asyncio.run(main())
