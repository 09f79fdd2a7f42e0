"""Whether what lies there, finished or not, is what a build's options and input would make."""

from pathlib import Path
from typing import Any

from data_prep.options import BuildOptions
from data_prep.report import tokenizer_section
from data_prep.sources.files import find_files
from data_prep.tokenizer import load_tokenizer
from pretrain.data.store import TokenStore


def difference_to_finished(options: BuildOptions, output: Path, report: dict[str, Any]) -> str | None:
    """What made the finished store that these options would not; None if nothing did."""
    store = TokenStore.open(output)
    before = report.get("options", {})
    for name, value in options.as_dict().items():
        if before.get(name) != value:
            return f"with {name} = {before.get(name)!r}, now it is {value!r}"
    if options.input.paths:
        files = find_files(options.input.paths, options.input.format)
        if report.get("input", {}).get("digest") != files.digest():
            return "from other or older files"
    changed = changed_tokenizer(options, store.manifest.tokenizer_sha256, report.get("tokenizer", {}))
    return None if changed is None else f"with {changed}"


def changed_tokenizer(options: BuildOptions, sha256: str, section: dict[str, Any]) -> str | None:
    """What is different where --tokenizer names another one than that of this checksum and section of the report."""
    if options.tokenizer.path is None:
        return None
    tokenizer = load_tokenizer(Path(options.tokenizer.path))
    now = tokenizer_section(tokenizer)
    roles = ("vocab_size", "special_ids", "all_special_ids")
    if tokenizer.sha256 == sha256 and all(section.get(name) == now[name] for name in roles):
        return None
    return f"another tokenizer than the one that lies at {options.tokenizer.path} now"
