"""Text in, a token store out, once and offline.

The way of the data:

    files or installed documentation
      -> sources     documents, one after another, in a fixed order
      -> build       batches of documents, handed to worker processes
      -> sentences   each document's sentences
      -> encode      token ids, word starts, the document's hash
      -> heldout     which split a document belongs to, by its hash
      -> the token store (`pretrain.data.store`), in the order in which the documents came

The same input and options give the same bytes whatever the number of workers.
"""
