"""What one does with a trained model: find it, sample from it, talk with it, merge its adapter."""
