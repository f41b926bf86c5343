"""The parts of the page that app.py puts together: answers, texts, theme and browser scripts."""
