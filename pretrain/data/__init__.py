"""The way of the data: store -> plan -> order -> masking -> batches."""
