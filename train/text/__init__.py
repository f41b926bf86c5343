"""Turns a corpus name or a file into clean stories, and those into encoded symbols on disk."""
