"""Stores: where teams, keys and quotas live. Values, callables and objects are accepted alike."""
