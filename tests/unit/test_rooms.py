"""The package's rooms: who may import whom, what is pure, how long a file may be, and what the public names are."""

import ast
from pathlib import Path

import pytest

import glimp_engine

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "glimp_engine"
# From the top down. An import goes to the same floor or down, never up.
FLOORS = (
    ("cli", "evaluation", "serving", "demo_pair"),
    ("engine", "decoding_loop", "delivery", "guard", "load", "config", "meter"),
    ("execution",),
    ("models",),
    ("sequences",),
    ("text",),
    ("checkpoints",),
    ("outputs", "sampling", "speculation"),
    ("routing",),
    ("kernels",),
    ("errors",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PURE = ("sequences", "routing", "outputs", "sampling", "speculation", "errors")
# Rooms that give others only what their __init__.py says.
CLOSED = ("execution", "models", "sequences", "text", "checkpoints", "routing")
MAX_LINES = 400
FILES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
PUBLIC = """CapacityError CheckpointError CompletionOutput ConfigError Draft Engine EngineError Event Finish
    FinishReason GlimpError GlimpRouter Glimpse LargeOnly LateRouter LoadedModel Logprob Model NumberEntropyRouter Phase
    Proposer RandomRouter RequestError RequestOutput RouteContext Router RoutingParams SamplingParams SmallOnly
    SpecReason Speculation Stats Step StepEnd StepEntropyRouter StepPerplexityRouter StepStart StructuredOutputs Token
    Verdict""".split()


def room_of(path):
    """The room that a file lies in, or the file itself on the floor of the engine and the lowest one."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "kernels" if parts[0] == "kernels" else parts[1]


def imports_of(path):
    """(module, names) of each import in the file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)


def inner_imports(path):
    for module, names in imports_of(path):
        if module == "glimp_engine":
            yield from ((name, [name], []) for name in names)
        elif module.startswith("glimp_engine."):
            parts = module.split(".")[1:]
            yield parts[0], parts, names


def by_path(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [f for f in FILES if f != PACKAGE / "__init__.py"], ids=by_path)
def test_an_import_goes_down_and_through_the_door(path):
    here = room_of(path)
    for room, parts, names in inner_imports(path):
        assert room in FLOOR_OF, f"{path} imports {room}, which is on no floor"
        assert FLOOR_OF[here] <= FLOOR_OF[room], f"{path} imports {room}, which lies above it"
        if room != here and room in CLOSED:
            assert len(parts) == 1, f"{path} imports {'.'.join(parts)}; allowed: what {room}/__init__.py gives"
            given = ast.literal_eval(exports_of(PACKAGE / room / "__init__.py"))
            assert set(names) <= set(given), f"{path} takes {set(names) - set(given)} from {room}"


def exports_of(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return node.value
    raise AssertionError(f"{path} has no __all__")


@pytest.mark.parametrize("room", CLOSED)
def test_a_room_gives_only_what_somebody_takes(room):
    given = set(ast.literal_eval(exports_of(PACKAGE / room / "__init__.py")))
    taken = {
        name
        for path in FILES
        if room_of(path) != room or path == PACKAGE / "__init__.py"
        for into, _, names in inner_imports(path)
        if into == room
        for name in names
    }
    assert given == taken


@pytest.mark.parametrize("path", [f for f in FILES if room_of(f) in PURE], ids=by_path)
def test_the_pure_rooms_import_no_torch(path):
    assert not {module.split(".")[0] for module, _ in imports_of(path)} & {"torch", "triton", "numpy", "transformers"}


@pytest.mark.parametrize("path", FILES, ids=by_path)
def test_a_file_is_not_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_public_names():
    assert sorted(glimp_engine.__all__) == PUBLIC
    assert all(hasattr(glimp_engine, name) for name in PUBLIC)
