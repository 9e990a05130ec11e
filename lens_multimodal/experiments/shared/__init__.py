"""What experiments share: the state of one picture, its nouns, statistics over pictures, and summaries as data."""
