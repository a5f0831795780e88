"""Optimizers made by hand: a table of them, and their constants as meta-parameters.

`table.HANDMADE` has every name with its paper; `constants.learn_constants` makes a learned optimizer of any of them.
"""
