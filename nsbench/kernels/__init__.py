"""The ground floor: scores of queries against rows of a large table, compiled for a CPU, plain torch elsewhere."""
