"""The paper's problems, one a module: data or PDE, loss, and what the error is measured against."""
