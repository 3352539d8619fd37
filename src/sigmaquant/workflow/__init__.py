"""From the user's model to a result and its files: what the command line and the public functions are made of."""
