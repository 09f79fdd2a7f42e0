"""The floors of the house, and the rules of its imports and sizes, read from source text with `ast`.

`problems(name, source)` gives one sentence for each broken rule; `name` is the module's dotted name.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 60

# A module belongs to the longest prefix that names it.
FLOORS = MappingProxyType(
    {
        "pretrain": 0,
        "pretrain.compiled": 0,
        "pretrain.cores": 0,
        "pretrain.disk": 0,
        "pretrain.errors": 0,
        "pretrain.extensions": 0,
        "pretrain.files": 0,
        "pretrain.garbage": 0,
        "pretrain.heap": 0,
        "pretrain.config": 0,
        "pretrain.comm": 0,
        "pretrain.kernels": 0,
        "pretrain.lock": 0,
        "pretrain.placement": 0,
        "pretrain.rng": 0,
        "pretrain.run_folder": 0,
        "pretrain.said": 0,
        "pretrain.secrets": 0,
        "pretrain.sharding": 0,
        "pretrain.signals": 0,
        "pretrain.transfer": 0,
        "pretrain.watch": 0,
        "pretrain.data": 1,
        "pretrain.metrics": 1,
        "pretrain.model": 1,
        "pretrain.optim": 1,
        "pretrain.run_arguments": 1,
        "pretrain.backends": 2,
        "pretrain.checkpoint": 3,
        "pretrain.diagnosis": 3,
        "pretrain.evaluate": 3,
        "pretrain.noise": 3,
        "pretrain.timing": 3,
        "pretrain.ending": 4,
        "pretrain.events": 4,
        "pretrain.loop": 4,
        "pretrain.pace": 4,
        "pretrain.recording": 4,
        "pretrain.report": 4,
        "pretrain.resume": 4,
        "pretrain.build": 5,
        "pretrain.opening": 6,
        "pretrain.doctor": 6,
        "pretrain.plan": 6,
        "pretrain.run": 6,
        "pretrain.faults": 6,
        "pretrain.command": 6,
        "pretrain.__main__": 6,
        "data_prep": 6,
        "launch": 6,
    }
)
# Below the floor that may import them all, rooms of one floor do not know each other.
SEPARATE_FLOORS = frozenset({1, 3})
DATA_PREP_MAY_IMPORT = (
    *("pretrain.compiled", "pretrain.data.store", "pretrain.errors", "pretrain.garbage"),
    *("pretrain.rng", "pretrain.signals"),
)
# `inspect` shows samples as training makes them, by the same functions; none of these modules imports torch, which
# `build` would otherwise load in vain.
INSPECTION = "data_prep.inspection"
INSPECTION_MAY_IMPORT = tuple(
    f"pretrain.data.{each}" for each in ("mask", "options", "order", "pack", "plan", "rows", "windows")
)
LAUNCH_MAY_IMPORT_DATA_PREP = ("data_prep.demo",)
ENGINES = ("deepspeed", "torch.distributed.fsdp")
ENGINE_ROOM = "pretrain.backends"
READS_ENVIRONMENT = "pretrain.comm"
# The lazy choice of the backend, and of Triton's kernels, which not every installation has: they alone import inside.
MAY_IMPORT_INSIDE = (
    ("pretrain.build", "build_backend"),
    ("pretrain.optim.passes", "passes_for"),
    ("pretrain.sharding", "squared_norms"),
)

_MUTABLE_CALLS = frozenset(
    {"bytearray", "defaultdict", "deque", "dict", "list", "set", "Counter", "OrderedDict"}
)
_MUTABLE_NODES = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, path) of every Python file of the house."""
    for folder in ("pretrain", "data_prep", "launch"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def room_of(module: str) -> str | None:
    """The entry of `FLOORS` a module belongs to; None where somebody must still assign a floor."""
    parts = module.split(".")
    if parts[0] in ("data_prep", "launch"):
        return parts[0]
    room = ".".join(parts[:2])
    return room if room in FLOORS else None


def problems(name: str, source: str) -> list[str]:
    """One sentence for each rule that the module `name` breaks."""
    tree = ast.parse(source)
    if room_of(name) is None:
        return [f"{name} has no floor: add it to FLOORS in tests/floors.py (see CONTRIBUTING.md)."]
    found = [f"{name} imports {each}: {reason}." for each, reason in _wrong_imports(name, tree)]
    found += _inner_imports(name, tree)
    found += _type_checking(name, tree)
    found += _environment_reads(name, tree)
    found += _module_state(name, tree)
    found += _sizes(name, tree, source)
    return found


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*name.split(".")[: -node.level], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _is_within(module: str, *packages: str) -> bool:
    return any(module == each or module.startswith(each + ".") for each in packages)


def _wrong_imports(name: str, tree: ast.AST) -> Iterator[tuple[str, str]]:
    room = room_of(name) or ""
    for imported in imports(name, tree):
        if _is_within(imported, *ENGINES) and room != ENGINE_ROOM:
            yield imported, f"only {ENGINE_ROOM} knows the engines"
        if not _is_within(imported, "pretrain", "data_prep", "launch", "tests"):
            continue
        if _is_within(imported, "tests", "launch"):
            yield imported, "nothing imports launch or tests"
            continue
        other = room_of(imported)
        if (
            other is None
        ):  # `from pretrain import __version__`, or a module without a floor, which says so itself
            other = "pretrain"
        if other == room:
            continue
        if room == "data_prep":
            allowed = DATA_PREP_MAY_IMPORT + (INSPECTION_MAY_IMPORT if _is_within(name, INSPECTION) else ())
            if not _is_within(imported, *allowed):
                yield imported, f"{name} may import only {', '.join(allowed)}"
        elif other == "data_prep":
            if room != "launch" or not _is_within(imported, *LAUNCH_MAY_IMPORT_DATA_PREP):
                yield (
                    imported,
                    "training knows the token store, not data_prep; launch may import data_prep.demo",
                )
        elif FLOORS[other] > FLOORS[room]:
            yield imported, f"floor {FLOORS[other]} lies above floor {FLOORS[room]}"
        elif FLOORS[other] == FLOORS[room] and FLOORS[room] in SEPARATE_FLOORS:
            yield imported, f"siblings on floor {FLOORS[room]} do not import each other"


def _inner_imports(name: str, tree: ast.AST) -> Iterator[str]:
    for function in _functions(tree):
        if (name, function.name) in MAY_IMPORT_INSIDE:
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                places = ", ".join(f"{module}.{inside}()" for module, inside in MAY_IMPORT_INSIDE)
                yield f"{name}:{node.lineno} imports inside {function.name}(); only {places} may."


def _type_checking(name: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if "TYPE_CHECKING" in (getattr(node, "id", None), getattr(node, "attr", None)):
            yield f"{name}:{getattr(node, 'lineno', 0)} uses TYPE_CHECKING: an import must be real."


def _environment_reads(name: str, tree: ast.AST) -> Iterator[str]:
    if name == READS_ENVIRONMENT:
        return
    reads = ("environ", "environb", "getenv")
    # What a process sets for itself and its children is no input.
    set_here = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found = node.attr in reads and id(node) not in set_here
        elif isinstance(node, ast.ImportFrom):
            found = node.module == "os" and any(alias.name in reads for alias in node.names)
        else:
            continue
        if found:
            yield f"{name}:{node.lineno} reads environment variables; only {READS_ENVIRONMENT} does."


def _module_state(name: str, tree: ast.Module) -> Iterator[str]:
    """Mutable containers bound at module level to names that are no constants, and `global`."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not _is_mutable(value):
            continue
        for target in targets:
            if isinstance(target, ast.Name) and not target.id.isupper() and not target.id.startswith("__"):
                yield f"{name}:{node.lineno} keeps mutable state in {target.id}: pass it on instead."
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Global):
            yield f"{name}:{inner.lineno} rebinds a module-level name with `global`."


def _is_mutable(value: ast.AST | None) -> bool:
    if isinstance(value, ast.Call):
        called = value.func
        return (getattr(called, "id", None) or getattr(called, "attr", None)) in _MUTABLE_CALLS
    return isinstance(value, _MUTABLE_NODES)


def _sizes(name: str, tree: ast.AST, source: str) -> Iterator[str]:
    num_lines = len(source.splitlines())
    if num_lines > MAX_FILE_LINES:
        yield f"{name} has {num_lines} lines, over {MAX_FILE_LINES}: split it by what it knows."
    for function in _functions(tree):
        num_lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if num_lines > MAX_FUNCTION_LINES:
            place = f"{name}:{function.lineno} {function.name}()"
            yield f"{place} has {num_lines} lines, over {MAX_FUNCTION_LINES}: name its parts."


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
