"""What doctor looks at: the installed packages and the machine."""
