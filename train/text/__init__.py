"""A name or a file -> clean stories -> encoded symbols on disk."""
