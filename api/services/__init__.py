"""What routes ask for: rules between HTTP and the store."""
