"""What the hub tells other systems: measures to scrape or push, events to be called with."""
