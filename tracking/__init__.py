"""Where results are kept and compared: the ledger, MLflow, and the rows read back from them."""
