"""What a token store holds, for a reader's eyes or, as JSON, for a script.

1. blocks spread over the store, or all of them, are read one at a time: lengths, unknown tokens, hashes of the
   documents (`scan`, `distribution`, `duplicates`);
2. samples are planned and packed over some blocks, for each objective and two row lengths (`packing`);
3. the language of some decoded documents is guessed (`languages`);
4. the first rows of a run are made, and their samples decoded as the model will see them (`samples`, `reading`);
5. all of it becomes one dictionary of plain values (`figures`), which is printed (`printing`).

Time and memory are bounded whatever the store, but for `full`, whose time grows with the store. Nothing here
imports torch: it is loaded with the other commands.
"""

from data_prep.inspection.figures import inspect_store
from data_prep.inspection.options import InspectOptions
from data_prep.inspection.printing import print_store

__all__ = ["InspectOptions", "inspect_store", "print_store"]
