"""What stands behind app.py: the answers, the words, the look and the browser's side of the page."""
