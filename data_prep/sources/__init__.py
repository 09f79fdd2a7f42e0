"""Documents from files and from the demo corpus: one generator per kind of source.

`files` finds the input files and decides their format; `text` and `jsonl` read one file each; `corpus` chains
them and takes the bounded sample a tokenizer is trained on; `demo` collects the documentation of installed
packages.
"""
