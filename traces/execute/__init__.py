"""Whole gated networks on the block-sparse kernels of `hwmodels.kernels`.

graph_reader reads a network into a Graph, fusion makes it smaller, assembly binds it to kernels once, running holds
what runs, and SparseNetwork is what `convert(model, gate, execute="sparse")` returns.
"""
