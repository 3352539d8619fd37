"""What is shown on a terminal: text that every encoding can show, tables that every width can show."""
