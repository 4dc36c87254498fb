"""Kernels for tensors, with a backward of their own. Imported by the rows that need them, when they meet a tensor.

Each is an operator of torch's library, so that autograd, torch.compile and vmap know it without looking inside.
"""
