"""Estimators for scikit-learn, whose conventions they follow (``pip install kanlib[sklearn]``)."""
