"""The operator's actions on dead letters: list, show, replay, discard. Start reading at replay.py."""
