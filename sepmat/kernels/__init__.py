"""Kernels: arrays in, arrays out. They know no class; each is a table of rows with one signature."""
