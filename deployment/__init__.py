"""What prepares a machine for the hub and starts it. Standard library only: it runs before any
dependency is installed, on whatever Python from 3.11 up the machine has.
"""
