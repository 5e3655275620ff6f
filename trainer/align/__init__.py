"""A head aligned with behaviour: what one user liked in one sitting gets vectors that lie near to each other."""
