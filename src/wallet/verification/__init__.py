"""The proof of the books: every invariant held against one snapshot of the database; begin reading at verify.py."""
