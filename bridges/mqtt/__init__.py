"""The MQTT side: the broker that devices connect to, and the bridge behind it."""
