"""Other libraries' conventions over `fit`: scikit-learn's estimators, Optuna's trials."""
