"""What the rows of a study say: pure functions, without MLflow, Optuna or torch."""
