"""Files: text that is whole at any time, and what nobody trusts, read without executing it."""
