"""Files: text that is whole at any time, and untrusted files that are read without executing
them."""
