"""The native protocol's frames: `codec` turns bytes into messages and back, each other module declares an area's
messages (`declare` says how). Messages are imported from their area.
"""
