"""What is minimised: errors on data, residuals of an equation, their weights and points."""
