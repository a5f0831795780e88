"""The weights that `InContextClassifier` ships with: how they are meta-trained, scored and written into the package."""
