"""In-context learners on data sets that meta-training never met."""
