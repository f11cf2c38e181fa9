"""Where event files are, and their bytes, local or remote."""
