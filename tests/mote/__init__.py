"""What the end-to-end tests and the demo are made of: the appliance as a process, clients, packages, counts."""
