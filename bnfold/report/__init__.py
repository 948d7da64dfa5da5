"""Values -> text and JSON. No logic here: what is shown was decided elsewhere."""
