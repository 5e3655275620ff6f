"""Why a model says what it says: contributions with names, reasons for people, and what would change them."""
