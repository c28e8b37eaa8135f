"""A GPU that does nothing: torch finds it, gives it memory and starts kernels on it, and none of them runs.

So everything that Python, torch and Triton do around kernels is what they do on a GPU: where tensors lie, streams,
pinned memory, waits as torch itself warns of them, kernels compiled and started. Values are what was there before.
"""
