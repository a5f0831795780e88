"""Reference learners, in which nothing is meta-learned."""
