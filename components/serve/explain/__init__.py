"""What moved a prediction by how much."""
