"""Where products run, and how an unfinished computation is kept."""
