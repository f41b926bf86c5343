"""The page and its models on the Hub: what a Space holds, its rehearsal, the one commit."""
