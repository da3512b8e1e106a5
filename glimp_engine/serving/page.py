"""The page at `/`: page.html, which asks the same API as everybody and needs nothing from elsewhere."""

from pathlib import Path

from fastapi.responses import HTMLResponse, Response

from glimp_engine.routing import GlimpRouter, RoutingParams

__all__ = ["page_response"]

TEMPLATE = Path(__file__).with_suffix(".html")
PLACE = "{{threshold}}"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_response(routing: RoutingParams) -> Response:
    """The page, whose slider begins at this routing's threshold, or at the paper's where it has none in nats."""
    router = routing.router
    is_in_nats = isinstance(router, GlimpRouter) and router.signal == "entropy" and router.large_fraction is None
    threshold = router.threshold if isinstance(router, GlimpRouter) and is_in_nats else GlimpRouter().threshold
    return HTMLResponse(TEMPLATE.read_text("utf-8").replace(PLACE, f"{threshold:g}"), headers=HEADERS)
