"""What several families of techniques share."""
