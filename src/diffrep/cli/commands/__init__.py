"""One module per command: it checks, calls the library, writes files and reports."""
