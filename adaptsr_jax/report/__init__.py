"""One page on runs that are finished: did the adaptation help, by how much, and what does it look like."""
