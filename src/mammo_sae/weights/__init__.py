"""Reading weights from files that others wrote, without running anything of theirs."""
