"""One page of what went into a study, what failed and what was found."""
