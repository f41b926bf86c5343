"""Everything that makes a storyteller; the page never imports it."""
