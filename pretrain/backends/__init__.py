"""DeepSpeed and FSDP behind one protocol; the only place that imports either."""
