"""Look inside a trained model: what reads through the `record` hook and changes nothing."""
