"""The demo corpus: the documentation that comes with Python and its installed packages; nothing is
downloaded.

1. the language reference (`pydoc_data.topics`), then the modules of the standard library, then those of
   site-packages, each by sorted relative path: the order does not depend on where Python is installed;
2. the docstrings of a module, its classes and functions are read from its syntax tree; nothing is imported;
3. each is cleaned to prose: examples, code blocks, underlines and directives go, wrapped lines stay together;
4. passages that came before, letter for letter, are dropped (many packages carry copies of the same text);
5. the passages of one module are one document, so that its sentences follow each other naturally.
"""

import ast
import hashlib
import inspect
import itertools
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

from data_prep.documents import Intake
from data_prep.progress import Progress
from data_prep.sources.listed import Document, ListedCorpus
from data_prep.workers import Workers
from pretrain.errors import DataError

MIN_PASSAGE_WORDS = 6
MIN_DOCUMENT_WORDS = 20

_FILES_PER_TASK = 32
# Tests say little in prose, vendored packages are copies.
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "testing", "_vendor", "__pycache__", "site-packages", "dist-packages", "lib2to3"}
)
_BULLET = re.compile(r"\s*(?:[-*+•]|\d+[.)])\s+")
_DIRECTIVE = re.compile(r"\s*\.\. ")
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`~?([^`<>]+?)(?:\s*<[^>`]*>)?`")


@dataclass(frozen=True)
class Module:
    """One module's name in the corpus and its cleaned passages, in the order of the source."""

    origin: str
    passages: tuple[str, ...]


@dataclass(frozen=True)
class SourceFile:
    root: Path
    relative: str
    origin: str


def collect_demo(workers: Workers, progress: Progress, limit_bytes: int) -> ListedCorpus:
    """The first `limit_bytes` of the corpus; raises DataError where Python has no readable documentation."""
    files = list(_python_files())
    tasks = [tuple(files[i : i + _FILES_PER_TASK]) for i in range(0, len(files), _FILES_PER_TASK)]
    progress.start("reading documentation", "files", len(files))
    intake = Intake()
    documents: list[Document] = []
    size = 0
    results = workers.map_in_order(read_modules, tasks, _task_name)
    for document in _distinct(itertools.chain(_language_reference(), _told(results, progress)), intake):
        documents.append(document)
        size += len(document.text)
        if size >= limit_bytes:
            break
    progress.stop()
    if not documents:
        raise DataError("This Python has no documentation to build the demo corpus from; give --input PATH.")
    return ListedCorpus(tuple(documents), intake, "the demo corpus")


def _task_name(files: tuple[SourceFile, ...]) -> str:
    return f"{files[0].root / files[0].relative} and the {len(files) - 1} files after it"


def read_modules(files: tuple[SourceFile, ...]) -> list[Module]:
    """The modules that have passages; files that cannot be read or parsed have none."""
    modules: list[Module] = []
    for file in files:
        try:
            passages = passages_of((file.root / file.relative).read_bytes())
        except OSError:
            continue
        if passages:
            modules.append(Module(f"{file.origin}/{file.relative}", tuple(passages)))
    return modules


def passages_of(source: bytes) -> list[str]:
    """Cleaned docstrings of a module's source, those too short to say anything left out."""
    if b'"""' not in source and b"'''" not in source:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return []
    cleaned = (prose(text) for text in _docstrings(tree))
    return [text for text in cleaned if len(text.split()) >= MIN_PASSAGE_WORDS]


def prose(docstring: str) -> str:
    """Paragraphs separated by blank lines; a paragraph's lines stay as they were wrapped."""
    paragraphs: list[list[str]] = [[]]
    indentation = 0
    for line in _without_code(inspect.cleandoc(docstring).split("\n")):
        if not any(map(str.isalnum, line)) or _DIRECTIVE.match(line):
            paragraphs.append([])  # an underline or a blank line ends a paragraph
            continue
        bullet = _BULLET.match(line)
        starts_at = bullet.end() if bullet else _indentation(line)
        if bullet or starts_at != indentation:
            paragraphs.append([])
        indentation = starts_at
        paragraphs[-1].append(line[starts_at:])
    text = "\n\n".join("\n".join(lines) for lines in paragraphs if lines)
    return _ROLE.sub(r"\1", text).replace("``", "").replace("`", "").strip()


def _without_code(lines: list[str]) -> Iterator[str]:
    """Without interpreter examples, fenced blocks, and indented blocks announced by "::"; each leaves a
    gap."""
    is_over: Callable[[str], bool] | None = None  # tells whether a line is the first after the code
    for line in lines:
        stripped = line.strip()
        if is_over is not None:
            if not is_over(line):
                continue
            is_over = None
            if stripped.startswith("```"):
                continue
        if stripped.startswith("```"):
            is_over = _is_fence
        elif stripped.startswith(">>>"):
            is_over = _is_blank
        elif stripped.endswith("::"):
            is_over = partial(_is_not_deeper, _indentation(line))
            yield line
        else:
            yield line
            continue
        yield ""


def _is_fence(line: str) -> bool:
    return line.strip().startswith("```")


def _is_blank(line: str) -> bool:
    return not line.strip()


def _is_not_deeper(indentation: int, line: str) -> bool:
    return not _is_blank(line) and _indentation(line) <= indentation


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Of the module, and of the classes and functions in its body, depth first."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text:
            # An escaped half of a surrogate pair has no UTF-8.
            yield text.encode(errors="replace").decode()
        for child in node.body:
            yield from _docstrings(child)


def _distinct(modules: Iterable[Module], intake: Intake) -> Iterator[Document]:
    """A document of each module's passages that no earlier module had."""
    seen: set[bytes] = set()
    for module in modules:
        new: list[str] = []
        for passage in module.passages:
            digest = hashlib.blake2b(passage.encode(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                new.append(passage)
        intake.duplicate_passages += len(module.passages) - len(new)
        text = "\n\n".join(new)
        if not new:
            intake.drop("duplicate")
        elif len(text.split()) < MIN_DOCUMENT_WORDS:
            intake.drop("too short")
        else:
            yield Document(module.origin, text)


def _told(results: Iterable[list[Module]], progress: Progress) -> Iterator[Module]:
    for modules in results:
        progress.advance(_FILES_PER_TASK)
        yield from modules


def _language_reference() -> Iterator[Module]:
    for name in sorted(topics):
        passages = (prose(paragraph) for paragraph in topics[name].split("\n\n\n"))
        kept = tuple(text for text in passages if len(text.split()) >= MIN_PASSAGE_WORDS)
        if kept:
            yield Module(f"language reference/{name}", kept)


def _python_files() -> Iterator[SourceFile]:
    roots = {"standard library": "stdlib", "site-packages": "purelib", "site-packages (binary)": "platlib"}
    seen: set[Path] = set()
    for origin, key in roots.items():
        root = Path(sysconfig.get_path(key)).resolve()
        if root in seen:
            continue
        seen.add(root)
        for relative in sorted(_relative_paths(root)):
            yield SourceFile(root, relative, origin)


def _relative_paths(root: Path) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _SKIPPED_FOLDERS and not name.startswith(".")]
        relative = Path(folder).relative_to(root)
        yield from ((relative / name).as_posix() for name in files if name.endswith(".py"))
