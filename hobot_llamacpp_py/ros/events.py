"""The events of subscriptions, wherever a release of rclpy has them."""

from __future__ import annotations

__all__ = ['SubscriptionEventCallbacks', 'UnsupportedEventTypeError']

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError
