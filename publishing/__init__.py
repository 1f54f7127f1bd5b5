"""What goes to the Hub: put together, searched for secrets, tried, described by a card, uploaded."""

from .publish import Plan, publish

__all__ = ["Plan", "publish"]
