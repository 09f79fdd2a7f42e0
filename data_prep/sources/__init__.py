"""From the input to documents: files, datasets of the Hugging Face Hub, and the demo corpus.

1. `files` finds the input files and decides their formats, `text_column` the column of the text, `segments` the
   units in which a build is shared out (`boundaries` says where documents begin);
2. the main process cuts a segment into chunks of about 1 MiB and does little else (`chunks` for text and JSON
   Lines, of the decompressed bytes that `content` gives; `rows` for CSV, Parquet, Arrow and `hub`);
3. a worker turns a chunk into texts (`reading`, `jsonl`).

`corpus` is the whole of it for files; `demo` collects the documentation of installed packages.
"""
