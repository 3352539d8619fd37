"""Reading an exported graph: small questions to its nodes, and shapes of one example."""
