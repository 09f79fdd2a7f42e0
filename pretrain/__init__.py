"""Large-batch pretraining of BERT-style encoders under DeepSpeed or FSDP, from one config."""

__version__ = "0.1.0"
