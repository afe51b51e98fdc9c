"""What a network predicts, and which noise levels it knows."""
