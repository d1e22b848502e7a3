"""How the search runs: space, Optuna studies, executors on Dask, and the race that joins them."""
