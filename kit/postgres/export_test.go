package postgres

// SweepOfInbox is the statement that removes old rows of the inbox.
func SweepOfInbox() string { return sweep{"inbox", "received_at", heldBySaga, 0}.statement() }
