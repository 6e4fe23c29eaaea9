"""Being told: rules over statistics by minute, their episodes, and where word of them goes."""
