"""Prompts to conditionings."""
