"""Learners that train a network online: by SGD or Adam, by a learned optimizer, by a learned loss."""
