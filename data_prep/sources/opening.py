"""From the options to the corpus."""

from data_prep.options import InputOptions
from data_prep.progress import Progress
from data_prep.sources.corpus import Corpus, open_files
from data_prep.sources.delimited import DELIMITERS
from data_prep.sources.demo import collect_demo
from data_prep.sources.hub import open_hub
from data_prep.workers import Workers


def open_corpus(options: InputOptions, workers: Workers, progress: Progress) -> Corpus:
    """Files, a dataset of the Hugging Face Hub, or the demo corpus, which the workers help to collect."""
    if options.demo:
        return collect_demo(workers, progress, options.demo_bytes)
    if options.hub is not None:
        dataset = open_hub(options)
        progress.say(f"The text is that of the column {dataset.column!r}.")
        return dataset
    corpus = open_files(options)
    if corpus.inputs.ignored:
        left_out = ", ".join(f"{count} {suffix}" for suffix, count in corpus.inputs.ignored.items())
        progress.say(f"Files of a kind that is not read are left out: {left_out}.")
    if corpus.column is not None:
        progress.say(f"The text is that of the column {corpus.column!r}.")
    if corpus.delimiter is not None:
        progress.say(f"The columns of the CSV files are separated by {DELIMITERS[corpus.delimiter]}.")
    return corpus
