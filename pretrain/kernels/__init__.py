"""Many arrays walked in few walks over memory, on the CPU and on GPUs.

kind           by what means: numba's loops, Triton's kernels, or torch's operations
blocks         arrays in the main memory, block by block, over threads
device_table   what kernels on a GPU read of slices
triton_norms   sums of squares on a GPU, and what kernels over slices share
"""
