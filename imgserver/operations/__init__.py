"""What an operator does with a store and a server beside serving: check, back up, restore, compact."""
