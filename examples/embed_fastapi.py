"""The engine inside an application of one's own, beside OpenAI's API: `python examples/embed_fastapi.py`."""

from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from glimp_engine import Engine, SamplingParams
from glimp_engine.demo_pair import LARGE, SMALL
from glimp_engine.serving import AsyncEngine
from glimp_engine.serving.app import ServerOptions, make_app


def application(engine: AsyncEngine) -> FastAPI:
    """An application whose /ask is its own and whose /v1 is glimp_engine's."""
    app = FastAPI()

    @app.get("/ask")
    async def ask(question: str) -> StreamingResponse:
        async def text() -> AsyncIterator[str]:
            async for delta in engine.stream([{"role": "user", "content": question}], SamplingParams(temperature=0)):
                yield delta.text

        return StreamingResponse(text(), media_type="text/plain")

    app.mount("/", make_app(engine, ServerOptions(model_names=("demo",))))
    return app


if __name__ == "__main__":
    uvicorn.run(application(AsyncEngine(Engine(SMALL, LARGE))))
