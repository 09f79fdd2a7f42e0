"""Token stores from the indexed datasets of Megatron-LM, which hold token ids already.

1. an index file is opened, checked against its file of tokens and read in runs of whole documents (`indexed`);
2. each run is cleaned: markers at the ends of sequences go, special ids inside become unknown (`cleaning`);
3. documents are held out by the hash of their tokens and written, as in a build (`importing`).

The layout is that of `megatron/core/datasets/indexed_dataset.py` of NVIDIA's Megatron-LM (class `_IndexWriter`),
the content that of its `tools/preprocess_data.py`.
"""

from data_prep.megatron.importing import MegatronOptions, import_megatron

__all__ = ["MegatronOptions", "import_megatron"]
