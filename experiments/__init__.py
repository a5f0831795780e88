"""Experiments: the scripts behind the figures; `python -m experiments --list` names them."""
