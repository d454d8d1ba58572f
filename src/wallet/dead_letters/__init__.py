"""What an operator does about dead letters: list, show, replay, discard; begin reading at replay.py."""
