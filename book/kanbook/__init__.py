"""What only the pages of the book need: the style of figures, explorers, the ledger."""
