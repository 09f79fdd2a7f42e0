"""Texts to token ids, as fast as the words in them can be looked up: see `documents` and `encoder`."""

from data_prep.encode.documents import EncodedDocuments, EncoderSettings, encode_documents

__all__ = ["EncodedDocuments", "EncoderSettings", "encode_documents"]
