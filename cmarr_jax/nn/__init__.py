"""The blocks that systems share. Arrays are `[B, T, D]`; `mask` is `[B, T]`, False = padding.

A block is stochastic exactly when it is applied with an rng named "dropout".
"""
