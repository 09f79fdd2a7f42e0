"""What a run says when it begins."""

from pretrain import build
from pretrain.backends.base import Backend, EngineOptions
from pretrain.build import Request
from pretrain.data.corpus import Corpus
from pretrain.metrics import Terminal


def say_what(
    terminal: Terminal, request: Request, engine: EngineOptions, backend: Backend, corpus: Corpus
) -> None:
    """One line about what begins; then stages of the batch, the shares of a blend, keys without a counterpart."""
    numels = [sum(info.numel for info in part.parameters) for part in backend.layout.with_frozen()]
    frozen = f", {numels[1]:,} of them frozen" if len(numels) > 1 else ""
    terminal.say(
        f"{request.backend} stage {engine.config.stage}, {engine.precision}, {engine.world_size} rank(s) on "
        f"{request.device.type}; {sum(numels):,} parameters{frozen}; global batch of {engine.micro_batch} x "
        f"{engine.world_size} ranks x {engine.accumulation} rows; output {request.output}"
    )
    if (earlier := request.config.kept) is not None:
        terminal.say(
            f"  the global batch of {earlier.global_batch} rows stays: {earlier.ranks} rank(s) cut it into "
            f"micro-batches of {earlier.micro_batch}"
        )
    for steps, rows in request.config.recipe.train.batch_stages:
        terminal.say(f"  before that: {steps} steps of {rows} rows")
    if corpus.is_blend:
        _say_blend(terminal, request, corpus)
    if request.backend == "fsdp" and request.config.unused_hints():
        terminal.say(f"  no counterpart in FSDP: {', '.join(request.config.unused_hints())}")


def _say_blend(terminal: Terminal, request: Request, corpus: Corpus) -> None:
    """The shares of the stores, and which of them validation leaves out."""
    shares = zip(corpus.names, corpus.weights, strict=True)
    parts = [f"{weight / sum(corpus.weights):.2%} from {name}" for name, weight in shares]
    terminal.say(f"  rows: {', '.join(parts)}")
    scored, _, _ = build.heldout_stores(corpus, request.config.recipe.data.objective)
    for name in corpus.names:
        if scored and name not in scored:
            terminal.say(f"  warning: {name} has too little held-out text: validation leaves it out")
