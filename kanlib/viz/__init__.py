"""Pictures of networks, in plotly; importing them changes no setting of plotly."""
