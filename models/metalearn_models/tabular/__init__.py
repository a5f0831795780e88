"""The scikit-learn face of in-context learners."""
