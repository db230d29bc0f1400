"""The blocks that systems share. Arrays are `[B, T, D]`; `mask` is `[B, T]`, False = padding.

Parameters are float32. A block computes and returns its activations in its attribute `dtype`: in
bfloat16 its products, while sums that a number's digits matter for stay float32, as each says.

A block is random only when it is applied with an rng named "dropout".
"""
