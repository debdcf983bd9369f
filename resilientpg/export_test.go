package resilientpg

// SweepStatement is what finds the records that are due.
func (s *Store) SweepStatement() string { return s.sql.sweep }
