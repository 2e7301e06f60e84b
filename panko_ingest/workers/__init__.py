"""The processes of the daemon: the master, and what it runs, one module each."""
