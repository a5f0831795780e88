"""Families: distributions of tasks that learners are meta-trained on."""
