"""The blocks that systems share. Arrays are `[B, T, D]`; `mask` is `[B, T]`, False = padding.

A block is random only when it is applied with an rng named "dropout".
"""
