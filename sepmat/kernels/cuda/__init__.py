"""Kronecker products on CUDA devices: the kernel's source, its specialisations, the plan and the launcher. Imports no library."""
