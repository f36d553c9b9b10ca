"""What made the demo that a release ships."""
