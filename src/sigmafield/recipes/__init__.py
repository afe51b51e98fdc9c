"""From a recipe to images."""
